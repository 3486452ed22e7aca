"""The rendered data set: its geometry against closed forms, its draws, its bounds."""

import numpy as np
import pytest

from pipeline.data.cave import BATCH, FACTORS, SOLIDS, SPIN, draw, outline, render

NAMES = list(FACTORS)


def factors(solid, **changes):
    """Return one row of factors [1, F]: upright, centred, straight light, except for what is given."""
    row = {"solid": SOLIDS.index(solid), "size": 0.3, "height": 1.0} | dict.fromkeys(NAMES[3:], 0.0) | changes
    return np.array([[row[name] for name in NAMES]])


def projection(row):
    """Return P R as a 2x3 matrix, written out independently of the renderer."""
    _, _, _, lean, roll, _, _, light = row
    turn = np.array([[np.cos(roll), -np.sin(roll), 0], [np.sin(roll), np.cos(roll), 0], [0, 0, 1]])
    tip = np.array([[1, 0, 0], [0, np.cos(lean), -np.sin(lean)], [0, np.sin(lean), np.cos(lean)]])
    return np.array([[1, 0, np.tan(light)], [0, 1, 0]]) @ turn @ tip


def cross(p, q):
    return abs(p[0] * q[1] - p[1] * q[0])


def area(row):
    """Return the area of a shadow in closed form, by the solid."""
    solid, size, height = SOLIDS[int(row[0])], row[1], row[2]
    a = size / {"box": np.hypot(np.sqrt(2), height), "ellipsoid": height}.get(solid, np.hypot(1, height))
    b, cos, sin = a * height, np.cos(SPIN), np.sin(SPIN)
    map_ = projection(row)
    if solid == "ellipsoid":
        half = map_ * [a, b, a]
        return np.pi * np.sqrt(np.linalg.det(half @ half.T))
    if solid == "box":
        e = (map_ @ np.array([[cos, 0, sin], [0, 1, 0], [-sin, 0, cos]]).T).T * np.array([[a], [b], [a]])
        return 4 * (cross(e[0], e[1]) + cross(e[0], e[2]) + cross(e[1], e[2]))
    rim = map_[:, [0, 2]] * a
    disc = np.pi * abs(np.linalg.det(rim))
    # In the coordinates in which the rim is a unit circle, the axis from its middle to the other end is w.
    w = np.linalg.norm(np.linalg.solve(rim, 2 * b * map_[:, 1]))
    if solid == "cylinder":
        return disc * (1 + 2 * w / np.pi)
    return disc if w <= 1 else disc * (1 + (np.sqrt(w**2 - 1) - np.arccos(1 / w)) / np.pi)


@pytest.mark.slow
@pytest.mark.parametrize("solid", SOLIDS)
def test_area(solid):
    """A shadow has the area of the closed form: of a zonogon, a stadium, a hull of point and ellipse, an ellipse."""
    rows = draw(400, 1)
    rows[:, 0] = SOLIDS.index(solid)
    exact = np.array([area(row) for row in rows])
    corners = outline(rows)
    x, y = corners[..., 0], corners[..., 1]
    polygon = (x * np.roll(y, -1, 1) - y * np.roll(x, -1, 1)).sum(1) / 2
    assert (polygon <= exact * (1 + 1e-9)).all(), "the polygon is inscribed"
    np.testing.assert_allclose(polygon, exact, rtol=0.013)
    assert abs(polygon / exact - 1).mean() < 1e-3
    grey = render(rows, 64, True).mean(1) / 255
    np.testing.assert_allclose(grey, polygon, rtol=0.01)
    binary = render(rows, 64, False).mean(1)
    np.testing.assert_allclose(binary, exact, rtol=0.06, atol=15 / 64**2)


@pytest.mark.parametrize("size", [28, 33, 64])
def test_pixels_are_where_the_geometry_says(size):
    """An upright, unspun rectangle covers just the pixels it should, and y grows upward."""
    row = factors("cylinder", size=0.255 * np.sqrt(2), x=0.125, y=0.125)
    image = render(row, size, False).reshape(size, size)
    centre = (np.arange(size) + 0.5) / size - 0.5
    across = (centre >= -0.13) & (centre <= 0.38)
    expected = across[::-1][:, None] & across[None, :]
    np.testing.assert_array_equal(image, expected)


def test_sphere():
    """The shadow of an ellipsoid with equal axes does not depend on its rotation."""
    for light in (-0.5, 0.0, 0.3):
        plain = outline(factors("ellipsoid", light=light))
        for lean, roll in ((0.3, 1.0), (1.0, -0.7)):
            np.testing.assert_allclose(
                outline(factors("ellipsoid", light=light, lean=lean, roll=roll)), plain, atol=1e-14
            )


@pytest.mark.parametrize("name", [name for name in FACTORS if name != "solid"])
def test_every_factor_matters(name):
    """From one end of any factor's range to the other the picture of a box changes."""
    row = factors("box", height=1.5, lean=0.4, roll=0.2, light=0.1)
    low, high = row.copy(), row.copy()
    low[0, NAMES.index(name)], high[0, NAMES.index(name)] = FACTORS[name]
    assert (render(low, 28, False) != render(high, 28, False)).sum() >= 10


@pytest.mark.slow
def test_inside():
    """Every shadow lies inside the image and covers at least 3% of it, at the ends of all ranges too."""
    ends = np.array(np.meshgrid(*[(0, 1, 2, 3), *list(FACTORS.values())[1:]])).reshape(len(FACTORS), -1).T
    rows = np.concatenate([ends, draw(2000, 2)])
    corners = outline(rows)
    assert np.abs(corners).max() < 0.5
    assert render(rows, 28, True).mean(1).min() / 255 > 0.03


def test_convex():
    """The corners of an outline go round counter-clockwise and never turn back."""
    corners = outline(draw(500, 3))
    edge = np.roll(corners, -1, 1) - corners
    following = np.roll(edge, -1, 1)
    assert (edge[..., 0] * following[..., 1] - edge[..., 1] * following[..., 0]).min() > -1e-12


def test_draws():
    """Factors are uniform over their ranges, depend on the seed, and begin alike however many are drawn."""
    rows = draw(4000, 0)
    for column, (low, high) in zip(rows[:, 1:].T, list(FACTORS.values())[1:], strict=True):
        assert low <= column.min() < column.max() < high
        assert abs(column.mean() - (low + high) / 2) < 4 * (high - low) / np.sqrt(12 * len(rows))
    assert np.bincount(rows[:, 0].astype(int), minlength=4).min() > 900
    np.testing.assert_array_equal(draw(17, 0), rows[:17])
    assert not np.array_equal(draw(17, 1), rows[:17])


@pytest.mark.parametrize("grey", [False, True])
def test_images_are_functions_of_their_factors(grey):
    """An image is the same whatever is rendered beside it, and its values fill the scale and no more."""
    rows = draw(BATCH + 9, 4)
    images = render(rows, 28, grey)
    assert images.dtype == np.uint8
    assert images.max() == (255 if grey else 1)
    assert (len(np.unique(images)) > 2) == grey
    for i in (0, BATCH - 1, BATCH, BATCH + 8):
        np.testing.assert_array_equal(render(rows[i : i + 1], 28, grey)[0], images[i])


def test_grey_is_the_share_of_the_pixel():
    """A grey image rendered small is the mean of the same image rendered large, to a level of rounding."""
    rows = draw(20, 5)
    small = render(rows, 32, True).reshape(-1, 32, 32) / 255
    large = render(rows, 256, False).reshape(-1, 32, 8, 32, 8).mean((2, 4))
    assert np.abs(small - large).max() < 0.1
