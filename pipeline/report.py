"""The report: all variants of a study side by side, on the test set, from the files of the stages before it.

A number is the mean over seeds, mean +- t s / sqrt(n): s is the standard deviation over the n seeds and t the quantile
of Student's distribution with n - 1 degrees of freedom that gives the interval `report.confidence`. One seed has
no interval. Bounds and rates are in nats per example. `table.csv` holds every number and the protocol it was measured
by, a row a variant; `table.md`, `report.html` and `table_text` show a part of it.
"""

from __future__ import annotations

import base64
import math
import statistics
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.files import read_csv, read_json, write_bytes, write_csv, write_json, write_text
from pipeline.params import digest
from pipeline.study import Study

__all__ = ["Comparison", "Interval", "Result", "build", "interval", "table_text", "write"]

PICTURES = ("samples", "reconstructions", "levels")
SHOWN = (
    "elbo",
    "reconstruction",
    "kl",
    "rate",
    "nll",
    "gap",
    "bpd",
    "active",
    "seconds",
)  # of table.csv, in a terminal
PROTOCOL = {"data": "data set", "images": "test images", "draws": "draws per image", "digest": "data digest"}


@dataclass(frozen=True)
class Interval:
    """A mean over seeds, and the half width of its confidence interval; None where there is one seed."""

    mean: float
    half: float | None

    def __str__(self) -> str:
        if self.half is None:
            return _fixed(self.mean)
        return f"{_fixed(self.mean)} ± {_fixed(self.half) if self.half >= 0.005 or self.half == 0 else '<0.01'}"


@dataclass(frozen=True)
class Result:
    """What the stages found for one variant; metrics are named without their prefix `test/`."""

    variant: str
    widths: tuple[int, ...]  # of z_1, ..., z_T
    parameters: int
    protocol: Mapping[str, Any]
    seeds: Mapping[int, Mapping[str, float]]  # test values, `test/` kept
    error: float  # the largest Monte Carlo standard error of a seed's nll, nats
    metrics: Mapping[str, Interval]  # and `seconds`, of training
    curves: Mapping[int, Sequence[Mapping[str, float]]]
    trials: Sequence[Mapping[str, Any]]
    best: Mapping[str, Any]  # trial: number, value and params
    pictures: Mapping[str, bytes]  # PNG

    @property
    def depth(self) -> int:
        """T."""
        return len(self.widths)

    def levels(self, metric: str) -> list[Interval]:
        """Return a metric that is split by level, from z_1 up."""
        return [self.metrics[f"{metric}/z{level}"] for level in range(1, self.depth + 1)]


@dataclass(frozen=True)
class Comparison:
    """The results of all variants of a study."""

    confidence: float
    results: tuple[Result, ...]

    @property
    def comparable(self) -> bool:
        """Were all variants measured by one protocol?"""
        return all(result.protocol == self.results[0].protocol for result in self.results)

    @property
    def lowest(self) -> Result | None:
        """The variant with the lowest mean nll, where the numbers can be compared."""
        return min(self.results, key=lambda result: result.metrics["nll"].mean) if self.comparable else None

    @property
    def verdict(self) -> str:
        """Say which nll is lowest, and whether the seeds tell it from the others."""
        best = self.lowest
        if best is None:
            return "The variants were measured by different protocols: their numbers cannot be compared."
        here = best.metrics["nll"]
        text = f"The lowest nll has {best.variant}: {here} nats."
        others = [result for result in self.results if result is not best]
        if here.half is None:
            return f"{text} One seed: no interval, so no difference is shown to be more than chance."
        if not others:
            return text
        overlap = [result.variant for result in others if _overlap(here, result.metrics["nll"])]
        clear = [result.variant for result in others if result.variant not in overlap]
        text += f" Its {self.confidence:.0%} interval over {len(best.seeds)} seeds"
        parts = [f"overlaps with that of {_join(overlap)}"] if overlap else []
        parts += [f"lies apart from that of {_join(clear)}"] if clear else []
        few = " Fewer than 3 seeds carry no claim." if len(best.seeds) < 3 else ""
        return f"{text} {' and '.join(parts)}.{few}"


def interval(values: Sequence[float], confidence: float) -> Interval:
    """Return the mean of independent values and the half width of its Student t interval."""
    if len(values) == 1:
        return Interval(values[0], None)
    from scipy.special import stdtrit

    t = float(stdtrit(len(values) - 1, (1 + confidence) / 2))
    return Interval(statistics.fmean(values), t * statistics.stdev(values) / math.sqrt(len(values)))


def build(study: Study) -> Comparison:
    """Read the results of all variants; a missing file raises `InputError`, which names the stage that makes it."""
    params = study.params
    return Comparison(params.report.confidence, tuple(_result(study, variant) for variant in params.variants))


def write(study: Study) -> None:
    """Write tables, figures, `summary.json` and the page `report.html` into the report's folder."""
    comparison = build(study)
    folder = study.report
    drawings = _draw(comparison, folder)
    write_csv(folder / "table.csv", _rows(comparison))
    header, cells = _table(comparison)
    lines = [header, ["---", *("---:" for _ in header[1:])], *cells]
    notes = [comparison.verdict, *_notes(comparison)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    write_text(folder / "table.md", "\n\n".join([table, *notes]) + "\n")
    means = {r.variant: {name: value.mean for name, value in r.metrics.items()} for r in comparison.results}
    write_json(folder / "summary.json", means)
    write_text(folder / "report.html", _page(study, comparison, drawings))


def table_text(study: Study) -> str:
    """Return the written table for a terminal: a column a variant, a row a number, under its protocol."""
    path = study.report / "table.csv"
    rows = read_csv(_need(study, path, "report"))
    table = [["", *(row["variant"] for row in rows)]]
    table += [[key, *(row[key] for row in rows)] for key in ("depth", "widths", "parameters", "seeds")]
    for column in rows[0]:
        name, bracket, unit = column.partition(" [")
        if bracket and name.split("/")[0] in SHOWN and not name.endswith(" half"):
            cells = [_cell(row[column], row.get(f"{name} half [{unit}", "")) for row in rows]
            table.append([f"{name} ({unit[:-1]})", *cells])
    widths = [max(len(line[i]) for line in table) for i in range(len(table[0]))]
    pad = [str.ljust, *[str.rjust] * len(rows)]
    text = ["  ".join(put(cell, w) for put, cell, w in zip(pad, line, widths, strict=True)) for line in table]
    text.insert(1, "-" * len(text[0]))
    protocols = list(dict.fromkeys(_protocol(_protocol_of(row)) for row in rows))
    spread = f"{float(rows[0]['confidence']):.0%} interval over seeds (Student t); one seed has none"
    about = textwrap.wrap(f"study {study.name}, test set: {'; '.join(protocols)}; mean ± {spread}", 118)
    return "\n".join([*about, "", *text])


def _result(study: Study, variant: str) -> Result:
    seeds = study.params.variant(variant).train.seeds
    source = _need(study, study.evaluate(variant) / "decomposition.json", f"evaluate@{variant}")
    decomposition = read_json(source)
    missing = [seed for seed in seeds if str(seed) not in decomposition["seeds"]]
    if missing:
        raise InputError(
            f"{_shown(study, source)}: has no seed {missing[0]}; `dvc repro` runs evaluate@{variant} again"
        )
    models, curves = {}, {}
    for seed in seeds:
        folder = study.train(variant) / f"seed-{seed}"
        models[seed] = read_json(_need(study, folder / "model.json", f"train@{variant}"))
        rows = read_csv(_need(study, folder / "curves.csv", f"train@{variant}"))
        curves[seed] = [{key: float(value) for key, value in row.items() if value} for row in rows]
    tests = {seed: decomposition["seeds"][str(seed)] for seed in seeds}
    values = {seed: {key: float(cell["value"]) for key, cell in tests[seed].items()} for seed in seeds}
    confidence = study.params.report.confidence
    metrics = {
        key.removeprefix("test/"): interval([values[seed][key] for seed in seeds], confidence)
        for key in tests[seeds[0]]
    }
    metrics["seconds"] = interval([float(models[seed]["seconds"]) for seed in seeds], confidence)
    trials = read_csv(_need(study, study.sweep(variant) / "trials.csv", f"sweep@{variant}"))
    best = read_json(_need(study, study.sweep(variant) / "best.json", f"sweep@{variant}"))
    return Result(
        variant=variant,
        widths=tuple(models[seeds[0]]["widths"]),
        parameters=int(models[seeds[0]]["parameters"]),
        protocol=decomposition["protocol"],
        seeds=values,
        error=max(float(tests[seed]["test/nll"]["se"]) for seed in seeds),
        metrics=metrics,
        curves=curves,
        trials=[_trial(study, variant, row) for row in trials],
        best=best | {"value": next(float(row["value"]) for row in trials if int(row["number"]) == best["trial"])},
        pictures={
            name: _need(study, study.evaluate(variant) / f"{name}.png", f"evaluate@{variant}").read_bytes()
            for name in PICTURES
        },
    )


def _trial(study: Study, variant: str, row: Mapping[str, str]) -> dict[str, Any]:
    """Return what the map of the sweep shows of a trial; what was not swept is the variant's own."""
    model = study.params.variant(variant).model
    return {
        "variant": variant,
        "state": row["state"],
        "value": float(row["value"]) if row["value"] else None,
        "depth": int(row.get("model.depth") or model.depth),
        "z_dim": int(row.get("model.z_dim") or model.level_widths[0]),
    }


def _draw(comparison: Comparison, folder: Path) -> dict[str, bytes]:
    """Draw the figures that compare variants, save them, and return their bytes."""
    from pipeline import figures

    results = comparison.results
    curves = {result.variant: result.curves for result in results}
    spans = {r.variant: {name: (v.mean, v.half) for name, v in r.metrics.items()} for r in results}
    bounds = {variant: {k: v for k, v in row.items() if k == "elbo" or "iwae/" in k} for variant, row in spans.items()}
    drawings = {
        "bounds": figures.bounds(bounds, comparison.confidence),
        "rates_by_level": figures.rates_by_level({result.variant: result.seeds for result in results}),
        "curves": figures.curves(curves),
        "rates_by_epoch": figures.rates_by_epoch(curves),
        "depth_width": figures.depth_width_map([trial for result in results for trial in result.trials]),
    }
    contents = {name: figures.png(drawing) for name, drawing in drawings.items()}
    for name, content in contents.items():
        write_bytes(folder / f"{name}.png", content)
    return contents


def _rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the rows of `table.csv`; metrics in the order of the deepest variant, so that levels stand together."""
    deepest = sorted(comparison.results, key=lambda result: -result.depth)
    names = list(dict.fromkeys(name for result in deepest for name in result.metrics))
    columns = [f"{name}{part} [{_unit(name)}]" for name in names for part in ("", " half")]
    rows = []
    for result in comparison.results:
        row: dict[str, Any] = {
            "variant": result.variant,
            "depth": result.depth,
            "widths": " + ".join(map(str, result.widths)),
            "parameters": result.parameters,
            "seeds": len(result.seeds),
            "confidence": comparison.confidence,
        } | dict.fromkeys(columns)
        for name, value in result.metrics.items():
            row |= {f"{name} [{_unit(name)}]": value.mean, f"{name} half [{_unit(name)}]": value.half}
        rows.append(row | {f"protocol/{key}": value for key, value in result.protocol.items()})
    return rows


def _table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return header and cells of the table that is shown; the lowest nll stands between double asterisks."""
    header = [
        "variant", "depth", "units by level", "parameters", "elbo (nats)", "nll (nats)", "gap (nats)", "kl (nats)",
        "kl by level: rate/z1 + rate/z2 + … (nats)", "active units by level", "training (s)",
    ]  # fmt: skip
    cells = []
    for result in comparison.results:
        nll = str(result.metrics["nll"])
        rates = [_fixed(rate.mean) for rate in result.levels("rate")]
        cells.append(
            [
                result.variant,
                str(result.depth),
                " + ".join(map(str, result.widths)),
                f"{result.parameters:,}",
                str(result.metrics["elbo"]),
                f"**{nll}**" if result is comparison.lowest else nll,
                str(result.metrics["gap"]),
                str(result.metrics["kl"]),
                " + ".join(rates).replace("+ -", "- "),
                " + ".join(f"{count.mean:.1f}".removesuffix(".0") for count in result.levels("active")),
                f"{result.metrics['seconds'].mean:.3g}",
            ]
        )
    return header, cells


def _notes(comparison: Comparison) -> list[str]:
    """Return the sentences that stand beside the table: how the numbers were measured."""
    protocols: dict[str, list[str]] = {}
    for result in comparison.results:
        protocols.setdefault(_protocol(result.protocol), []).append(result.variant)
    seeds = {result.variant: ", ".join(map(str, result.seeds)) for result in comparison.results}
    single = any(len(result.seeds) == 1 for result in comparison.results)
    spread = f"Numbers are means over seeds ± {comparison.confidence:.0%} interval (Student t over seeds)"
    error = max(result.error for result in comparison.results)
    which = "; ".join(dict.fromkeys(seeds.values() if len(set(seeds.values())) == 1 else map(": ".join, seeds.items())))
    return [
        *(
            f"Measured on the test set{'' if len(protocols) == 1 else ' for ' + _join(names)}: {text}."
            for text, names in protocols.items()
        ),
        f"{spread}{'; with one seed there is no interval' if single else ''}. Seeds: {which}.",
        f"The Monte Carlo standard error of one seed's nll is at most {error:.2g} nats. Active units are those whose"
        " posterior mean varies over the test images; a single rate is not a divergence and may be negative.",
    ]


def _page(study: Study, comparison: Comparison, drawings: Mapping[str, bytes]) -> str:
    """Return the page: one file that loads nothing."""
    from jinja2 import Environment, StrictUndefined

    params = study.params
    default = params.root == "."
    header, cells = _table(comparison)
    template = Path(__file__).with_name("report.html.j2").read_text(encoding="utf-8")
    return Environment(autoescape=True, undefined=StrictUndefined).from_string(template).render(
        name=study.name,
        comparison=comparison,
        header=header,
        cells=cells,
        notes=_notes(comparison),
        drawings={name: _image(content) for name, content in drawings.items()},
        pictures={r.variant: {name: _image(png) for name, png in r.pictures.items()} for r in comparison.results},
        states={r.variant: [trial["state"] for trial in r.trials] for r in comparison.results},
        k=params.evaluate.k[-1],
        threshold=params.evaluate.active_threshold,
        sweep_epochs=params.sweep.epochs,
        digest=digest(params.model_dump(mode="json", exclude={"root", "out"})),
        command="dvc repro" if default else f"dvc repro experiments/{study.name}/dvc.yaml",
        settings="params.yaml" if default else f"experiments/{study.name}/params.yaml",
    )  # fmt: skip


def _need(study: Study, path: Path, stage: str) -> Path:
    if not path.is_file():
        raise InputError(f"{_shown(study, path)}: no such file; stage {stage} makes it: run `dvc repro`")
    return path


def _shown(study: Study, path: Path) -> str:
    return str(path.relative_to(study.root)) if path.is_relative_to(study.root) else str(path)


def _protocol(protocol: Mapping[str, Any]) -> str:
    return ", ".join(f"{PROTOCOL.get(key, key.replace('_', ' '))} {value}" for key, value in protocol.items())


def _protocol_of(row: Mapping[str, str]) -> dict[str, str]:
    return {key.removeprefix("protocol/"): value for key, value in row.items() if key.startswith("protocol/")}


def _unit(metric: str) -> str:
    return {"active": "units", "bpd": "bits/dim", "seconds": "s"}.get(metric.split("/")[0], "nats")


def _cell(mean: str, half: str) -> str:
    return str(Interval(float(mean), float(half) if half else None)) if mean else ""


def _fixed(value: float) -> str:
    """Write to 2 decimals, without a minus before a zero."""
    return f"{value:.2f}".replace("-0.00", "0.00")


def _overlap(one: Interval, other: Interval) -> bool:
    """Tell whether two intervals have a point in common; one without a width is unknown, and so may."""
    return one.half is None or other.half is None or abs(one.mean - other.mean) <= one.half + other.half


def _join(names: Sequence[str]) -> str:
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]


def _image(content: bytes) -> dict[str, Any]:
    """Return a PNG as a URI, and the width in CSS pixels at which its letters are as large as in other figures."""
    width = round(int.from_bytes(content[16:20]) * 96 / 150)  # figures have 150 pixels to the inch, CSS 96
    return {"uri": "data:image/png;base64," + base64.b64encode(content).decode(), "width": width}
