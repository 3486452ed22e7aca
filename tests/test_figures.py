from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from matplotlib.figure import Figure

from pipeline import figures

RNG = np.random.default_rng(0)
IMAGES = RNG.random((7, 8, 6))


def rows(depth: int, epochs: int = 12) -> list[dict[str, float]]:
    rates = {f"valid/rate/z{level}": 3.0 / level for level in range(1, depth + 1)}
    return [
        {"epoch": e, "train/elbo": -30 + e, "valid/elbo": -31 + e, "valid/kl": sum(rates.values()), **rates}
        for e in range(1, epochs + 1)
    ]


def test_rates_are_stacked_by_sign():
    """A bar stands for each rate, a negative one to the left of 0, and the diamond for their sum."""
    row = {f"test/rate/z{t}": rate for t, rate in enumerate((12.0, -1.5, 2.0), start=1)}
    figure = figures.rates_by_level({"mhvae": {0: row | {"test/reconstruction": -9.0, "test/nll": 21.0}}})
    axes = figure.axes[0]
    bars = [(bar.get_x(), bar.get_width()) for bar in axes.patches]
    assert bars == [(0.0, 12.0), (0.0, -1.5), (12.0, 2.0)]
    assert axes.lines[0].get_xdata()[0] == pytest.approx(12.5)


FIGURES = {
    "samples": lambda: figures.samples(IMAGES, "draws"),
    "one sample": lambda: figures.samples(IMAGES[:1], "draws", ink=False),
    "reconstructions": lambda: figures.reconstructions(IMAGES, IMAGES, "vae"),
    "levels": lambda: figures.levels(IMAGES[:2], RNG.random((3, 2, 4, 8, 6)), "mhvae"),
    "constant levels": lambda: figures.levels(IMAGES[:1], np.zeros((1, 1, 1, 8, 6)), "vae"),
    "curves": lambda: figures.curves({"vae": {0: rows(1)}, "mhvae": {0: rows(3), 1: rows(3, epochs=1)}}),
    "rates by epoch": lambda: figures.rates_by_epoch({f"v{i}": {0: rows(i)} for i in range(1, 6)}),
    "bounds": lambda: figures.bounds(
        {"vae": {"elbo": (-23.0, 0.1), "iwae/1": (-23.0, 0.1), "iwae/9": (-22.0, 0)}}, 0.9
    ),
    "bounds of one seed": lambda: figures.bounds({"vae": {"elbo": (-23.0, None), "iwae/9": (-22.0, None)}}, 0.9),
    "map": lambda: figures.depth_width_map(
        [
            {"variant": "vae", "depth": 1, "z_dim": 8, "state": "COMPLETE", "value": -24.0},
            {"variant": "vae", "depth": 1, "z_dim": 8, "state": "FAIL", "value": None},
            {"variant": "hvae", "depth": 3, "z_dim": 9, "state": "PRUNED", "value": -30.0},
        ]
    ),
    "map of nothing": lambda: figures.depth_width_map([]),
}


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_a_title_and_a_caption_and_saves(name, tmp_path):
    """Every figure says what it shows, and its file is a PNG."""
    figure = FIGURES[name]()
    assert isinstance(figure, Figure)
    assert figure.get_suptitle()
    assert len(figure.get_supxlabel()) > 20
    figures.save(figure, tmp_path / "new" / "figure.png")
    assert (tmp_path / "new" / "figure.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_bytes_are_a_function_of_what_is_shown():
    """Equal figures give equal bytes, which hold neither date nor version; other figures give others."""
    first, again = (figures.png(figures.samples(IMAGES, "draws")) for _ in range(2))
    assert first == again
    assert b"Software" not in first
    assert b"tIME" not in first
    assert figures.png(figures.samples(IMAGES[::-1], "draws")) != first


def test_a_samples_grid_holds_every_image_in_order():
    """Seven images stand in rows of four with a pixel between them; with ink, 1 is black."""
    picture = np.asarray(figures.samples(IMAGES, "draws").axes[0].images[0].get_array())
    for number, image in enumerate(IMAGES):
        top, left = number // 4 * 9, number % 4 * 7
        assert picture[top : top + 8, left : left + 6, 0] == pytest.approx(1 - image, abs=0.01)
    assert picture.shape == (17, 27, 3)


def test_the_standard_deviation_of_each_level_is_taken_over_its_redraws():
    """The number over a block's last column is the mean over pixels of the deviation along the columns."""
    redrawn = np.stack([np.full((2, 4, 8, 6), 0.5), np.broadcast_to([[[[0.0]], [[1.0]]]], (2, 2, 8, 6)).repeat(2, 1)])
    figure = figures.levels(IMAGES[:2], redrawn, "mhvae")
    texts = [text.get_text() for axes in figure.axes for text in axes.texts]
    assert [text for text in texts if text.startswith("sd")] == ["sd, mean 0.000", "sd, mean 0.500"]


def test_a_variant_keeps_its_colour_whatever_it_is_shown_with():
    """Known variants have their own colour, others get distinct ones in their order."""
    assert figures.colour("mhvae", ["mhvae"]) == figures.colour("mhvae", ["vae", "wide", "mhvae"])
    variants = ["vae", "wide", "hvae", "deep", "mhvae"]
    assert len({figures.colour(name, variants) for name in variants}) == 5


def test_no_global_state_is_touched():
    """Drawing and saving import no pyplot, so no back end is chosen."""
    code = (
        "import sys, numpy as np; from pipeline import figures;"
        "figures.png(figures.samples(np.ones((3, 8, 8)), 'draws')); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
