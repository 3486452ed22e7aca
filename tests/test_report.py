from __future__ import annotations

import csv
import json
import math
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from pipeline import figures, report
from pipeline.errors import InputError
from pipeline.files import read_csv, write_bytes, write_csv, write_json
from pipeline.study import Study

ROOT = Path(report.__file__).parents[2]
WIDTHS = {"vae": [16], "hvae": [16, 8], "mhvae": [12, 6, 3]}
PROTOCOL = {"data": "digits", "protocol": "stratified", "binarization": "dynamic", "images": 360, "draws": 5000}
PROTOCOL |= {"digest": "3121e022fa5152dbcca9b7ab6f19f8e4"}
NLL = {"vae": 23.4, "hvae": 22.9, "mhvae": 22.8}


def fake(folder: Path, seeds: tuple[int, ...] = (0, 1, 2), spread: float = 0.05) -> Study:
    """Write all that the report reads, from small synthetic numbers."""
    folder.mkdir(exist_ok=True)
    shutil.copy(ROOT / "params.yaml", folder)
    study = Study.at(folder, {"train.seeds": list(seeds)})
    rng = np.random.default_rng(0)
    for variant, widths in WIDTHS.items():
        depth, tests = len(widths), {}
        for seed in seeds:
            rates = [14.0, -1.25, 0.5][:depth] + spread * rng.normal(size=depth)
            nll, gap = NLL[variant] + spread * rng.normal(), 0.4 + spread * rng.random()
            values = {"elbo": -nll - gap, "reconstruction": sum(rates) - nll - gap, "kl": sum(rates)}
            values |= {f"rate/z{t}": rate for t, rate in enumerate(rates, start=1)}
            values |= {"iwae/1": -nll - gap, "iwae/50": -nll - 0.1, "iwae/5000": -nll, "nll": nll, "gap": gap}
            values |= {"bpd": nll / 64 / math.log(2)}
            values |= {f"active/z{t}": max(1, width - 2 - seed % 2) for t, width in enumerate(widths, start=1)}
            tests[str(seed)] = {f"test/{key}": {"value": float(v), "se": 0.0008} for key, v in values.items()}
            home = study.train(variant) / f"seed-{seed}"
            write_json(
                home / "model.json", {"widths": widths, "parameters": 69008, "seconds": 6.0 + seed, "seed": seed}
            )
            write_csv(home / "curves.csv", [_epoch(e, values, rates) for e in range(1, 21)])
        write_json(
            study.evaluate(variant) / "decomposition.json", {"variant": variant, "protocol": PROTOCOL, "seeds": tests}
        )
        for name in report.PICTURES:
            write_bytes(study.evaluate(variant) / f"{name}.png", picture(name))
        space = {"model.z_dim": 8} | ({"model.depth": depth} if variant != "vae" else {})
        trials = [
            {"number": n, "state": state, "value": value, **space, "epochs": 30, "seconds": 1.5, "run_id": "a" * 32}
            for n, state, value in [
                (0, "COMPLETE", -24.5),
                (1, "COMPLETE", -23.9),
                (2, "PRUNED", -26.0),
                (3, "FAIL", None),
            ]
        ]
        write_csv(study.sweep(variant) / "trials.csv", trials)
        write_json(study.sweep(variant) / "best.json", {"trial": 1, "params": space})
    return study


@cache
def picture(name: str) -> bytes:
    return figures.png(figures.samples(np.eye(8)[None].repeat(4, 0), name))


def _epoch(epoch: int, values: dict[str, float], rates: np.ndarray) -> dict[str, float]:
    row = {"epoch": epoch, "step": epoch * 20, "seconds": epoch * 0.1}
    for split in ("train", "valid"):
        bound = values["elbo"] - 20 * math.exp(-epoch / 3)
        row |= {f"{split}/elbo": bound, f"{split}/reconstruction": bound + sum(rates), f"{split}/kl": sum(rates)}
        row |= {f"{split}/rate/z{t}": rate for t, rate in enumerate(rates, start=1)}
    return row


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    study = fake(tmp_path_factory.mktemp("study"))
    report.write(study)
    return study


def table(study: Study) -> dict[str, dict[str, str]]:
    with (study.report / "table.csv").open(newline="", encoding="utf-8") as file:
        return {row["variant"]: row for row in csv.DictReader(file)}


def test_numbers_are_means_with_student_intervals(study):
    """Every metric in table.csv is the mean over seeds, its half width that of scipy's t interval."""
    for variant, row in table(study).items():
        seeds = json.loads((study.evaluate(variant) / "decomposition.json").read_text())["seeds"]
        for key in ("elbo", "nll", "gap", "kl", "rate/z1", "iwae/50"):
            values = [seed[f"test/{key}"]["value"] for seed in seeds.values()]
            low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
            assert float(row[f"{key} [nats]"]) == pytest.approx(np.mean(values))
            assert float(row[f"{key} half [nats]"]) == pytest.approx((high - low) / 2)
        assert float(row["seconds [s]"]) == 7.0


def test_the_tidy_table_holds_every_number_once(study):
    """A row of results.csv is one number of one seed, as evaluated; only the training's seconds have no error."""
    frame = report.results(study)
    assert list(frame) == ["variant", "seed", "depth", "metric", "value", "se"]
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
        "mean ± 95% interval over seeds (Student t)",
        "",
    ]


def test_the_lowest_nll_is_marked_and_its_overlap_told(tmp_path, study):
    """The lowest mean nll is bold; the sentence says which intervals it shares."""
    lines = (study.report / "table.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines if "**" in line] == ["| mhvae"]
    assert "The lowest nll has mhvae" in report.build(study).verdict
    clear = report.build(fake(tmp_path / "clear", spread=0.001)).verdict
    assert "lies apart from that of vae and hvae" in clear
    wide = report.build(fake(tmp_path / "wide", spread=1.0)).verdict
    assert "overlaps with that of" in wide


def test_the_page_loads_nothing(study):
    """The page refers to no address: every image is a data URI, and there is no script, link or style to load."""
    page = (study.report / "report.html").read_text()
    sources = re.findall(r'(?:src|href|srcset|data|action)\s*=\s*"([^"]*)"', page)
    assert len(sources) == 5 + 3 * len(WIDTHS)
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert not re.search(r"https?://|<script|<link|<iframe|@import|url\(", page)
    assert page.count("<img") == page.count('alt="') == len(sources)
    assert "may be negative" in page
    assert "<code>dvc repro</code>" in page
    assert str(study.root) not in page


def test_all_outputs_are_written_and_the_same_each_time(tmp_path, study):
    """Equal inputs give equal bytes, in another folder too, so that DVC sees no change where there is none."""
    names = {path.name for path in study.report.iterdir()}
    pictures = {f"{name}.png" for name in ("bounds", "rates_by_level", "curves", "rates_by_epoch", "depth_width")}
    assert names == {"results.csv", "table.csv", "table.md", "report.html", "summary.json"} | pictures
    again = fake(tmp_path / "again")
    report.write(again)
    for name in names:
        assert (again.report / name).read_bytes() == (study.report / name).read_bytes()


def test_the_summary_holds_means_by_variant(study):
    """summary.json is {variant: {metric: mean over seeds}}."""
    summary = json.loads((study.report / "summary.json").read_text())
    assert list(summary) == list(WIDTHS)
    for variant, row in table(study).items():
        assert summary[variant]["nll"] == float(row["nll [nats]"])
        assert f"rate/z{len(WIDTHS[variant])}" in summary[variant]


def test_one_seed_has_no_interval(tmp_path):
    """With one seed the report is written, without intervals, and says so."""
    study = fake(tmp_path / "one", seeds=(5,))
    report.write(study)
    assert {row["nll half [nats]"] for row in table(study).values()} == {""}
    text = (study.report / "table.md").read_text()
    assert "±" not in "".join(line for line in text.splitlines() if line.startswith("|"))
    assert "One seed: no interval" in text
    assert "Seeds: 5." in text


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
        ("train/hvae/seed-1/model.json", "train@hvae"),
        ("evaluate/mhvae/decomposition.json", "evaluate@mhvae"),
        ("evaluate/mhvae/levels.png", "evaluate@mhvae"),
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
    done = subprocess.run(command, check=True, cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == report.table_text(study).strip()


@pytest.mark.parametrize("confidence", [0.5, 0.9, 0.99])
def test_the_interval_covers_as_often_as_it_says(confidence):
    """Over many samples of three, the interval holds the true mean with the stated frequency."""
    rng = np.random.default_rng(1)
    spans = [report.interval(list(rng.normal(size=3)), confidence) for _ in range(4000)]
    share = np.mean([abs(span.mean) <= span.half for span in spans])
    assert share == pytest.approx(confidence, abs=4 * math.sqrt(confidence * (1 - confidence) / 4000))


def test_numbers_are_rounded_without_a_false_zero():
    """A half width too small to show is told as such, and 0 has no minus."""
    assert str(report.Interval(-0.001, 0.001)) == "0.00 ± <0.01"
    assert str(report.Interval(-23.456, None)) == "-23.46"
    assert str(report.Interval(3.0, 0.0)) == "3.00 ± 0.00"
