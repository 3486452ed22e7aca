"""The tables of a comparison: `table.csv` with every number, and the short one that people read, as Markdown."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipeline.params import DENSITY, PROBABILITY
from pipeline.report.comparison import Comparison, join
from pipeline.report.intervals import fixed
from pipeline.report.metrics import level, unit

__all__ = ["full", "markdown", "notes", "short", "short_measure", "terms", "verdict"]

PROTOCOL = {"data": "data set", "images": "test images", "draws": "draws per image", "digest": "data digest"}
TERMS = {  # of the table of terms: what their names begin with
    "by level": ("rate/", "kl_down/", "kl_up/", "kl_up_bias/", "gap/", "gap_bias/", "log_marginal/", "width/"),
    "bounds by annealing": ("ais", "bdmc/"),
    "over the data set": ("mutual_information", "marginal_kl", "total_correlation", "dimension_kl"),
    "images from elsewhere": ("outlier_auroc/",),
    "inference": ("approximation_gap", "amortization_gap", "inference_gap"),
    "factors": ("probe/z", "mig/", "dci_disentanglement/", "dci_completeness/", "dci_informativeness/"),
}


LIMITLESS = (
    " Stored pixels take a finite number of values, at which a density can grow without limit: such numbers say little"
    " of the images, unless data.dequantization is uniform."
)


def full(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the rows of `table.csv`; metrics in the order of the deepest variant, so that levels stand together."""
    names = _names(comparison)
    columns = [f"{name}{part} [{unit(name)}]" for name in names for part in ("", " half")]
    rows = []
    for result in comparison.results:
        row: dict[str, Any] = {
            "variant": result.variant,
            "depth": result.depth,
            "widths": " + ".join(map(str, result.widths)),
            "likelihood": result.likelihood,
            "measure": result.measure,
            "parameters": result.parameters,
            "seeds": len(result.seeds),
            "confidence": comparison.confidence,
        } | dict.fromkeys(columns)
        for name, value in result.metrics.items():
            row |= {f"{name} [{unit(name)}]": value.mean, f"{name} half [{unit(name)}]": value.half}
        rows.append(row | {f"protocol/{key}": value for key, value in result.protocol.items()})
    return rows


def short(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return header and cells of the table that is shown; a marked nll (`marked`) stands between double asterisks."""
    header = [
        "variant", "depth", "units by level", "likelihood (measure)", "parameters", "elbo (nats)", "nll (nats)",
        "gap (nats)", "kl (nats)",
        "kl by level: rate/z1 + rate/z2 + … (nats)", "active units by level", "training (s)",
    ]  # fmt: skip
    cells = []
    for result in comparison.results:
        nll = str(result.metrics["nll"])
        rates = [fixed(rate.mean) for rate in result.levels("rate")]
        cells.append(
            [
                result.variant,
                str(result.depth),
                " + ".join(map(str, result.widths)),
                f"{result.likelihood} ({short_measure(result.measure)})",
                f"{result.parameters:,}",
                str(result.metrics["elbo"]),
                f"**{nll}**" if result.variant in comparison.marked else nll,
                str(result.metrics["gap"]),
                str(result.metrics["kl"]),
                " + ".join(rates).replace("+ -", "- "),
                " + ".join(f"{count.mean:.1f}".removesuffix(".0") for count in result.levels("active")),
                f"{result.metrics['seconds'].mean:.3g}",
            ]
        )
    return header, cells


def short_measure(measure: str) -> str:
    """Return the first word of a measure.

    >>> short_measure("density of pixels scaled to [0, 1]")
    'density'
    """
    return measure.split(" ")[0]


def terms(comparison: Comparison) -> dict[str, list[tuple[str, str, list[tuple[str, str]]]]]:
    """Return by group the rows of the table of terms: name, unit, and a cell a variant.

    A cell is the mean with its interval over seeds, and the largest Monte Carlo standard error of a seed; where a
    variant lacks the term both are empty.
    """
    errors = comparison.seeds.groupby(["variant", "metric"])["se"].max().to_dict()
    groups: dict[str, list[tuple[str, str, list[tuple[str, str]]]]] = {}
    for group, starts in TERMS.items():
        names = [[name for name in _names(comparison) if name.startswith(start)] for start in starts]
        for name in (name for some in names for name in sorted(some, key=_place)):
            cells = [
                (result.metrics[name].text(3), f"{errors[result.variant, name]:.2g}")
                if name in result.metrics
                else ("", "")
                for result in comparison.results
            ]
            groups.setdefault(group, []).append((name, unit(name), cells))
    return groups


def _place(name: str) -> int:
    return int(level(name)[1:] or -1)


def notes(comparison: Comparison) -> list[str]:
    """Return the sentences that stand beside the table: how the numbers were measured."""
    protocols: dict[str, list[str]] = {}
    for result in comparison.results:
        protocols.setdefault(_protocol(result.protocol), []).append(result.variant)
    seeds = {result.variant: ", ".join(map(str, result.seeds)) for result in comparison.results}
    single = any(len(result.seeds) == 1 for result in comparison.results)
    spread = f"Numbers are means over seeds ± {comparison.confidence:.0%} interval (Student t over seeds)"
    which = "; ".join(dict.fromkeys(seeds.values() if len(set(seeds.values())) == 1 else map(": ".join, seeds.items())))
    return [
        *(
            f"Measured on the test set{'' if len(protocols) == 1 else ' for ' + join(names)}: {text}."
            for text, names in protocols.items()
        ),
        f"{spread}{'; with one seed there is no interval' if single else ''}. Seeds: {which}.",
        *(
            f"The likelihood of {join([r.variant for r in group])} is a {measure}, whose nll may be below 0."
            + (LIMITLESS if measure == DENSITY else "")
            for measure, group in comparison.groups.items()
            if measure != PROBABILITY
        ),
        f"The Monte Carlo standard error of one seed's nll is at most {comparison.error:.2g} nats. Active units are"
        " those whose posterior mean varies over the test images; a single rate is not a divergence and may be"
        " negative.",
        *_annealing(comparison),
    ]


def _annealing(comparison: Comparison) -> list[str]:
    """Return what annealing says of the error of nll, and for which variants its chains were too short."""
    both = [r for r in comparison.results if {"ais/gain", "bdmc/width"} <= set(r.metrics)]
    if not both:
        return []
    parts = [f"{r.variant} {fixed(r.metrics['ais/gain'].mean)} + {fixed(r.metrics['bdmc/width'].mean)}" for r in both]
    text = (
        f"By annealing, -nll lies below log p(x) by about {', '.join(parts)} nats: `ais/gain`, what annealing adds to"
        " L_k on the first test images, and `bdmc/width`, the most that annealing itself lacks in expectation,"
        " measured on images that the model draws."
    )
    gains = comparison.seeds[comparison.seeds["metric"] == "ais/gain"]
    short = dict.fromkeys(gains.loc[gains["value"] <= -2 * gains["se"], "variant"])
    if short:
        text += (
            f" For {join(list(short))} it lies clearly below L_k: its chains are too short there, and `ais` says"
            " nothing; raise evaluate.decompose.ais_temperatures."
        )
    return [text]


def markdown(comparison: Comparison) -> str:
    """Return `table.md`: the short table, then the verdict, then how the numbers were measured."""
    header, cells = short(comparison)
    lines = [header, ["---", *("---:" for _ in header[1:])], *cells]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    parts = [table, comparison.verdict, *notes(comparison)]
    if comparison.settings:
        parts += ["Settings:", "\n".join(f"- {line}" for line in comparison.settings)]
    return "\n\n".join(parts) + "\n"


def verdict(text: str) -> str:
    """Return the verdict out of the text of `table.md`."""
    return text.split("\n\n")[1]


def _protocol(protocol: Mapping[str, Any]) -> str:
    return ", ".join(f"{PROTOCOL.get(key, key.replace('_', ' '))} {value}" for key, value in protocol.items())


def _names(comparison: Comparison) -> list[str]:
    deepest = sorted(comparison.results, key=lambda result: -result.depth)
    return list(dict.fromkeys(name for result in deepest for name in result.metrics))
