from __future__ import annotations

import csv
import html
import json
import math
import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save
from scipy import stats

from pipeline import figures, report
from pipeline.errors import InputError
from pipeline.files import read_csv, write_bytes, write_csv, write_json, write_parquet
from pipeline.metric import Metric
from pipeline.report import drawings, inputs, latex, tables
from pipeline.report.families import families
from pipeline.report.milestones import milestones
from pipeline.report.milestones import table as beside
from pipeline.report.search import search
from pipeline.study import Study

pytestmark = pytest.mark.slow

ROOT = Path(report.__file__).parents[2]
WIDTHS = {"vae": [16], "hvae": [16, 8], "mhvae": [12, 6, 3]}
PROTOCOL = {"data": "digits", "protocol": "stratified", "binarization": "dynamic", "images": 360, "draws": 5000}
PROTOCOL |= {"digest": "3121e022fa5152dbcca9b7ab6f19f8e4"}
NLL = {"vae": 23.4, "hvae": 22.9, "mhvae": 22.8}


FACTORS = ("solid", "size", "light")
SCORES = ("mig", "dci_disentanglement", "dci_completeness", "dci_informativeness")
DRAWN = {  # what a figure of the finer decompositions needs
    "gaps_by_level": ("chain_kl", "gap/"),
    "sandwich": ("ais", "bdmc"),
    "inference_gaps": ("approximation_gap", "amortization_gap"),
    "surgery": ("mutual_information", "marginal_kl", "total_correlation", "dimension_kl"),
    "factors": ("probe", "mig", "dci"),
}


IMAGES = 40
BETWEEN = (("lower", -0.1), ("upper", 0.2))


def fake(
    folder: Path, seeds: tuple[int, ...] = (0, 1, 2), spread: float = 0.05, *, fine: bool = False, **likelihoods: str
) -> Study:
    """Write all that the report reads, from small synthetic numbers; `fine`: with the finer decompositions.

    Likelihoods are given by variant; the others' are bernoulli.
    """
    folder.mkdir(exist_ok=True)
    shutil.copy(ROOT / "params.yaml", folder)
    study = Study.at(folder, {"train.seeds": list(seeds)})
    rng = np.random.default_rng(0)
    own = np.linspace(-3, 3, IMAGES)  # what each image adds to every variant's values
    for variant, widths in WIDTHS.items():
        depth, tests = len(widths), {}
        for seed in seeds:
            rates = [14.0, -1.25, 0.5][:depth] + spread * rng.normal(size=depth)
            nll, gap = NLL[variant] + spread * rng.normal(), 0.4 + spread * rng.random()
            values = {"elbo": -nll - gap, "reconstruction": sum(rates) - nll - gap, "kl": sum(rates)}
            values |= {f"rate/z{t}": rate for t, rate in enumerate(rates, start=1)}
            values |= {"iwae/1": -nll - gap, "iwae/50": -nll - 0.1, "iwae/5000": -nll, "nll": nll, "gap": gap}
            values |= {"bpd": nll / 64 / math.log(2)}
            for name in ("active", "informative"):
                values |= {f"{name}/z{t}": max(1, width - 2 - seed % 2) for t, width in enumerate(widths, start=1)}
            values |= {f"information/z{t}": 9.5 / t for t in range(1, depth + 1)}
            if fine:
                values |= finer(variant, depth, rng)
            values |= {"nll/last_doubling": 0.002, "nll/bias": 0.001, "nll/reliable": 1.0, "generalization/elbo": 0.3}
            by_image = {key: values[key] + own for key in ("elbo", "reconstruction", "kl", "nll", "gap", "rate/z1")}
            table = {"image": range(IMAGES), **by_image, "gap/z1": np.where(np.arange(IMAGES) < 9, 0.3, np.nan)}
            write_parquet(study.evaluate(variant) / f"seed-{seed}.parquet", table)
            tests[str(seed)] = {f"test/{key}": {"value": float(v), "se": 0.0008} for key, v in values.items()}
            home = study.train(variant) / f"seed-{seed}"
            write_json(
                home / "model.json",
                {
                    "widths": widths,
                    "parameters": 69008,
                    "seconds": 6.0 + seed,
                    "best_epoch": 15,
                    "seed": seed,
                    "peak_memory": 300,
                }
                | {"model": {"likelihood": likelihoods.get(variant, "bernoulli"), "depth": depth, "z_dim": widths[0]}},
            )
            about = {
                "experiment": "7",
                "run": f"{variant}{seed}",
                "page": f"/#/experiments/7/runs/{variant}{seed}",
                "date": "2026-01-02T03:04:05+00:00",
            }
            about |= {"git_commit": "c0ffee" * 6, "version/torch": "2.0", "cpu": "a processor", "device": "cpu"}
            write_json(home / "mlflow.json", about)
            write_csv(home / "curves.csv", [_epoch(e, values, rates) for e in range(1, 21)])
            write_csv(study.curves(variant), [_epoch(e, values, rates) for e in range(1, 21)])
        write_json(
            study.evaluate(variant) / "decomposition.json", {"variant": variant, "protocol": PROTOCOL, "seeds": tests}
        )
        write_csv(study.evaluate(variant) / "milestones.csv", [])
        write_bytes(study.evaluate(variant) / "pictures.safetensors", pictures(tuple(widths)))
        space = {"model.z_dim": 8} | ({"model.depth": depth} if variant != "vae" else {})
        trials = [
            {
                "number": n,
                "state": state,
                "value": value,
                "valid/kl": kl,
                "valid/reconstruction": kl and value + kl,
                **space,
            }
            | {"epochs": 30, "seconds": 1.5, "run_id": "a" * 32}
            for n, state, value, kl in [
                (0, "COMPLETE", -24.5, 12.5),
                (1, "COMPLETE", -23.9, 14.0),
                (2, "PRUNED", -26.0, 11.0),
                (3, "FAIL", None, None),
            ]
        ]
        write_csv(study.sweep(variant) / "trials.csv", trials)
        value = max((row["value"] for row in trials if row["state"] == "COMPLETE"), default=None)
        best = {"trial": 1, "params": space, "metric": "valid/objective", "value": value}
        best["importances"] = {"model.z_dim": 0.75, "model.depth": 0.25} if variant != "vae" else {}
        write_json(study.sweep(variant) / "best.json", {"searches": [best]})
    return study


def search_again(study: Study, variant: str, searches: int) -> None:
    """Let a variant have several searches, with other trials and other best settings each."""
    rows = read_csv(study.sweep(variant) / "trials.csv")
    (best,) = json.loads((study.sweep(variant) / "best.json").read_text())["searches"]
    numbers = range(searches)
    write_csv(study.sweep(variant) / "trials.csv", [{"search": n, **row} for n in numbers for row in rows])
    actual = [best | {"trial": n, "params": {"model.z_dim": 8 + n}} for n in numbers]
    write_json(study.sweep(variant) / "best.json", {"searches": actual})


def make_shallow(study: Study, variant: str, seed: int) -> None:
    """Take the top level from one seed of a variant."""
    home, path = study.train(variant) / f"seed-{seed}", study.evaluate(variant) / "decomposition.json"
    about, tests = (json.loads(file.read_text()) for file in (home / "model.json", path))
    top = f"/z{len(about['widths'])}"
    write_json(home / "model.json", about | {"widths": about["widths"][:-1], "parameters": 60001})
    seeds = tests["seeds"]
    seeds[str(seed)] = {key: value for key, value in seeds[str(seed)].items() if top not in key}
    write_json(path, tests)
    rows = read_csv(home / "curves.csv")
    write_csv(home / "curves.csv", [{k: v for k, v in row.items() if top not in k} for row in rows])


def finer(variant: str, depth: int, rng: np.random.Generator) -> dict[str, float]:
    """Return numbers of the finer decompositions; an hvae lacks those that need a Markov chain."""
    levels = range(1, depth + 1)
    values = {f"gap/z{t}": 0.3 / t**2 + 0.01 * rng.normal() for t in levels}
    values |= {f"gap_bias/z{t}": 0.001 * rng.normal() for t in levels}
    values |= {"mutual_information": 5.0, "mutual_information/saturated": float(variant == "vae")}
    values |= {"marginal_kl": 8.0 + 0.1 * rng.normal()}
    if depth > 1:
        values |= {f"total_correlation/{end}": 4.0 + w for end, w in BETWEEN}
        values |= {f"total_correlation/z{t}/{end}": 1.0 / t + w for t in levels[1:] for end, w in BETWEEN}
    if variant != "hvae":
        values |= {f"chain_kl/z{t}": 13.0 / t**3 + 0.02 * rng.normal() for t in levels}
        values |= {"marginal_kl/z1": 4.0 + 0.1 * rng.normal()}
        values |= {f"mutual_information/z{t}/{end}": 5.0 / t + w for t in levels[1:] for end, w in BETWEEN}
        values |= {f"marginal_kl/z{t}/{end}": 0.5 + w for t in levels[-1:] if t > 1 for end, w in BETWEEN}
    if variant == "vae":
        values |= {"total_correlation": 3.0, "dimension_kl": 5.0 + 0.1 * rng.normal()}
    values |= {"mutual_information/z1": 5.0, "total_correlation/z1": 3.0}
    for name, size in (("approximation_gap", 0.3), ("amortization_gap", 0.1)):
        parts = {f"{name}/z{t}": size / t + 0.01 * rng.normal() for t in levels}
        values |= {name: sum(parts.values())} | parts
    values["inference_gap"] = values["approximation_gap"] + values["amortization_gap"]
    values |= {"ais/elbo": -23.4, "ais/iwae": -23.02 + 0.01 * rng.normal(), "ais": -23.0, "ais/acceptance": 0.65}
    values |= {"bdmc/lower": -21.012, "bdmc/upper": -21.0, "bdmc/width": 0.012, "bdmc/acceptance": 0.6}
    values |= {
        str(Metric(f"probe/{factor}", t)): 0.9 - 0.1 * t + 0.01 * rng.normal()
        for factor in FACTORS
        for t in (0, *levels)
    }
    values |= {str(Metric("probe", t)): 0.9 - 0.1 * t for t in (0, *levels)}
    return values | {f"{score}/z{t}": 0.1 + 0.05 * t for score in SCORES for t in levels}


COMPARISON = r"""\begin{tabular}{lrrr}
\toprule
 & vae & hvae & mhvae \\
\midrule
units & 16 & 16 + 8 & 12 + 6 + 3 \\
weights & 69008 & 69008 & 69008 \\
NLL & 23.40 S & 22.90 S & \textbf{22.80 S} \\
ELBO & $-$23.80 S & $-$23.30 S & $-$23.20 S \\
$\log p(x|z_1)$ & $-$9.80 S & $-$10.55 S & $-$9.95 S \\
KL & 14.00 S & 12.75 S & 13.25 S \\
gap & 0.40 S & 0.40 S & 0.40 S \\
rate $z_1$ & 14.00 S & 14.00 S & 14.00 S \\
rate $z_2$ & -- & $-$1.25 T & $-$1.25 T \\
rate $z_3$ & -- & -- & 0.50 T \\
\bottomrule
\end{tabular}
""".replace(" S", r" $\pm$ 0.58").replace(" T", r" $\pm$ $<$0.01")


def test_tables_for_a_paper(tmp_path):
    """LaTeX that needs booktabs alone: each variant with its intervals, the best in bold, and a row a pair."""
    papers = latex.papers(report.build(fake(tmp_path, spread=0.001)))
    assert papers["comparison"].split("\n", 1)[1] == COMPARISON
    lines = papers["differences"].splitlines()
    assert lines[1:5] == [
        r"\begin{tabular}{llrrrl}",
        r"\toprule",
        r"term & pair & difference (nats) & p & p adjusted & decided \\",
        r"\midrule",
    ]
    assert lines[5].startswith(r"nll & vae - hvae & 0.50 $\pm$ $<$0.01 & ")
    assert papers["comparison"].startswith(r"% Needs \usepackage{booktabs}. Measured on the test set: data set digits")
    assert latex.tabular(["a_b"], [[r"50% & \x -3"]], "l").splitlines()[2:5:2] == [
        r"a\_b \\",
        r"50\% \& \textbackslash{}x $-$3 \\",
    ]


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="needs pdflatex and booktabs (texlive-latex-base)")
def test_tables_for_a_paper_compile(tmp_path):
    """LaTeX takes the tables of many seeds and of one, and every sign, with booktabs alone and without a warning."""
    texts = [text for seeds in ((0, 1, 2), (0,)) for text in latex.papers(report.build(fake(tmp_path, seeds))).values()]
    signs = latex.tabular(["&%$#_{}\\~^"], [["1 ± 2 < 3 > 2"], ["−1 -1 ∞ …"]], "l")
    body = "\n\n".join([*texts, signs])
    head = "\\documentclass{article}\n\\usepackage[a4paper,margin=2cm]{geometry}\n\\usepackage{booktabs}\n"
    source = tmp_path / "paper.tex"
    source.write_text(f"{head}\\begin{{document}}\n{body}\n\\end{{document}}\n", encoding="utf-8")
    words = ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", source.name]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, errors="replace")
    assert done.returncode == 0, done.stdout
    assert "Warning" not in done.stdout.replace("LaTeX Font Warning", "")
    assert "Overfull" not in done.stdout
    assert (tmp_path / "paper.pdf").stat().st_size > 10_000


@cache
def pictures(widths: tuple[int, ...]) -> bytes:
    """Return the arrays of a model with these widths, of images of 8 x 8 pixels."""
    depth, rng = len(widths), np.random.default_rng(1)
    shapes = {"samples": (50,), "nearest": (50,), "images": (10,), "reconstructions": (10,), "best": (10,)}
    shapes |= {"worst": (10,), "base": (4,), "redrawn": (depth, 4, 10), "interpolated": (3, 2)}
    shapes |= {"interpolations": (depth, 3, 9)} | {f"traversals/z{t}": (6, 9) for t in range(1, depth + 1)}
    arrays = {name: rng.integers(0, 256, (*shape, 1, 8, 8), dtype=np.uint8) for name, shape in shapes.items()}
    arrays |= {f"{name}/nll": np.linspace(*ends, 10) for name, ends in (("best", (9, 12)), ("worst", (40, 31)))}
    arrays |= {f"traversals/z{t}/units": np.arange(6) for t in range(1, depth + 1)}
    arrays |= {f"nats/z{t}": np.linspace(0.9, 0, width) for t, width in enumerate(widths, start=1)}
    arrays |= {"map": rng.normal(size=(40, 2)), "map/share": np.array([0.5, 0.2]), "map/labels": np.arange(40) % 10}
    return save(arrays | {"ink": np.array([True])})


def _epoch(epoch: int, values: dict[str, float], rates: np.ndarray) -> dict[str, float]:
    row = {"epoch": epoch, "step": epoch * 20, "seconds": epoch * 0.1}
    for split in ("train", "valid"):
        bound = values["elbo"] - 20 * math.exp(-epoch / 3)
        row |= {f"{split}/elbo": bound, f"{split}/reconstruction": bound + sum(rates), f"{split}/kl": sum(rates)}
        row |= {f"{split}/rate/z{t}": rate for t, rate in enumerate(rates, start=1)}
    return row


DRAWINGS = {"bound_in_parts", "differences", "bounds", "log_likelihoods", "curves", "depth_width", "history"}
DRAWINGS |= {"rate_distortion"}  # of bounds: once a measure
OTHERS = {"rates_by_epoch", "unit_nats", "top_map", "importances"}


SVG = figures.svg


@pytest.fixture(scope="module", autouse=True)
def one_format():
    """Let no figure be rendered, which takes long: their formats have tests of their own, and so has a whole page."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "png", lambda _: b"a PNG")
        patch.setattr(figures, "pdf", lambda _: b"a PDF")
        patch.setattr(figures, "svg", lambda _: "<svg></svg>")
        yield


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    study = fake(tmp_path_factory.mktemp("study"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(figures, "svg", SVG)
        report.write(study)
    return study


def table(study: Study) -> dict[str, dict[str, str]]:
    with (study.report / "table.csv").open(newline="", encoding="utf-8") as file:
        return {row["variant"]: row for row in csv.DictReader(file)}


def test_numbers_are_means_with_intervals_over_what_they_vary_by(study):
    """A mean of what no image has alone has scipy's t interval over seeds; others are over seeds and images."""
    for variant, row in table(study).items():
        seeds = json.loads((study.evaluate(variant) / "decomposition.json").read_text())["seeds"]
        for key in ("iwae/50", "bpd", "rate/z2", "elbo", "nll"):
            if f"test/{key}" not in seeds["0"]:
                continue
            values = [seed[f"test/{key}"]["value"] for seed in seeds.values()]
            low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
            name = "bpd [bits/dim]" if key == "bpd" else f"{key} [nats]"
            assert float(row[name]) == pytest.approx(np.mean(values))
            half = float(row[name.replace(" [", " half [")])
            if key in ("elbo", "nll"):  # the images deviate by 1.8, the seeds by 0.05
                assert half == pytest.approx(2.02 * np.linspace(-3, 3, IMAGES).std(ddof=1) / IMAGES**0.5, rel=0.02)
            else:
                assert half == pytest.approx((high - low) / 2)
        assert float(row["seconds [s]"]) == 7.0


def test_the_tidy_table_holds_every_number_once(study):
    """A row of results.csv is one number of one seed, as evaluated; only the training's seconds have no error."""
    frame = report.results(study)
    assert list(frame) == ["variant", "seed", "depth", "metric", "term", "level", "value", "se", "unit"]
    assert not frame.duplicated(["variant", "seed", "metric"]).any()
    assert set(frame[frame["se"].isna()]["metric"]) == {"seconds"}
    numbers = {(row["variant"], row["seed"], row["metric"]): row for row in read_csv(study.report / "results.csv")}
    assert len(numbers) == len(frame)
    for variant, widths in WIDTHS.items():
        seeds = json.loads((study.evaluate(variant) / "decomposition.json").read_text())["seeds"]
        for seed, cells in seeds.items():
            for key, cell in cells.items():
                row = numbers[variant, seed, key.removeprefix("test/")]
                assert (float(row["value"]), float(row["se"])) == (cell["value"], cell["se"])
                assert row["depth"] == str(len(widths))


def test_levels_that_a_variant_lacks_are_empty(study):
    """Variants of different depths share a table; rates of one variant sum to its kl, negative ones included."""
    rows = table(study)
    assert rows["vae"]["rate/z2 [nats]"] == rows["hvae"]["rate/z3 [nats]"] == ""
    for variant, widths in WIDTHS.items():
        rates = [float(rows[variant][f"rate/z{t} [nats]"]) for t in range(1, len(widths) + 1)]
        assert sum(rates) == pytest.approx(float(rows[variant]["kl [nats]"]))
    assert float(rows["mhvae"]["rate/z2 [nats]"]) < 0
    assert re.search(r"\| 1[34]\.\d\d - 1\.\d\d \+ 0\.\d\d \|", (study.report / "table.md").read_text())


def test_the_protocol_stands_beside_the_numbers(study):
    """Table, Markdown and page say what was measured on how many images with how many draws; a terminal in short."""
    row = table(study)["vae"]
    assert {key: row[f"protocol/{key}"] for key in PROTOCOL} == {key: str(value) for key, value in PROTOCOL.items()}
    for name in ("table.md", "report.html"):
        text = (study.report / name).read_text()
        for words in ("digits", "stratified", "dynamic", "test images 360", "draws per image 5000", "95% interval"):
            assert words in text
        assert PROTOCOL["digest"] in text
    assert report.table_text(study).splitlines()[:3] == [
        "study default: digits (digest 3121e022), protocol stratified, binarization dynamic;"
        " 360 test images, 5000 draws each",
        "mean ± 95% interval over seeds, and over images for what every image has",
        "",
    ]


def bold(study: Study) -> list[str]:
    """Return the variants that table.md marks."""
    lines = (study.report / "table.md").read_text().splitlines()
    return [line.split(" | ")[0].strip("| ") for line in lines if "**" in line]


COVER = (
    "Differences are paired over the 40 test images; their 95% intervals cover 3 seeds, images and draws; the search"
)
COVER += " was done once, and its luck is not in the interval. Values of p are adjusted for 3 pairs (Holm)."


def test_the_verdict_says_how_far_apart_the_variants_are(tmp_path):
    """It names the lowest mean, each difference from it with its interval, what would decide it, and what it covers."""
    apart = report.build(fake(tmp_path / "apart", spread=0.001))
    text = f"The lowest mean nll is that of mhvae, {apart.results[2].metrics['nll']} nats."
    vae = "mhvae is 0.60 ± <0.01 nats below vae (p < 0.001)."
    hvae = "mhvae is 0.10 ± <0.01 nats below hvae (p < 0.001). hvae is 0.50 ± <0.01 nats below vae (p < 0.001)."
    assert apart.verdict == f"{text} {vae} {hvae} {COVER}"
    wide = report.build(fake(tmp_path / "wide", spread=1.0)).verdict
    assert len(re.findall(r" differ by \d\.\d\d ± \d\.\d\d nats, which decides nothing \(p = ", wide)) == 3
    assert re.search(r"\d+ seeds each (would decide|are needed for) a difference of this size", wide)
    some = report.build(fake(tmp_path / "some", spread=0.05)).verdict
    assert re.search(r"is 0\.\d\d ± 0\.\d\d nats below vae \(p < 0\.001\)\.", some)
    assert re.search(r"differ by 0\.\d\d ± 0\.\d\d nats, which decides nothing", some)
    for text in (wide, some):
        assert text.endswith(COVER)


def test_every_pair_is_compared_by_every_term(study):
    """comparisons.csv has a row a pair and term, the difference of the means in it; table.md and the page have each."""
    rows = read_csv(study.report / "comparisons.csv")
    terms = ("nll", "elbo", "reconstruction", "kl", "gap")
    pairs = [("vae", "hvae"), ("vae", "mhvae"), ("hvae", "mhvae")]
    assert [(row["metric"], row["first"], row["second"]) for row in rows] == [(t, *p) for t in terms for p in pairs]
    means = table(study)
    for row in rows:
        first, second = (float(means[row[end]][f"{row['metric']} [nats]"]) for end in ("first", "second"))
        assert float(row["difference [nats]"]) == pytest.approx(first - second)
        assert float(row["p"]) <= float(row["p adjusted"]) <= 1
        assert row["images"] == str(IMAGES)
    page, markdown = ((study.report / name).read_text() for name in ("report.html", "table.md"))
    assert page.count("<td>vae - hvae</td>") == markdown.count("| vae - hvae |") == len(terms)


@pytest.mark.usefixtures("undrawn")
def test_a_bound_far_from_its_limit_says_so(tmp_path):
    """Where nll lies above -log p(x) by more than its error, table, terminal, verdict and page say by how much."""
    made = fake(tmp_path / "study")
    path = made.evaluate("hvae") / "decomposition.json"
    actual = json.loads(path.read_text())
    for cells in actual["seeds"].values():
        cells |= {"test/nll/reliable": {"value": 0.0, "se": None}, "test/nll/bias": {"value": 0.34, "se": None}}
    write_json(path, actual)
    report.write(made)
    words = "by roughly 0.34 nats"
    assert report.build(made).verdict.endswith(f" nll is too high by more than its error says: that of hvae {words}.")
    assert [row["nll error"] for row in table(made).values()] == ["reliable", f"too high {words}", "reliable"]
    assert f"(too high {words})" in (made.report / "table.md").read_text()
    assert f"(too high {words})" in (made.report / "report.html").read_text()
    assert "nll error" in report.table_text(made)


@pytest.mark.usefixtures("undrawn")
def test_what_is_marked_is_not_shown_to_be_worse(tmp_path):
    """The lowest nll is marked with those that are not decided to lie above it; where nothing is decided, none is."""
    for spread, seeds, marked in (
        (0.001, (0, 1, 2), ["mhvae"]),
        (0.05, (0, 1, 2), ["hvae", "mhvae"]),
        (1.0, (0, 1, 2), []),
        (0.001, (0, 1), []),
        (0.001, (0,), []),
    ):
        made = fake(tmp_path / f"{spread}-{len(seeds)}", seeds=seeds, spread=spread)
        report.write(made)
        assert bold(made) == marked
        assert (made.report / "report.html").read_text().count('<td class="best">') == len(marked)


GREY = {"vae": "gaussian", "hvae": "continuous_bernoulli", "mhvae": "discretized_logistic"}


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    study = fake(tmp_path_factory.mktemp("mixed"), spread=0.001, **GREY)
    report.write(study)
    return study


def test_a_density_and_a_probability_are_not_ranked(mixed):
    """One sentence says that they cannot be compared; two densities are ranked, and the one probability is not."""
    verdict = report.build(mixed).verdict
    assert verdict.startswith(
        "The likelihood of vae and hvae is a density of pixels scaled to [0, 1], that of mhvae is a probability:"
        " nll, elbo and reconstruction cannot be compared between these."
    )
    assert "The lowest mean nll of vae and hvae is that of hvae" in verdict
    assert verdict.endswith(f"The nll of mhvae is {report.build(mixed).results[2].metrics['nll']} nats.")
    assert bold(mixed) == ["hvae"]
    assert html.escape(verdict) in (mixed.report / "report.html").read_text()
    shown = report.table_text(mixed)
    assert shown.split("\n\n")[-1].replace("\n", " ") == verdict


def test_figures_of_bounds_are_drawn_once_a_measure(mixed, study):
    """No axis of bounds has a density and a probability; figures of rates alone have all variants."""
    names = {path.stem for path in mixed.report.glob("figures/*.png")}
    assert (
        names
        == {f"{name}-{end}" for name in DRAWINGS for end in ("density", "probability")} - {"differences-probability"}
        | OTHERS
    )
    assert {path.stem for path in study.report.glob("figures/*.png")} == DRAWINGS | OTHERS
    page = (mixed.report / "report.html").read_text()
    assert page.count("(likelihoods that are a density)") == len(DRAWINGS)
    assert page.count("(likelihoods that are a probability)") == len(DRAWINGS) - 1  # of one variant no differences


def test_only_variants_of_one_measure_share_a_figure(tmp_path, monkeypatch):
    """What is given to the figures of bounds has variants of one measure, and each its colour among all."""
    captured: dict[str, list[list[str]]] = {}

    def spy(name):
        def draw(results, *_):
            variants = sorted(captured_variants(results))
            captured.setdefault(name, []).append(variants)
            return figures.samples(np.eye(8)[None, None], "spy")

        return draw

    def captured_variants(results):
        if isinstance(results, dict):
            return {name.partition(" search")[0] for name in results}
        return {
            name for row in results for name in ([row["variant"]] if isinstance(row, dict) else [row.lower, row.higher])
        }

    for name in (*DRAWINGS, "sandwich", "rates_by_epoch", "inference_gaps"):
        monkeypatch.setattr(figures, {"depth_width": "depth_width_map"}.get(name, name), spy(name))
    report.write(fake(tmp_path / "spied", fine=True, **GREY))
    for name in {*DRAWINGS, "sandwich"} - {"differences"}:
        assert captured[name] == [["hvae", "vae"], ["mhvae"]]
    assert captured["differences"] == [["hvae", "vae"]]
    assert captured["rates_by_epoch"] == captured["inference_gaps"] == [["hvae", "mhvae", "vae"]]


def test_a_variant_keeps_its_colour_in_a_figure_of_some():
    """Among all variants of a study the second has the second colour, where it is drawn alone too."""
    assert figures.colour("b", ["b"]) == figures.colour("a", ["a", "b"])
    with figures.coloured(["a", "b"]):
        assert figures.colour("b", ["b"]) != figures.colour("a", ["a"])
    assert figures.colour("b", ["b"]) == figures.colour("a", ["a", "b"])


def test_likelihood_and_measure_stand_in_every_table(mixed):
    """table.csv has the measure in full, table.md and the page its name, the terminal a row of each."""
    rows = table(mixed)
    assert {variant: rows[variant]["likelihood"] for variant in GREY} == GREY
    density = "density of pixels scaled to [0, 1]"
    assert [row["measure"] for row in rows.values()] == [density, density, "probability"]
    shown = {line.split()[0]: line.split()[1:] for line in report.table_text(mixed).splitlines() if line.strip()}
    assert shown["likelihood"] == list(GREY.values())
    assert shown["measure"] == ["density", "density", "probability"]
    assert max(map(len, report.table_text(mixed).splitlines())) <= 120
    for name in ("table.md", "report.html"):
        text = (mixed.report / name).read_text()
        assert "gaussian (density)" in text
        assert "discretized_logistic (probability)" in text
        assert f"The likelihood of vae and hvae is a {density}, whose nll may be below 0." in text
        assert "a density can grow without limit" in text


def test_a_training_without_its_likelihood_is_damaged(tmp_path):
    """A model.json that does not say which likelihood was trained is refused with the stage that makes it."""
    made = fake(tmp_path / "study", seeds=(0, 1), vae="poisson")
    with pytest.raises(InputError, match=r"train/vae/seed-0/model\.json: damaged; stage train@vae makes it"):
        report.build(made)


@pytest.mark.usefixtures("undrawn")
def test_the_report_says_what_overrides_the_file(tmp_path):
    """table.md and the page have a line a variant, and one for the budget's values."""
    made = fake(tmp_path, seeds=(0, 1))
    path = tmp_path / "params.yaml"
    path.write_text(path.read_text().replace("budget: default ", "budget: quick "))
    report.write(Study.at(tmp_path))
    lines = [
        "budget quick sets train.epochs to 4 in place of 60, train.seeds to [0, 1] in place of [0, 1, 2],",
        "vae: model.depth 1 in place of 2; model.z_ratio 1.0 in place of 0.5; searched: model.z_dim over 4..32, log",
    ]
    text, page = (made.report / "table.md").read_text(), (made.report / "report.html").read_text()
    for line in lines:
        assert f"\n- {line}" in text
        assert f"<li>{line}" in page


def test_the_page_loads_nothing(study):
    """The page refers to no address: every image is a data URI, and there is no script, link or style to load."""
    page = (study.report / "report.html").read_text()
    links = re.findall(r'<a href="([^"]*)"', page)
    runs = [f"http://127.0.0.1:5000/#/experiments/7/runs/{name}{seed}" for name in WIDTHS for seed in range(3)]
    assert [link for link in links if not link.startswith("#")] == runs
    for anchor in {link for link in links if link.startswith("#")}:
        assert f'<section id="{anchor[1:]}">' in page
    rest = re.sub(r'<a href="[^"]*"', "", page)
    sources = re.findall(r'(?:src|href|srcset|data|action)\s*=\s*"([^"]*)"', rest)
    assert all(source.startswith(("data:image/png;base64,", "#")) for source in sources)
    assert not re.search(r"https?://|<script|<link|<iframe|@import|url\((?!#)", rest)
    assert page.count("<img") == page.count('alt="') > 3 * 10
    assert page.count("<svg") == page.count('aria-label="') - 1 == len(DRAWINGS | OTHERS)  # and the contents
    assert "may be negative" in page
    assert "<code>dvc repro</code>" in page
    assert str(study.root) not in page


def test_all_outputs_are_written_and_the_same_each_time(tmp_path, study, monkeypatch):
    """Equal inputs give equal bytes, in another folder too, so that DVC sees no change where there is none."""
    names = {str(path.relative_to(study.report)) for path in study.report.rglob("*") if path.is_file()}
    pictures = {
        f"{folder}/{name}.{kind}"
        for folder, kind in (("figures", "png"), ("paper", "pdf"))
        for name in DRAWINGS | OTHERS
    }
    tables = {"results.csv", "comparisons.csv", "curves.csv", "table.csv", "table.md", "milestones.csv", "summary.json"}
    assert names == {"report.html", "paper/comparison.tex", "paper/differences.tex"} | tables | pictures
    again = fake(tmp_path / "again")
    monkeypatch.setattr(figures, "svg", SVG)
    report.write(again)
    for name in names:
        assert (again.report / name).read_bytes() == (study.report / name).read_bytes()


def test_the_curves_of_all_variants_are_one_table(study):
    """curves.csv, which DVC plots, has a row a variant and epoch with both bounds; figures/ holds PNGs alone."""
    rows = read_csv(study.report / "curves.csv")
    assert list(rows[0]) == ["variant", "epoch", "train/elbo", "valid/elbo"]
    assert [(row["variant"], row["epoch"]) for row in rows] == [(v, str(e)) for v in WIDTHS for e in range(1, 21)]
    last = read_csv(study.curves("hvae"))[-1]
    assert rows[39]["valid/elbo"] == last["valid/elbo"]
    assert {path.suffix for path in (study.report / "figures").iterdir()} == {".png"}


def test_the_summary_holds_means_by_variant(study):
    """summary.json is {variant: {metric: mean over seeds}}."""
    summary = json.loads((study.report / "summary.json").read_text())
    assert list(summary) == list(WIDTHS)
    for variant, row in table(study).items():
        assert summary[variant]["nll"] == float(row["nll [nats]"])
        assert f"rate/z{len(WIDTHS[variant])}" in summary[variant]


@pytest.mark.usefixtures("undrawn")
def test_one_seed_has_no_interval(tmp_path):
    """With one seed the report is written, without intervals, and says so."""
    study = fake(tmp_path / "one", seeds=(5,))
    report.write(study)
    assert {row["nll half [nats]"] for row in table(study).values()} == {""}
    text = (study.report / "table.md").read_text()
    assert "±" not in "".join(line for line in text.splitlines() if line.startswith("|"))
    assert "One seed has no interval, so that no difference is shown to be more than chance." in text
    assert "Seeds: 5." in text


@pytest.mark.usefixtures("undrawn")
def test_different_protocols_are_not_compared(tmp_path):
    """Where a variant was measured otherwise, no nll is called lowest."""
    study = fake(tmp_path / "mixed")
    path = study.evaluate("vae") / "decomposition.json"
    write_json(path, json.loads(path.read_text()) | {"protocol": PROTOCOL | {"images": 100}})
    report.write(study)
    text = (study.report / "table.md").read_text()
    assert "cannot be compared" in text
    assert "**" not in text
    assert "test images 100" in text
    shown = report.table_text(study)
    assert shown.startswith("study default, vae: digits")
    assert "\nstudy default, hvae and mhvae: digits" in shown
    assert "cannot be compared" in shown


@pytest.mark.parametrize(
    ("name", "stage"),
    [
        ("train/hvae/seed-1/curves.csv", "train@hvae"),
        ("curves/hvae.csv", "train@hvae"),
        ("train/hvae/seed-1/model.json", "train@hvae"),
        ("evaluate/mhvae/decomposition.json", "evaluate@mhvae"),
        ("evaluate/mhvae/pictures.safetensors", "evaluate@mhvae"),
        ("train/vae/seed-1/mlflow.json", "train@vae"),
        ("evaluate/mhvae/seed-1.parquet", "evaluate@mhvae"),
        ("sweep/vae/trials.csv", "sweep@vae"),
        ("sweep/vae/best.json", "sweep@vae"),
    ],
)
def test_a_missing_file_is_told_with_its_stage(tmp_path, name, stage):
    """A missing input is one line: which file, and which stage makes it."""
    study = fake(tmp_path / "study", seeds=(0, 1))
    (study.out / name).unlink()
    with pytest.raises(InputError) as caught:
        report.write(study)
    line = str(caught.value)
    assert line.startswith(f"experiments/default/{name}: no such file; stage {stage} makes it")
    assert "\n" not in line
    assert not study.report.exists()


def test_a_seed_that_was_not_evaluated_is_told(tmp_path):
    """Seeds that were added to the parameters after the evaluation are an error, not left out."""
    study = fake(tmp_path / "study", seeds=(0, 1))
    with pytest.raises(InputError, match="has no seed 2"):
        report.build(Study.at(study.folder))


@pytest.fixture(scope="module")
def fine(tmp_path_factory):
    study = fake(tmp_path_factory.mktemp("fine"), fine=True)
    report.write(study)
    return study


def test_a_figure_is_drawn_where_its_numbers_are(tmp_path, study, fine):
    """With all terms measured all figures are there, on the page too; without its terms a figure alone is missing."""
    plain = {path.name for path in (study.report / "figures").iterdir()}
    assert {path.name for path in (fine.report / "figures").iterdir()} - plain == {f"{name}.png" for name in DRAWN}
    page = (fine.report / "report.html").read_text()
    assert page.count("<svg") == len(DRAWINGS | OTHERS) + len(DRAWN)
    for number, (name, starts) in enumerate(DRAWN.items()):
        less = fake(tmp_path / str(number), seeds=(0, 1), fine=True)
        for variant in WIDTHS:
            path = less.evaluate(variant) / "decomposition.json"
            actual = json.loads(path.read_text())
            begins = tuple(f"test/{start}" for start in starts)
            actual["seeds"] = {
                seed: {key: cell for key, cell in cells.items() if not key.startswith(begins)}
                for seed, cells in actual["seeds"].items()
            }
            write_json(path, actual)
        report.write(less)
        assert {f"{other}.png" for other in DRAWN if (less.report / "figures" / f"{other}.png").exists()} == {
            f"{other}.png" for other in DRAWN if other != name
        }


def test_the_table_of_terms_holds_what_was_measured(fine):
    """A cell is mean and interval over seeds with the largest Monte Carlo error; levels of a term stand together."""
    comparison = report.build(fine)
    groups = tables.terms(comparison)
    first = ["the weights behind nll", "training images less test images"]
    assert list(groups) == [*first, "by level", "bounds by annealing", "over the data set", "inference", "factors"]
    rows = {name: (unit, cells) for group in groups.values() for name, unit, cells in group}
    page = (fine.report / "report.html").read_text()
    for index, variant in enumerate(WIDTHS):
        seeds = json.loads((fine.evaluate(variant) / "decomposition.json").read_text())["seeds"].values()
        for name, (_, cells) in rows.items():
            actual = [seed[f"test/{name}"] for seed in seeds if f"test/{name}" in seed]
            if actual:
                mean = comparison.results[index].metrics[name].text(3)
                assert cells[index] == (mean, f"{max(cell['se'] for cell in actual):.2g}")
                assert f"<td>{mean.replace('<', '&lt;')} <small>se 0.0008</small></td>" in page
            else:
                unmeasured = variant == "hvae" and name.startswith("mutual_information/z2")
                assert cells[index] == ("not measurable" if unmeasured else "", "")
    names = [name for name, *_ in groups["over the data set"]]
    ends = ("saturated", "z1", "z2/lower", "z2/upper")
    assert names[:5] == ["mutual_information", *(f"mutual_information/{at}" for at in ends)]
    assert {name: rows[name][0] for name in ("gap/z1", "mig/z1")} == {"gap/z1": "nats", "mig/z1": "score"}


def test_errors_that_hold_something_fixed_are_named_as_such(fine):
    """A sentence names the errors that repeated measurements exceed, and what they hold fixed."""
    notes = "\n".join(tables.notes(report.build(fine)))
    assert "error of approximation_gap and amortization_gap holds the optimized posterior fixed" in notes
    assert "error of bdmc/width holds the number of temperatures fixed" in notes


def test_what_is_saturated_or_not_measurable_is_said_beside_the_table(fine):
    """A sentence names the variants whose information the number of images limits, and the levels without a number."""
    notes = "\n".join(tables.notes(report.build(fine)))
    assert "The mutual information of vae is saturated: within 0.5 nats of log N" in notes
    assert "The mutual information of z2 of hvae is not measurable" in notes
    assert notes.count("saturated") == notes.count("not measurable") == 1
    header, cells = tables.short(report.build(fine))
    assert cells[0][header.index("information by level (nats)")] == "9.50"
    assert "not measurable" in (fine.report / "report.html").read_text()


def test_the_tidy_table_names_term_and_level(fine):
    """Term and level of a row are its metric; a level is x (the image), z1, ... or none."""
    rows = read_csv(fine.report / "results.csv")
    assert {row["level"] for row in rows} == {"", "x", "z1", "z2", "z3"}
    actual = {row["metric"]: (row["term"], row["level"], row["unit"]) for row in rows}
    assert actual["mutual_information/z2/lower"] == ("mutual_information/lower", "z2", "nats")
    assert actual["probe/size/x"] == ("probe/size", "x", "score")
    assert actual["iwae/50"] == ("iwae/50", "", "nats")
    assert {row["metric"] for row in rows if not row["level"]} == {row["term"] for row in rows if not row["level"]}


def test_whiskers_are_standard_errors(monkeypatch, fine, tmp_path):
    """Figures get the mean over seeds and s / sqrt(n); of one seed the Monte Carlo standard error, and say which."""
    captured = {}

    def spy(means, error):
        captured.update(means=means, error=error)
        return figures.samples(np.eye(8)[None, None], "spy")

    monkeypatch.setattr(figures, "inference_gaps", spy)
    report.write(fine)
    seeds = json.loads((fine.evaluate("vae") / "decomposition.json").read_text())["seeds"].values()
    values = [seed["test/amortization_gap"]["value"] for seed in seeds]
    assert captured["means"]["vae"]["amortization_gap"] == pytest.approx((np.mean(values), stats.sem(values)))
    assert captured["error"] == "standard error of the mean over seeds"
    report.write(fake(tmp_path / "one", seeds=(0,), fine=True))
    assert captured["means"]["vae"]["amortization_gap"][1] == 0.0008
    assert "Monte Carlo" in captured["error"]


def test_variants_that_differ_in_beta_are_a_curve(tmp_path):
    """Three variants of one form and several betas are one family, with rate, distortion and nats by level of each."""
    made = fake(tmp_path)
    text = (tmp_path / "params.yaml").read_text()
    for variant, old in (("vae", "{model.depth: 1, model.z_ratio: 1.0}"), ("hvae", "{model.parents: every}")):
        assert families(made, report.build(made).results, report.build(made).seeds) == {}
        beta = {"vae": 2.0, "hvae": 0.5}[variant]
        text = text.replace(f"{variant}: {old}", f"{variant}: {{model.parents: nearest, train.beta: {beta}}}")
    text = text.replace("mhvae: {model.parents: nearest}", "mhvae: {model.parents: nearest, train.beta: 1.0}")
    (tmp_path / "params.yaml").write_text(text.replace("objective: elbo ", "objective: beta "))
    made = Study.at(tmp_path)
    built = report.build(made)
    results = built.results
    (models,) = families(made, results, built.summed).values()
    assert [model.beta for model in models] == [0.5, 1.0, 2.0]
    assert [model.rate for model in models] == [results[position].metrics["kl"].mean for position in (1, 2, 0)]
    assert [len(model.levels) for model in models] == [2, 3, 1]
    report.write(made)
    assert (made.report / "figures" / "trade_off.png").exists()
    assert "The trade of rate for distortion" in (made.report / "report.html").read_text()


@pytest.mark.parametrize(
    ("searches", "words"),
    [
        (1, "cover 3 seeds, images and draws; the search was done once, and its luck is not in the interval."),
        (
            2,
            "cover 3 seeds, images and draws; the interval covers the search only in part, as 3 seeds share 2"
            " searches.",
        ),
        (3, "cover 3 seeds, images and draws; the interval covers 3 searches too, as each seed has its own."),
    ],
)
@pytest.mark.usefixtures("undrawn")
def test_the_report_says_whether_intervals_cover_the_search(tmp_path, searches, words):
    """Verdict, notes and page say what is true, and the page has a row for each search with its own trials."""
    made = fake(tmp_path)
    for variant in WIDTHS:
        search_again(made, variant, searches)
    made = Study.at(made.folder, {"train.seeds": [0, 1, 2], "sweep.searches": searches})
    report.write(made)
    comparison, page = report.build(made), (made.report / "report.html").read_text()
    assert words in comparison.verdict
    clause = words.partition("; ")[2]
    assert f"over seeds alone for the rest; {clause}"[:-1] in tables.notes(comparison)[1]
    assert html.unescape(page).count(clause[:-1]) == 3  # the verdict, a note, and beside the differences
    assert ("mhvae search 2</td>\n<td>4</td><td>2</td>" in page) is (searches == 3)
    assert ("model.z_dim=10" in page) is (searches == 3)
    assert table(made)["vae"]["searches"] == str(searches)


def test_without_a_search_nothing_is_said_of_it(tmp_path):
    """Where no variant was searched, no sentence speaks of the luck of the search."""
    made = fake(tmp_path)
    for variant in WIDTHS:
        write_csv(made.sweep(variant) / "trials.csv", [])
        nothing = {"trial": None, "params": {}, "metric": "valid/objective", "value": None}
        write_json(made.sweep(variant) / "best.json", {"searches": [nothing]})
    assert "images and draws. " in f"{report.build(made).verdict} "
    assert "search" not in " ".join([report.build(made).verdict, *tables.notes(report.build(made))])


@pytest.mark.usefixtures("undrawn")
def test_seeds_with_different_models_are_shown_as_such(tmp_path):
    """Depths, units and weights are those of all seeds; a mean over some seeds says over how many, everywhere."""
    made = fake(tmp_path)
    make_shallow(made, "mhvae", 1)
    report.write(made)
    comparison = report.build(made)
    result = next(result for result in comparison.results if result.variant == "mhvae")
    assert (result.depths, result.widths) == ("2 or 3", "12 + 6 + 3 or 12 + 6")
    assert result.parameters == "60001 to 69008"
    row = table(made)["mhvae"]
    assert (row["depth"], row["widths"], row["parameters"]) == ("2 or 3", "12 + 6 + 3 or 12 + 6", "60001 to 69008")
    assert (row["rate/z3 seeds"], table(made)["hvae"]["rate/z3 seeds"]) == ("2 of 3 seeds", "")
    values = comparison.seeds.query("variant == 'mhvae' and metric == 'rate/z3'")["value"]
    assert len(values) == 2
    assert result.metrics["rate/z3"].mean == pytest.approx(values.mean())
    assert str(result.metrics["rate/z3"]).endswith(" (2 of 3 seeds)")
    assert re.search(r"\+ 0\.\d\d \(2 of 3 seeds\) \|", (made.report / "table.md").read_text())
    assert "The seeds of mhvae have different models" in (made.report / "table.md").read_text()
    assert re.search(r"rate/z3 \(nats\) .* \(2 of 3 seeds\)", report.table_text(made))
    summary = json.loads((made.report / "summary.json").read_text())["mhvae"]
    assert "rate/z3" not in summary
    assert summary["rate/z3 (2 of 3 seeds)"] == result.metrics["rate/z3"].mean


def test_parts_by_level_sum_to_the_whole_where_seeds_differ_in_depth(tmp_path):
    """In stacked figures a level that a seed's model lacks adds 0 nats, and the caption says so."""
    made = fake(tmp_path, fine=True)
    make_shallow(made, "mhvae", 1)
    comparison = report.build(made)
    means, error = drawings._means(comparison)
    values = comparison.seeds.query("variant == 'mhvae'")
    for term in ("chain_kl", "gap", "rate"):
        total = values[(values["term"] == term) & (values["level"] != "")].groupby("seed")["value"].sum()
        shown = sum(means["mhvae"][f"{term}/z{level}"][0] for level in (1, 2, 3))
        assert shown == pytest.approx(total.mean())
    assert "A level that a seed's model lacks adds 0 to what is summed over levels" in error
    assert "What only some seeds have is the mean over those" in error


def test_a_search_that_was_not_trained_shows_each_search(tmp_path):
    """The table of trials has the number of the search, and each search's best settings have a line."""
    made = fake(tmp_path)
    search_again(made, "vae", 2)
    actual = search(made, "vae")
    assert "8 trials in 2 searches" in actual.about
    assert actual.header[:2] == ["search", "trial"]
    assert {row[0] for row in actual.cells} == {"0", "1"}
    assert actual.best == ["search 0: model.z_dim=8", "search 1: model.z_dim=9"]


def test_annealing_says_what_nll_lacks(tmp_path):
    """A note has gain plus width of each variant, and says where the chains are too short to say anything."""
    made = fake(tmp_path, fine=True)
    path = made.evaluate("hvae") / "decomposition.json"
    for variant, gain in (("vae", 0.02), ("hvae", -0.4), ("mhvae", 0.0)):
        path = made.evaluate(variant) / "decomposition.json"
        actual = json.loads(path.read_text())
        for cells in actual["seeds"].values():
            cells["test/ais/gain"] = {"value": gain, "se": 0.05}
        write_json(path, actual)
    text = " ".join(tables.notes(report.build(made)))
    assert "by annealing, in nats: vae 0.03, hvae -0.39, mhvae 0.01." in text
    assert "For hvae it lies clearly below L_k: its chains are too short there" in text


def test_the_plane_holds_points_of_one_split(study):
    """Trials and final models are both at their best epochs on the validation set; a failed trial has no point."""
    *points, none = [trial["point"] for trial in inputs.trials(study, "vae")]
    assert np.array(points) == pytest.approx(np.array([(12.5, 12.0), (14.0, 9.9), (11.0, 15.0)]))
    assert none is None
    rows = read_csv(study.train("vae") / "seed-1" / "curves.csv")
    best = (float(rows[14]["valid/kl"]), -float(rows[14]["valid/reconstruction"]))
    assert inputs.finals(study, "vae")[1] == pytest.approx(best)


def test_a_variant_that_was_not_searched_has_no_trials(tmp_path):
    """Where a space was empty the page says that nothing was searched, and the plane has the final models alone."""
    study = fake(tmp_path / "study", seeds=(0, 1))
    for variant in WIDTHS:
        write_csv(study.sweep(variant) / "trials.csv", [])
        write_json(
            study.sweep(variant) / "best.json",
            {"searches": [{"trial": None, "params": {}, "metric": "valid/objective", "value": None}]},
        )
    report.write(study)
    assert (study.report / "report.html").read_text().count("nothing was searched") == len(WIDTHS)
    assert (study.report / "figures" / "rate_distortion.png").exists()


def test_the_terminal_shows_the_most_telling_terms(fine):
    """Of the finer decompositions the terminal has chain_kl and gap by level and the width of the sandwich alone."""
    shown = {line.split(" ")[0] for line in report.table_text(fine).splitlines()}
    values = finer("mhvae", 3, np.random.default_rng(0))
    assert shown & set(values) == {*(f"{key}/z{t}" for key in ("chain_kl", "gap") for t in (1, 2, 3)), "bdmc/width"}
    assert max(map(len, report.table_text(fine).splitlines())) <= 120


def test_the_terminal_table_is_narrow(study):
    """Three variants fit into 120 columns, a level to a row."""
    text = report.table_text(study)
    assert max(map(len, text.splitlines())) <= 120
    assert re.search(r"rate/z2 \(nats\) +-1\.\d\d ± ", text)
    assert re.search(r"nll \(nats\) +23\.\d\d ± 0\.\d\d", text)


def test_the_terminal_ends_with_the_verdict(study):
    """Under the table stands the sentence that table.md holds, wrapped."""
    verdict = report.table_text(study).split("\n\n")[-1]
    assert verdict.replace("\n", " ") == report.build(study).verdict


def test_the_terminal_table_needs_the_report(tmp_path):
    """Before the report is made, the table says which command makes it."""
    shutil.copy(ROOT / "params.yaml", tmp_path)
    with pytest.raises(InputError, match=r"table\.csv: no such file; stage report makes it: run `dvc repro`"):
        report.table_text(Study.at(tmp_path))


def test_the_terminal_table_starts_fast(study):
    """Showing the table loads no plotting, no data frames, no page engine and no network library."""
    code = (
        "import sys; from pathlib import Path; from pipeline import report; from pipeline.study import Study;"
        "print(report.table_text(Study.at(Path(sys.argv[1]))));"
        "assert not {'matplotlib', 'pandas', 'jinja2', 'scipy', 'numpy', 'torch'} & set(sys.modules)"
    )
    command = [sys.executable, "-W", "error", "-c", code, str(study.folder)]
    environment = dict(os.environ)  # and not what readline has written below it
    done = subprocess.run(command, check=True, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == report.table_text(study).strip()


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_the_interval_covers_as_often_as_it_says(confidence):
    """Over many samples of three, the interval holds the true mean with the stated frequency."""
    rng = np.random.default_rng(1)
    spans = [report.interval(list(rng.normal(size=3)), confidence) for _ in range(4000)]
    share = np.mean([abs(span.mean) <= span.half for span in spans])
    assert share == pytest.approx(confidence, abs=4 * math.sqrt(confidence * (1 - confidence) / 4000))


def test_numbers_are_rounded_without_a_false_zero():
    """A half width too small to show is shown as such, and 0 has no minus."""
    assert str(report.Interval(-0.001, 0.001)) == "0.00 ± <0.01"
    assert str(report.Interval(-23.456, None)) == "-23.46"
    assert str(report.Interval(3.0, 0.0)) == "3.00 ± 0.00"


def test_published_numbers_stand_beside_the_studys_own(tmp_path):
    """The table has the nll at each milestone, the published number, and own - published; a figure shows them."""
    made = fake(tmp_path)
    text = (tmp_path / "params.yaml").read_text().replace("published: {}", "published: {vae: {a paper: 23.0}}")
    (tmp_path / "params.yaml").write_text(text)
    made = Study.at(tmp_path)
    rows = [
        {"seed": seed, "epoch": epoch, "metric": "nll", "value": nll, "se": 0.01}
        for seed in (0, 1)
        for epoch, nll in ((4, 30.0 + seed), (13, 25.0))
    ]
    write_csv(made.evaluate("vae") / "milestones.csv", rows)
    report.write(made)
    actual = milestones(made)
    assert list(actual) == ["vae"]
    assert actual["vae"][4]["nll"].mean == 30.5
    comparison = report.build(made)
    header, cells = beside(made, comparison, actual)
    own = comparison.results[0].metrics["nll"].mean
    assert header == [
        "variant",
        "epoch 4, k = 500",
        "epoch 13, k = 500",
        "tested weights, k = 5000",
        "a paper",
        "own - a paper",
    ]
    assert cells[0][2:] == [
        "25.00 ± 0.00 (2 of 3 seeds)",
        str(comparison.results[0].metrics["nll"]),
        "23.00",
        f"{own - 23.0:+.2f}",
    ]
    assert cells[1][1:3] == ["", ""]
    assert cells[1][4:] == ["", ""]
    assert (made.report / "figures" / "milestones.png").exists()
    assert f"{own - 23.0:+.2f}" in (made.report / "report.html").read_text()
