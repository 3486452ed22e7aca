"""Plato's cave as a data set: shadows of solids, cast on a wall by parallel light.

The wall is the square |x|, |y| <= 1/2 of the plane z = 0; lengths are fractions of its width, angles radians. A solid
with its axis along y is leaned toward the viewer by R_x(lean), then rolled along the wall by R_z(roll). Light that
travels in the direction (sin a, 0, -cos a) takes a point p to the wall by the linear map

    P p = (p_x + p_z tan a, p_y),

whose largest singular value is 1 / cos a. `size` is the radius of the sphere about the solid's centre that holds it,
so that a shadow lies within size / cos a of its position; over the ranges of `FACTORS` that is at most
0.125 + 0.32 / cos(pi/6) < 1/2, and every shadow lies inside the image.

The shadow of a convex solid is convex: it is the hull of the support points P R s(R'P'u), s(v) being the solid's
point that lies farthest along v, over directions u around the circle. Taken in turn they are the corners of a convex
polygon inside the shadow; it misses less than 0.1% of the area as a rule, and up to 1.3% where a corner of the solid is
so blunt that it lies farthest in none of the directions.

Rows of an image go down the wall. Shadow is ink: a covered pixel has the high value. Grey pixels hold the share of
their area that is covered, 0..255; binary ones are 1 where their centre is covered.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipeline.progress import track_progress

__all__ = ["FACTORS", "SOLIDS", "draw", "render"]

Array = np.ndarray

DIRECTIONS = 192  # around the circle
SUBROWS = 8  # of a grey pixel; across, its coverage is exact
BATCH = 64  # images scanned at once, few enough for the processor's cache
SPIN = np.pi / 6  # of the box about its axis: seen on an edge, it is no rectangle
STREAM = 4  # of the random numbers; 0 to 3 are those of the splits

FACTORS: dict[str, tuple[float, float]] = {
    "solid": (0, 4),  # number in SOLIDS
    "size": (0.22, 0.32),  # radius of the sphere around the solid, widths of the wall
    "height": (1, 2),  # length along the axis over width across it
    "lean": (0.2, np.pi / 3),  # of the axis out of the wall's plane, radians
    "roll": (-np.pi / 3, np.pi / 3),  # of the axis along the wall, radians
    "x": (-0.125, 0.125),  # of the centre's shadow to the right, widths of the wall
    "y": (-0.125, 0.125),  # of the centre's shadow upward, widths of the wall
    "light": (-np.pi / 6, np.pi / 6),  # of the light to the wall's normal, radians
}


def _box(v: Array, a: Array, b: Array) -> Array:
    cos, sin = np.cos(SPIN), np.sin(SPIN)
    p = np.where(cos * v[..., 0] + sin * v[..., 2] >= 0, a, -a)
    q = np.where(cos * v[..., 2] - sin * v[..., 0] >= 0, a, -a)
    return np.stack([cos * p - sin * q, np.where(v[..., 1] >= 0, b, -b), sin * p + cos * q], -1)


def _rim(v: Array, a: Array) -> tuple[Array, Array, Array]:
    length = np.hypot(v[..., 0], v[..., 2])
    safe = np.maximum(length, 1e-300)
    return a * v[..., 0] / safe, a * v[..., 2] / safe, length


def _cylinder(v: Array, a: Array, b: Array) -> Array:
    x, z, _ = _rim(v, a)
    return np.stack([x, np.where(v[..., 1] >= 0, b, -b), z], -1)


def _cone(v: Array, a: Array, b: Array) -> Array:
    x, z, length = _rim(v, a)
    apex = 2 * b * v[..., 1] >= a * length
    return np.stack([np.where(apex, 0, x), np.where(apex, b, -b), np.where(apex, 0, z)], -1)


def _ellipsoid(v: Array, a: Array, b: Array) -> Array:
    half = np.stack(np.broadcast_arrays(a, b, a), -1)
    stretched = half * v
    point: Array = half * stretched / np.maximum(np.linalg.norm(stretched, axis=-1, keepdims=True), 1e-300)
    return point


# Each solid's support point for directions v [n, K, 3], given its half-width a and half-length b [n, 1]; and the
# radius of the sphere around it for a = 1 and b = height.
Support = Callable[[Array, Array, Array], Array]
SUPPORTS: dict[str, tuple[Support, Callable[[Array], Array]]] = {
    "box": (_box, lambda height: np.sqrt(2 + height**2)),
    "cylinder": (_cylinder, lambda height: np.sqrt(1 + height**2)),
    "cone": (_cone, lambda height: np.sqrt(1 + height**2)),
    "ellipsoid": (_ellipsoid, lambda height: np.maximum(1, height)),
}
SOLIDS = tuple(SUPPORTS)


def draw(images: int, seed: int) -> Array:
    """Draw factors [images, F] uniformly over `FACTORS`; image i has the same whatever the number of images."""
    low, high = np.array(list(FACTORS.values())).T
    # One row of one stream after another: a longer draw begins with the shorter one.
    factors: Array = low + (high - low) * np.random.default_rng([seed, STREAM]).random((images, len(FACTORS)))
    factors[:, 0] = np.floor(factors[:, 0])
    return factors


def render(factors: Array, size: int, grey: bool) -> Array:
    """Render factors [n, F] as uint8 images [n, size * size], 0..255 if `grey`, else 0 or 1."""
    images = np.empty((len(factors), size, size), np.uint8)
    for start in track_progress(range(0, len(factors), BATCH), "rendering", f"batches of {BATCH} images"):
        rows = slice(start, start + BATCH)
        images[rows] = _scan(outline(factors[rows]), size, grey)
    return images.reshape(len(factors), size * size)


def outline(factors: Array) -> Array:
    """Return the corners [n, K, 2] of the shadows in turn, counter-clockwise; some fall together."""
    solid, size, height, lean, roll, x, y, light = (column[:, None] for column in factors.T)
    angle = 2 * np.pi * np.arange(DIRECTIONS) / DIRECTIONS
    # v = R' P' u, with P'u = (u_x, u_y, u_x tan a) and R = R_z(roll) R_x(lean)
    ux, uy, uz = np.cos(angle), np.sin(angle), np.cos(angle) * np.tan(light)
    vx, along = np.cos(roll) * ux + np.sin(roll) * uy, np.cos(roll) * uy - np.sin(roll) * ux
    v = np.stack([vx, np.cos(lean) * along + np.sin(lean) * uz, np.cos(lean) * uz - np.sin(lean) * along], -1)
    point = np.empty_like(v)
    for number, (support, radius) in enumerate(SUPPORTS.values()):
        chosen = solid[:, 0] == number
        a = size[chosen] / radius(height[chosen])
        point[chosen] = support(v[chosen], a, a * height[chosen])
    along = np.cos(lean) * point[..., 1] - np.sin(lean) * point[..., 2]
    out = np.sin(lean) * point[..., 1] + np.cos(lean) * point[..., 2]
    right = np.cos(roll) * point[..., 0] - np.sin(roll) * along
    up = np.sin(roll) * point[..., 0] + np.cos(roll) * along
    return np.stack([x + right + out * np.tan(light), y + up], -1)


def _scan(corners: Array, size: int, grey: bool) -> Array:
    """Cut convex polygons [n, K, 2] by the rows of the image; return pixels [n, size, size]."""
    lines = size * (SUBROWS if grey else 1)
    level = (0.5 - (np.arange(lines) + 0.5) / lines)[:, None]
    x, y = corners[:, None, :, 0], corners[:, None, :, 1]
    dx, dy = np.roll(x, -1, -1) - x, np.roll(y, -1, -1) - y
    crossed = (y <= level) != (np.roll(y, -1, -1) <= level)
    # An edge that is crossed is not level, so that only unused slopes are replaced.
    at = x + (level - y) * (dx / np.where(dy == 0, 1, dy))
    left = np.where(crossed, at, np.inf).min(-1)[..., None]
    right = np.where(crossed, at, -np.inf).max(-1)[..., None]
    edges = np.arange(size + 1) / size - 0.5
    if not grey:
        centres = (edges[:-1] + edges[1:]) / 2
        inside: Array = (left <= centres) & (centres <= right)
        return inside.astype(np.uint8)
    covered = np.clip(np.minimum(right, edges[1:]) - np.maximum(left, edges[:-1]), 0, None) * size
    share = covered.reshape(len(corners), size, SUBROWS, size).mean(2)
    pixels: Array = np.rint(255 * np.minimum(share, 1)).astype(np.uint8)
    return pixels
