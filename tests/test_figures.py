from __future__ import annotations

import io
import re
import subprocess
import sys
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from pipeline import figures
from pipeline.figures import style
from pipeline.metric import Metric

RNG = np.random.default_rng(0)
IMAGES = RNG.random((7, 1, 8, 6))


def rows(depth: int, epochs: int = 12) -> list[dict[str, float]]:
    rates = {f"valid/rate/z{level}": 3.0 / level for level in range(1, depth + 1)}
    return [
        {"epoch": e, "train/elbo": -30 + e, "valid/elbo": -31 + e, "valid/kl": sum(rates.values()), **rates}
        for e in range(1, epochs + 1)
    ]


def test_both_bars_of_a_variant_end_at_the_same_bound():
    """Distortion and rates lie end to end, a negative rate leading back, and end where nll and gap do: at -ELBO."""
    row = {f"rate/z{t}": (rate, 0.0) for t, rate in enumerate((12.0, -1.5, 2.0), start=1)}
    row |= {"reconstruction": (-9.0, 0.0), "elbo": (-21.5, 0.0), "nll": (21.0, 0.0), "gap": (0.5, 0.0)}
    figure = figures.bound_in_parts({"mhvae": row})
    bars = [(bar.get_x(), bar.get_width()) for bar in figure.axes[0].patches]
    assert bars == [(0.0, 9.0), (9.0, 12.0), (21.0, -1.5), (19.5, 2.0), (0.0, 21.0), (21.0, 0.5)]
    assert figure.axes[0].lines[0].get_xdata()[0] == 21.5
    words = (
        "mhvae: -ELBO 21.50, distortion 9.00, rate of z1 12.00, rate of z2 -1.50, rate of z3 2.00, nll 21.00, gap 0.50"
    )
    assert words in figure.alt
    assert "Hatched" in figure.caption


def test_a_difference_says_how_sure_it_is():
    """The dot of a decided difference is filled, that of another hollow; the line is the interval."""
    pairs = [figures.Pair("a", "b", 0.5, 0.2, True, "sure"), figures.Pair("a", "c", 0.1, 0.3, False, "unsure")]
    axes = figures.differences(pairs, 0.95).axes[0]
    dots = [drawn for drawn in axes.lines if drawn.get_marker() == "o"]
    assert [dot.get_markerfacecolor() == dot.get_color() for dot in dots] == [True, False]
    spans = [part.lines[2][0].get_segments()[0][:, 0] for part in axes.containers]
    assert np.array(spans) == pytest.approx(np.array([(0.3, 0.7), (-0.2, 0.4)]))


def means(depth: int, every: bool = False) -> dict[str, tuple[float, float]]:
    """Return numbers of the finer decompositions of one variant, mean and standard error."""
    levels = range(1, depth + 1)
    names = [f"{key}/z{t}" for key in ("gap", "approximation_gap", "amortization_gap", "mig") for t in levels]
    names += [str(Metric(f"probe/{factor}", t)) for factor in ("size", "x") for t in (0, *levels)]
    names += ["mutual_information/z1", "ais/elbo", "ais/iwae", "ais", "bdmc/lower", "bdmc/upper", "bdmc/width"]
    if not every:
        names += [f"chain_kl/z{t}" for t in levels] + ["mutual_information", "marginal_kl"]
        names += [f"mutual_information/z{t}/{end}" for t in levels[1:] for end in ("lower", "upper")]
        names += ["total_correlation", "dimension_kl"] if depth == 1 else []
    return {name: (0.1 + 0.05 * index, 0.01) for index, name in enumerate(names)}


ALL = {"vae": means(1), "hvae": means(4, every=True), "mhvae": means(6), "bare": {}}
ERROR = "standard error of the mean over seeds"
FIGURES = {
    "samples": lambda: figures.samples(IMAGES, "draws"),
    "one sample": lambda: figures.samples(IMAGES[:1], "draws", ink=False),
    "reconstructions": lambda: figures.reconstructions(IMAGES, IMAGES, "vae"),
    "levels": lambda: figures.levels(IMAGES[:2], RNG.random((3, 2, 4, 1, 8, 6)), "mhvae"),
    "levels of ten columns": lambda: figures.levels(IMAGES[:2], RNG.random((1, 2, 10, 3, 8, 6)), "vae"),
    "constant levels": lambda: figures.levels(IMAGES[:1], np.zeros((1, 1, 1, 1, 8, 6)), "vae"),
    "curves": lambda: figures.curves({"vae": {0: rows(1)}, "mhvae": {0: rows(3), 1: rows(3, epochs=1)}}),
    "rates by epoch": lambda: figures.rates_by_epoch(
        {f"v{i}": {0: rows(i)} for i in range(1, 6)}, {f"v{i}": {0: i} for i in range(1, 6)}
    ),
    "bounds": lambda: figures.bounds(
        {"vae": {"elbo": (-23.0, 0.1), "iwae/1": (-23.0, 0.1), "iwae/9": (-22.0, 0)}}, 0.9
    ),
    "bounds of one seed": lambda: figures.bounds({"vae": {"elbo": (-23.0, None), "iwae/9": (-22.0, None)}}, 0.9),
    "map": lambda: figures.depth_width_map(
        [
            {"variant": "vae", "depth": 1, "z_dim": 8, "state": "COMPLETE", "value": -24.0},
            {"variant": "vae", "depth": 1, "z_dim": 8, "state": "FAIL", "value": None},
            {"variant": "hvae", "depth": 3, "z_dim": 9, "state": "PRUNED", "value": -30.0},
        ],
        "valid/objective",
    ),
    "plane": lambda: figures.rate_distortion(
        {"vae": {"COMPLETE": [(3.0, 20.0), (4.0, 19.5)], "PRUNED": [(9.0, 30.0)]}, "hvae": {}}, {"vae": [(3.5, 18.0)]}
    ),
    "plane of one point": lambda: figures.rate_distortion({"vae": {"PRUNED": [(3.0, 20.0)]}}, {}),
    "plane of nothing": lambda: figures.rate_distortion({}, {}),
    **{
        f"{draw.__name__} of {name}": lambda draw=draw, rows=rows: draw(rows, ERROR)
        for draw in (
            figures.gaps_by_level,
            figures.inference_gaps,
            figures.surgery,
            figures.sandwich,
            figures.factors,
        )
        for name, rows in {"all": ALL, "one": {"vae": ALL["vae"]}}.items()
    },
    "trade-off": lambda: figures.trade_off(
        {"vae": [figures.TradeOff(beta, 4 / beta, 20 + beta, (4 / beta,)) for beta in (0.5, 1.0, 2.0)]}, "rate/z_t"
    ),
    "glance": lambda: figures.bound_in_parts(
        {"a": dict.fromkeys(("elbo", "reconstruction", "rate/z1", "nll", "gap"), (-1.0, 0.1))}
    ),
    "differences": lambda: figures.differences([figures.Pair("a", "b", 0.1, None, False, "one seed")], 0.9),
    "histogram": lambda: figures.log_likelihoods({"vae": RNG.normal(size=30), "hvae": np.zeros(4)}),
    "units": lambda: figures.unit_nats({"vae": [np.ones(90)], "hvae": [np.ones(2), np.zeros(1)]}),
    "top level": lambda: figures.top_map(
        {
            "a": (RNG.normal(size=(9, 2)), np.array([0.6, 0.2]), np.arange(9) % 3),
            "b": (np.ones((1, 2)), np.ones(2), None),
        }
    ),
    "history": lambda: figures.history(
        {"a search 0": [(0, -3.0), (2, -2.0)], "b": []}, "m", {"a search 0": "a", "b": "b"}
    ),
    "importances": lambda: figures.importances({"a": {"model.depth": 0.7, "model.z_dim": 0.3}}),
    "map of nothing": lambda: figures.depth_width_map([], "valid/elbo"),
}


def test_parts_of_a_gap_end_where_their_sum_is():
    """Bars are the means by level end to end, whiskers their errors; what is not split by level is one grey bar."""
    rows = {"mhvae": {"approximation_gap/z1": (0.2, 0.01), "approximation_gap/z2": (0.1, 0.02)}}
    rows["mhvae"] |= {"approximation_gap": (0.3, 0.03), "amortization_gap": (0.15, 0.05)}
    first, right = figures.inference_gaps(rows, ERROR).axes
    assert [(bar.get_x(), bar.get_width()) for bar in first.patches] == [(0.0, 0.2), (0.2, pytest.approx(0.1))]
    assert [bar.get_width() for bar in right.patches] == [0.15]
    spans = [segment[:, 0] for part in first.containers if hasattr(part, "has_xerr") for segment in segments(part)]
    ends = [(0.19, 0.21), (0.28, 0.32), (0.27, 0.33)]
    assert [tuple(span) for span in spans] == [pytest.approx(end) for end in ends]


def segments(container):
    return container.lines[2][0].get_segments()


def test_the_thin_bar_splits_the_marginal_kl():
    """Mutual information and marginal KL lie end to end, under the latter its own two parts."""
    terms = {"mutual_information": (3.0, 0), "marginal_kl": (1.0, 0)}
    split = {"total_correlation": (0.4, 0), "dimension_kl": (0.6, 0)}
    spans = [(bar.get_x(), bar.get_width()) for bar in figures.surgery({"vae": terms | split}, ERROR).axes[0].patches]
    assert np.array(spans) == pytest.approx(np.array([(0, 3), (3, 1), (3, 0.4), (3.4, 0.6)]))
    assert len(figures.surgery({"mhvae": terms}, ERROR).axes[0].patches) == 2


def test_information_of_upper_levels_is_a_span():
    """At z_1 a dot, above it a line from the lower to the upper estimate."""
    row = {f"mutual_information/z2/{end}": (value, 0.0) for end, value in (("lower", 1.0), ("upper", 1.5))}
    axes = figures.surgery({"mhvae": row | {"mutual_information/z1": (3.0, 0.0)}}, ERROR).axes[1]
    assert [1.0, 1.5] in [list(drawn.get_xdata()) for drawn in axes.lines]
    assert [3.0] in [list(drawn.get_xdata()) for drawn in axes.lines]


def test_the_width_of_a_sandwich_is_written_out():
    """Both bounds and their distance stand over the bar, whose length the distance is."""
    row = {"bdmc/lower": (-21.0123, 0.3), "bdmc/upper": (-21.0001, 0.3), "bdmc/width": (0.0122, 0.004)}
    first, right = figures.sandwich({"vae": row}, ERROR).axes
    assert [bar.get_width() for bar in right.patches] == [0.0122]
    assert [text.get_text() for text in right.texts] == ["-21.012 to -21.000: width 0.012 ± 0.004"]
    assert [text.get_text() for text in first.texts] == ["not measured"]


def test_a_heat_map_has_its_top_level_above_and_the_pixels_below():
    """Rows run down from z_T to the image, columns over factors, their mean and scores; what is missing is white."""
    row = {"probe/size/x": (0.9, 0), "probe/size/z1": (0.7, 0), "probe/size/z2": (-0.004, 0), "mig/z1": (0.2, 0.03)}
    figure = figures.factors({"mhvae": row, "none": {}}, ERROR)
    axes = figure.axes[0]
    assert [label.get_text() for label in axes.get_yticklabels()] == ["z₂", "z₁", "pixels"]
    assert [(text.get_position(), text.get_text()) for text in axes.texts] == [
        ((0, 0), "0.00"),
        ((0, 1), "0.70"),
        ((0, 2), "0.90"),
    ]
    assert [(text.get_position(), text.get_text()) for text in figure.axes[1].texts] == [((0, 1), "0.20")]
    assert "0.03" in figure.caption
    assert len(figure.axes) == 2  # factors, and below them the scores


def test_lines_of_the_plane_have_slope_minus_one():
    """Along a dotted line rate and distortion have one sum, minus the bound that labels it."""
    axes = figures.rate_distortion({"vae": {"COMPLETE": [(3.0, 20.0), (5.0, 18.5)]}}, {"vae": [(4.0, 18.0)]}).axes[0]
    (lines,) = axes.collections
    for bound, paths in zip(lines.levels, lines.get_paths(), strict=True):
        assert paths.vertices.sum(1) == pytest.approx(-bound)
    points = [tuple(np.array(drawn.get_xydata())[0]) for drawn in axes.lines if len(drawn.get_xydata())]
    assert points == [(3.0, 20.0), (4.0, 18.0)]


@pytest.mark.slow
@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_has_words_and_saves(name, tmp_path, monkeypatch):
    """Every figure says what it shows, is no wider than a column unless it is of images, and its file is a PNG."""
    monkeypatch.setattr("pipeline.figures.style.DPI", 30)
    figure = FIGURES[name]()
    assert isinstance(figure, figures.Drawing)
    assert figure.title
    assert len(figure.caption) > 20
    assert figure.alt
    pictures = ("sample", "reconstructions", "levels")
    assert figure.get_size_inches()[0] <= style.WIDTH or any(word in name for word in pictures)
    figures.save(figure, tmp_path / "new" / "figure.png")
    assert (tmp_path / "new" / "figure.png").read_bytes().startswith(b"\x89PNG\r\n\x1a\n")


def test_a_title_lies_above_the_legend():
    """In a PNG, which is as large as its title and caption need, the title covers no letter of the legend."""
    figure = FIGURES["curves"]()
    (legend,) = figure.legends
    distances, draw = [], legend.draw

    def measured(renderer):
        for title in figure.texts[:1]:  # there once the layout stands
            distances.append(title.get_window_extent(renderer).y0 - legend.get_window_extent(renderer).y1)
        draw(renderer)

    legend.draw = measured
    figures.png(figure)
    assert min(distances) > 0


def test_a_vector_figure_takes_its_colours_from_the_page():
    """Its bars have colours by name, in both schemes; its numbers are letters, its values titles, its ids are few."""
    row = {"reconstruction": (-9.125, 0.0), "rate/z1": (12.0, 0.0), "elbo": (-21.125, 0.0)}
    drawn = figures.svg(figures.bound_in_parts({"<vae>": row | {"nll": (21.0, 0.0), "gap": (0.125, 0.0)}}))
    root = ElementTree.fromstring(drawn)
    titles = [node.text for node in root.iter("title")]
    assert "<vae>: distortion 9.125 nats" in titles
    assert "-ELBO" in "".join(root.itertext())
    names = set(re.findall(r"(?:fill|stroke): (#\w{6})", drawn))
    assert names <= {"#000001", "#fffffe"}
    light, dark = figures.palette([drawn])
    assert "--c-9a9a9a: #9a9a9a" in light
    assert len(re.findall("--c-", light)) == len(re.findall("--c-", dark)) == len(set(re.findall(r"--c-\w{6}", drawn)))
    assert drawn == figures.svg(figures.bound_in_parts({"<vae>": row | {"nll": (21.0, 0.0), "gap": (0.125, 0.0)}}))


def test_every_colour_stands_out_from_a_dark_page():
    """Colours of variants and levels have a contrast of 3 or more with the dark page; black becomes light."""
    _, dark = figures.palette(["var(--c-0072b2) var(--c-332288) var(--c-440154) var(--c-000000) var(--c-ffffff)"])
    tones = dict(re.findall(r"--c-(\w{6}): #(\w{6})", dark))
    assert tones["000000"] == "e4e8ec"
    assert tones["ffffff"] == "14181c"

    def luminance(tone):
        parts = [int(tone[at : at + 2], 16) / 255 for at in (0, 2, 4)]
        return np.dot(
            [0.2126, 0.7152, 0.0722], [((c + 0.055) / 1.055) ** 2.4 if c > 0.04045 else c / 12.92 for c in parts]
        )

    for name in ("0072b2", "332288", "440154"):
        assert (luminance(tones[name]) + 0.05) / (luminance("14181c") + 0.05) >= 3


def test_a_pdf_has_its_fonts_and_no_date():
    """Fonts are embedded as TrueType, as journals ask for; equal figures give equal bytes."""
    first, again = (figures.pdf(FIGURES["importances"]()) for _ in range(2))
    assert first == again
    assert b"/FontFile2" in first
    assert b"CreationDate" not in first
    assert b"/Type3" not in first


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
        top, first = number // 4 * 9, number % 4 * 7
        assert picture[top : top + 8, first : first + 6, 0] == pytest.approx(1 - image[0], abs=0.01)
    assert picture.shape == (17, 27, 3)


def test_colour_images_are_shown_as_they_are():
    """Red, green and blue stay what they are in figures and on the page, with ink or without."""
    images = RNG.random((7, 3, 8, 6))
    picture = np.asarray(figures.samples(images, "draws").axes[0].images[0].get_array())
    assert picture[9:17, 7:13] == pytest.approx(images[5].transpose(1, 2, 0))
    stored = np.rint(255 * images[None]).astype(np.uint8)
    page = np.asarray(Image.open(io.BytesIO(figures.mosaic(stored))))
    assert (page[:, 7:13, :3] == stored[0, 1].transpose(1, 2, 0)).all()


def test_the_standard_deviation_of_each_level_is_taken_over_its_redraws():
    """The number over a block's last column is the mean over pixels of the deviation along the columns."""
    redrawn = np.stack(
        [np.full((2, 4, 1, 8, 6), 0.5), np.tile([0.0, 1.0], 4).reshape(2, 4, 1, 1, 1) * np.ones((1, 8, 6))]
    )
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
        "figures.png(figures.samples(np.ones((3, 1, 8, 8)), 'draws')); assert 'matplotlib.pyplot' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


def test_milestones_are_labelled_by_their_draws() -> None:
    """The axis names the bound that was measured, the legend published numbers by their own names, the caption both."""
    nll = {"a": {4: (30.0, 1.0), 13: (25.0, None)}}
    figure = figures.milestones(nll, {"a": {"paper, -L_5000": 23.0}}, 500)
    assert figure.axes[0].get_ylabel() == "-L₅₀₀ (nats per example)"
    (legend,) = figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["a", "published: paper, -L_5000"]
    assert "more draws than 500 give a lower number" in figure.caption
