"""The tables of a comparison: `table.csv` with every number, and the short one that people read, as Markdown."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.metric import Metric, levels_of, partial_errors
from pipeline.params import DENSITY, INFORMATIVE, PROBABILITY
from pipeline.report.comparison import Comparison, Result, join
from pipeline.report.intervals import Interval, fixed

__all__ = [
    "comparison_rows",
    "markdown",
    "notes",
    "pairs",
    "short",
    "short_measure",
    "table_rows",
    "terms",
]

INFORMATION = "mutual_information"
PROTOCOL = {"data": "data set", "images": "test images", "draws": "draws per image", "digest": "data digest"}
TERMS = {  # of the table of terms: what their names begin with
    "the weights behind nll": ("ess/", "khat/", "nll/"),
    "training images less test images": ("generalization/",),
    "by level": (
        *("rate/", "kl/", "levels/", "chain_kl/", "chain_kl_bias/", "gap/", "gap_bias/", "bias_unmeasured"),
        *("log_marginal/", "width/"),
    ),
    "bounds by annealing": ("ais", "bdmc/"),
    "over the data set": ("mutual_information", "marginal_kl", "total_correlation", "dimension_kl"),
    "images from elsewhere": ("outlier_auroc/",),
    "inference": ("gaps/", "inference_gap", "approximation_gap", "amortization_gap", "gap_unconverged"),
    "factors": ("probe/z", "mig/", "dci_disentanglement/", "dci_completeness/", "dci_informativeness/"),
}


LIMITLESS = (
    " Stored pixels take a finite number of values, at which a density can grow without limit: such numbers say little"
    " of the images, unless data.dequantization is uniform."
)


def table_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the rows of `table.csv`; metrics in the order of the deepest variant, so that levels stand together."""
    names = _names(comparison)
    columns = [f"{name}{part} [{Metric.parse(name).unit}]" for name in names for part in ("", " half")]
    # Of what only some seeds of a variant have, another column says of how many it is the mean.
    partial = [name for name in names if any(r.metrics[name].part for r in comparison.results if name in r.metrics)]
    rows = []
    for result in comparison.results:
        row: dict[str, Any] = {
            "variant": result.variant,
            "depth": result.depths,
            "widths": result.widths,
            "likelihood": result.likelihood,
            "measure": result.measure,
            "parameters": result.parameters,
            "searched": result.searched,
            "searches": result.searches,
            "seeds": len(result.seeds),
            "confidence": comparison.confidence,
            "nll error": _nll_error(result),
        } | dict.fromkeys(columns)
        for name, value in result.metrics.items():
            row |= {
                f"{name} [{Metric.parse(name).unit}]": value.mean,
                f"{name} half [{Metric.parse(name).unit}]": value.half,
            }
        row |= {f"{name} seeds": result.metrics[name].part for name in partial if name in result.metrics}
        rows.append(row | {f"protocol/{key}": value for key, value in result.protocol.items()})
    return rows


def short(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return header and cells of the table that is shown; a marked nll (`marked`) stands between double asterisks."""
    header = [
        "variant", "depth", "units by level", "likelihood (measure)", "parameters", "elbo (nats)", "nll (nats)",
        "gap (nats)", "kl (nats)",
        "kl by level: rate/z1 + rate/z2 + … (nats)", "informative units by level", "information by level (nats)",
        "training (s)", "searched settings",
    ]  # fmt: skip
    cells = []
    for result in comparison.results:
        nll = f"{result.metrics['nll']}{f' (too high {result.too_high})' if result.too_high else ''}"
        rates = [_level(fixed(rate.mean), rate) for rate in result.levels("rate")]
        cells.append(
            [
                result.variant,
                result.depths,
                result.widths,
                f"{result.likelihood} ({short_measure(result.measure)})",
                " to ".join(f"{int(count):,}" for count in result.parameters.split(" to ")),
                str(result.metrics["elbo"]),
                f"**{nll}**" if result.variant in comparison.marked else nll,
                str(result.metrics["gap"]),
                str(result.metrics["kl"]),
                " + ".join(rates).replace("+ -", "- "),
                " + ".join(_level(f"{n.mean:.1f}".removesuffix(".0"), n) for n in result.levels("informative")),
                " + ".join(_level(fixed(n.mean), n) for n in result.levels("information")).replace("+ -", "- "),
                f"{result.metrics['seconds'].mean:.3g}",
                str(result.searched),
            ]
        )
    return header, cells


def _level(text: str, value: Interval) -> str:
    """Return the text of a level's mean, with what part of the seeds has the level, unless all have it."""
    return f"{text} ({value.part})" if value.part else text


def _nll_error(result: Result) -> str:
    return f"too high {result.too_high}" if result.too_high else "reliable"


def pairs(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return header and cells of the table of differences between variants, a row a pair and term, of `shown`."""
    header = ["term", "pair", "difference (nats)", "p", "p adjusted", "decided", "what would decide"]
    cells = []
    for d in comparison.shown:
        p, adjusted = ["", ""] if d.p is None else [f"{d.p:.2g}", f"{d.adjusted:.2g}"]
        needed = "" if d.decided or d.half is None else d.needed
        decided = "yes" if d.decided else "no"
        cells.append([d.metric, f"{d.first} - {d.second}", str(Interval(d.mean, d.half)), p, adjusted, decided, needed])
    return header, cells


def comparison_rows(comparison: Comparison) -> list[dict[str, Any]]:
    """Return the rows of `comparisons.csv`: the same, unrounded."""
    return [
        {
            "metric": d.metric,
            "first": d.first,
            "second": d.second,
            "difference [nats]": d.mean,
            "half [nats]": d.half,
            "confidence": comparison.confidence,
            "p": d.p,
            "p adjusted": d.adjusted,
            "decided": d.decided,
            "seeds first": d.seeds[0],
            "seeds second": d.seeds[1],
            "images": d.images,
            "seeds needed": d.needed_seeds,
            "images needed": d.needed_images,
        }
        for d in comparison.differences
    ]


def short_measure(measure: str) -> str:
    """Return the first word of a measure.

    >>> short_measure("density of pixels scaled to [0, 1]")
    'density'
    """
    return measure.split(" ")[0]


def terms(
    comparison: Comparison, results: Sequence[Result] | None = None
) -> dict[str, list[tuple[str, str, list[tuple[str, str]]]]]:
    """Return by group the rows of the table of terms: name, unit, and a cell a variant, all or those of `results`.

    A cell is the mean with its interval over seeds, and the largest Monte Carlo standard error of a seed. Where a
    variant lacks the term both are empty, or the former says that it is not measurable.
    """
    errors = comparison.seeds.groupby(["variant", "metric"])["se"].max().to_dict()
    groups: dict[str, list[tuple[str, str, list[tuple[str, str]]]]] = {}
    for group, starts in TERMS.items():
        names = [[name for name in _names(comparison) if name.startswith(start)] for start in starts]
        for name in (name for some in names for name in sorted(some, key=_level_order)):
            cells = [
                (result.metrics[name].text(3), _error(errors[result.variant, name]))
                if name in result.metrics
                else (_absent(result, name), "")
                for result in results or comparison.results
            ]
            groups.setdefault(group, []).append((name, Metric.parse(name).unit, cells))
    return groups


def _error(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.2g}"


def _absent(result: Result, name: str) -> str:
    metric = Metric.parse(name)
    is_bound = metric.term == INFORMATION and metric.side != ""
    return "not measurable" if is_bound and metric.level in unmeasured(result) else ""


def _level_order(name: str) -> int:
    level = Metric.parse(name).level
    return -1 if level is None else level


def notes(comparison: Comparison) -> list[str]:
    """Return the sentences that stand beside the table: how the numbers were measured."""
    protocols: dict[str, list[str]] = {}
    for result in comparison.results:
        protocols.setdefault(_protocol(result.protocol), []).append(result.variant)
    seeds = {result.variant: ", ".join(map(str, result.seeds)) for result in comparison.results}
    single = any(len(result.seeds) == 1 for result in comparison.results)
    spread = (
        f"Numbers are means over seeds ± {comparison.confidence:.0%} interval, over seeds and test images for what"
        " every image has (bounds, reconstruction, kl, rates, gap), over seeds alone for the rest"
    )
    spread += f"; {comparison.search_coverage}" if comparison.search_coverage else ""
    which = "; ".join(dict.fromkeys(seeds.values() if len(set(seeds.values())) == 1 else map(": ".join, seeds.items())))
    return [
        *(
            f"Measured on the test set{'' if len(protocols) == 1 else ' for ' + join(names)}: {text}."
            for text, names in protocols.items()
        ),
        f"{spread}{'; with one seed there is no interval' if single else ''}. Seeds: {which}.",
        *_unlike(comparison),
        *(
            f"The likelihood of {join([r.variant for r in group])} is a {measure}, whose nll may be below 0."
            + (LIMITLESS if measure == DENSITY else "")
            for measure, group in comparison.groups.items()
            if measure != PROBABILITY
        ),
        f"The Monte Carlo standard error of one seed's nll is at most {comparison.error:.2g} nats. Informative units"
        f" are those of which the test images explain more than {INFORMATIVE:.0%} of the variance, at whatever scale;"
        " their information is the nats that Gaussians of such shares have. A single rate is not a divergence and may"
        " be negative.",
        *_information(comparison),
        *_annealing(comparison),
        *_partial_errors(comparison),
    ]


def _unlike(comparison: Comparison) -> list[str]:
    """Return a sentence about variants whose seeds have different models."""
    names = [result.variant for result in comparison.results if len(set(result.models)) > 1]
    if not names:
        return []
    return [
        f"The seeds of {join(names)} have different models, each with the best settings of one search: depth, units and"
        " parameters are those of all of them, and a number that only some have says of how many seeds it is the mean."
    ]


def _information(comparison: Comparison) -> list[str]:
    """Return sentences about mutual information that only the number of images limits, or that was not measured."""
    results = comparison.results
    saturated = [r.variant for r in results if f"{INFORMATION}/saturated" in r.metrics and _is_saturated(r)]
    missing = {r.variant: levels for r in results if (levels := unmeasured(r))}
    notes = []
    if saturated:
        notes.append(
            f"The mutual information of {join(saturated)} is saturated: within 0.5 nats of log N, the most that N"
            " images can show, in at least one seed. evaluate.decompose.aggregate train takes the training images."
        )
    for variant, levels in missing.items():
        notes.append(
            f"The mutual information of {join([f'z{t}' for t in levels])} of {variant} is not measurable: its bounds"
            " are no narrower than from 0 to that of all levels."
        )
    return notes


def _is_saturated(result: Result) -> bool:
    return result.metrics[f"{INFORMATION}/saturated"].mean > 0


def unmeasured(result: Result) -> list[int]:
    """Return the levels whose mutual information was asked for and left out, since its bounds say nothing."""
    if INFORMATION not in result.metrics:
        return []
    return [t for t in range(1, result.depth + 1) if t not in levels_of(result.metrics, INFORMATION)]


def _annealing(comparison: Comparison) -> list[str]:
    """Return what annealing says of the error of nll, and for which variants its chains were too short."""
    both = [r for r in comparison.results if {"ais/gain", "bdmc/width"} <= set(r.metrics)]
    if not both:
        return []
    parts = [f"{r.variant} {fixed(r.metrics['ais/gain'].mean + r.metrics['bdmc/width'].mean)}" for r in both]
    text = (
        f"An independent estimate of what nll lies above -log p(x), by annealing, in nats: {', '.join(parts)}. It is"
        " ais/gain, what annealing adds to L_k on the first test images, plus bdmc/width, what annealing itself may"
        " lack, on images that the model draws; their errors are in the table of all terms."
    )
    gains = comparison.seeds[comparison.seeds["metric"] == "ais/gain"]
    short = dict.fromkeys(gains.loc[gains["value"] <= -2 * gains["se"], "variant"])
    if short:
        text += (
            f" For {join(list(short))} it lies clearly below L_k: its chains are too short there, and `ais` says"
            " nothing; raise evaluate.decompose.ais_temperatures."
        )
    return [text]


def _partial_errors(comparison: Comparison) -> list[str]:
    """Return a sentence for each kind of error that covers less than repeated measurements vary by."""
    reasons = partial_errors(dict.fromkeys(name for result in comparison.results for name in result.metrics))
    return [
        f"The Monte Carlo error of {join(terms)} holds {held} fixed: do not rely on it, since repeated"
        " measurements vary more."
        for held, terms in reasons.items()
    ]


def markdown(comparison: Comparison) -> str:
    """Return `table.md`: the short table, then the verdict, then how the numbers were measured."""
    table = _markdown(*short(comparison))
    parts = [table, comparison.verdict, *notes(comparison)]
    if comparison.differences:
        parts += [_markdown(*pairs(comparison))]
    if comparison.settings:
        parts += ["Settings:", "\n".join(f"- {line}" for line in comparison.settings)]
    return "\n\n".join(parts) + "\n"


def _markdown(header: list[str], cells: list[list[str]]) -> str:
    lines = [header, ["---", *("---:" for _ in header[1:])], *cells]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _protocol(protocol: Mapping[str, Any]) -> str:
    return ", ".join(f"{PROTOCOL.get(key, key.replace('_', ' '))} {value}" for key, value in protocol.items())


def _names(comparison: Comparison) -> list[str]:
    deepest = sorted(comparison.results, key=lambda result: -result.depth)
    return list(dict.fromkeys(name for result in deepest for name in result.metrics))
