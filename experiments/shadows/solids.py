"""The opening picture: four solids, the light that falls on them, and the shadows that are all a model ever sees."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from mpl_toolkits.mplot3d.art3d import Poly3DCollection
from scipy.spatial import ConvexHull

from pipeline.data.cave import FACTORS, SOLIDS, SUPPORTS, outline, render

__all__ = ["draw_solids"]

DARK, WALL, SHADOW = "#1b1a22", "#e9d9b8", "#2b2620"
COLORS = ("#4477aa", "#ee6677", "#ccbb44", "#66ccee")
DISTANCE = 0.7  # of the solid's centre from the wall, in widths of the wall
EXAMPLES = (
    # size, height, lean, roll, x, y, light
    (0.31, 1.3, 0.5, 0.5, -0.02, 0.0, -0.3),
    (0.31, 1.8, 0.7, -0.5, 0.03, 0.02, -0.15),
    (0.32, 1.5, 0.35, 0.3, 0.0, -0.03, -0.25),
    (0.32, 1.9, 0.5, -0.8, 0.0, 0.0, -0.2),
)


def surface(solid: int, size: float, height: float) -> np.ndarray:
    """Return points [n, 3] on the solid's surface, whose convex hull it is."""
    golden = np.pi * (3 - np.sqrt(5))
    rows = np.arange(1500)
    up = 1 - 2 * (rows + 0.5) / len(rows)
    across = np.sqrt(1 - up**2)
    directions = np.stack([across * np.cos(golden * rows), up, across * np.sin(golden * rows)], -1)
    support, radius = list(SUPPORTS.values())[solid]
    half = np.array([[size / radius(np.array(height))]])
    return np.unique(support(directions[None], half, half * height)[0].round(6), axis=0)


def placed(points: np.ndarray, factors: tuple[float, ...]) -> np.ndarray:
    """Lean, roll and move points in front of the wall, so that their shadow falls where `outline` says."""
    _, _, lean, roll, x, y, light = factors
    cos, sin = np.cos, np.sin
    tilt = np.array([[1, 0, 0], [0, cos(lean), -sin(lean)], [0, sin(lean), cos(lean)]])
    turn = np.array([[cos(roll), -sin(roll), 0], [sin(roll), cos(roll), 0], [0, 0, 1]])
    return points @ (turn @ tilt).T + np.array([x - DISTANCE * np.tan(light), y, DISTANCE])


def draw_scene(axes: Any, solid: int, factors: tuple[float, ...]) -> None:
    """Draw one solid before the wall with its shadow, and the light's rays."""
    points = placed(surface(solid, factors[0], factors[1]), factors)
    hull = ConvexHull(points)
    outward = np.array([equation[:3] for equation in hull.equations])
    sun = np.array([np.sin(factors[-1]), 0.35, -np.cos(factors[-1])])
    bright = 0.35 + 0.65 * np.clip(outward @ (-sun / np.linalg.norm(sun)) * 0.5 + 0.5, 0, 1)
    colors = bright[:, None] * np.array(to_rgb(COLORS[solid]))

    def scene(array: np.ndarray) -> np.ndarray:
        return array[..., [0, 2, 1]] * np.array([-1, 1, 1])  # to the left, away from the wall, up

    wall = np.array([[-0.5, -0.5, 0], [0.5, -0.5, 0], [0.5, 0.5, 0], [-0.5, 0.5, 0]])
    shadow = np.column_stack([outline(np.array([[solid, *factors]]))[0], np.full(192, 0.004)])
    rays = placed(np.zeros((1, 3)), factors)[0]
    axes.add_collection3d(Poly3DCollection([scene(wall)], facecolor=WALL, edgecolor="none", zorder=0))
    axes.add_collection3d(Poly3DCollection([scene(shadow)], facecolor=SHADOW, edgecolor="none", zorder=1))
    for shift in (-0.16, 0.0, 0.16):
        end = np.array([factors[4], factors[5] + shift, 0.0])
        start = rays + np.array([0, shift, 0]) + 0.62 * (rays + np.array([0, shift, 0]) - end)
        line = scene(np.stack([start, end]))
        axes.plot(*line.T, color="#ffd97a", lw=0.9, alpha=0.55, zorder=2)
    axes.add_collection3d(
        Poly3DCollection(scene(points[hull.simplices]), facecolor=colors, edgecolor=colors, lw=0.3, zorder=3)
    )
    axes.set(xlim=(-0.62, 0.62), ylim=(-0.05, 1.15), zlim=(-0.55, 0.55))
    axes.set_box_aspect((1.24, 1.2, 1.1), zoom=1.16)
    axes.view_init(elev=12, azim=62)
    axes.set_axis_off()


def draw_solids(path: Path) -> None:
    """Write the picture: above, each solid in the light; below, its shadow in 28 x 28 pixels."""
    figure = Figure(figsize=(10, 3.6), facecolor=DARK)
    rows = np.array([[number, *factors] for number, factors in enumerate(EXAMPLES)])
    pixels = render(rows, 28, grey=False).reshape(-1, 28, 28)
    assert rows.shape[1] == len(FACTORS)
    for number, factors in enumerate(EXAMPLES):
        scene = figure.add_axes((0.25 * number - 0.02, 0.2, 0.29, 0.95), projection="3d", computed_zorder=False)
        scene.patch.set_alpha(0)
        draw_scene(scene, number, factors)
        image = figure.add_axes((0.25 * number + 0.06, 0.09, 0.115, 0.32))
        image.imshow(1 - pixels[number], cmap="gray", vmin=0, vmax=1)
        image.set_axis_off()
        figure.text(0.25 * number + 0.1175, 0.025, SOLIDS[number], color=WALL, ha="center", fontsize=10)
    figure.savefig(path, dpi=110, facecolor=DARK)
