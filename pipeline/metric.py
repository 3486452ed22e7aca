"""The names of metrics, written and read by `Metric` alone, and the keys that MLflow gets them under (`logged_key`)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

__all__ = ["BEST", "SECTIONS", "VALUE", "Metric", "levels_of", "logged_key", "partial_errors"]

VALUE, BEST = "search/value", "search/best"  # what a trial has reached, and the best trial so far
Side = Literal["", "lower", "upper"]
NAME = re.compile(r"(?P<term>.+?)(?:/(?:z(?P<level>\d+)|(?P<x>x)))?(?:/(?P<side>lower|upper))?")

UNITS = {
    "active": "units",
    "informative": "units",
    "bias_unmeasured": "terms",
    "bpd": "bits/dim",
    "seconds": "s",
    "images_per_second": "images / s",
    "peak_memory": "MiB",
    "weights": "count",
    "best_epoch": "epoch",
    "acceptance": "share",
    "high": "share",
    "saturated": "share",
    "from_posterior": "share",
    "outlier_auroc": "share",
    "ess": "draws",
    "khat": "shape",
    "reliable": "0 or 1",
    "temperatures": "count",
} | dict.fromkeys(("probe", "mig", "dci_disentanglement", "dci_completeness", "dci_informativeness"), "score")
"""By the first or the last part of a term; all other metrics are in nats."""

SECTIONS = {
    "": ("elbo", "reconstruction", "kl", "rate", "nll", "gap", "bpd", "informative"),  # the numbers that people compare
    "iwae": ("iwae",),
    "weights": ("ess", "khat", "nll/last_doubling", "nll/reliable"),
    "bias": ("nll/bias", "chain_kl_bias", "gap_bias", "bias_unmeasured", "rounding"),
    "generalization": ("generalization",),
    "levels": ("levels", "kl/z", "chain_kl", "gap/z", "log_marginal", "bound_width", "information", "active"),
    "annealing": ("ais", "bdmc"),
    "surgery": ("mutual_information", "marginal_kl", "total_correlation", "dimension_kl"),
    "inference": ("gaps", "inference_gap", "approximation_gap", "amortization_gap", "gap_unconverged"),
    "outliers": ("outlier_auroc",),
    "factors": ("probe", "mig", "dci_disentanglement", "dci_completeness", "dci_informativeness"),
}
"""By section the terms, or their first parts, that belong to it; `/z` stands for those of a single level."""

SECTION_OF = {term: section for section, terms in SECTIONS.items() for term in terms}

HELD_FIXED = {
    "approximation_gap": "the optimized posterior",
    "amortization_gap": "the optimized posterior",
    "bdmc/width": "the number of temperatures",
}
"""What the standard error of a metric holds fixed, where repeated measurements were found to vary more than it says."""


@dataclass(frozen=True)
class Metric:
    """A metric's name in its parts, written `term`, `term/z2`, `term/x` or `term/z2/lower`.

    `term` may have parts of its own (`iwae/50`, `generalization/rate`, `test/rate`). `level` is that of z_level, 0 is
    the data x, and None stands for all levels together. `side` says which bound of the quantity the number is.

    >>> str(Metric("rate", 1)), str(Metric("log_marginal", 0)), str(Metric("mutual_information", 2, "lower"))
    ('rate/z1', 'log_marginal/x', 'mutual_information/z2/lower')
    """

    term: str
    level: int | None = None
    side: Side = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.term, self.level_name, self.side) if part)

    @classmethod
    def parse(cls, name: str) -> Metric:
        """Return the parts of a name.

        >>> Metric.parse("mutual_information/z2/lower"), Metric.parse("iwae/50")
        (Metric(term='mutual_information', level=2, side='lower'), Metric(term='iwae/50', level=None, side=''))
        """
        match = NAME.fullmatch(name)
        if match is None:
            raise ValueError(f"not the name of a metric: {name!r}")
        side: Side = {"lower": "lower", "upper": "upper"}.get(match["side"] or "", "")  # type: ignore[assignment]
        return cls(match["term"], 0 if match["x"] else int(match["level"]) if match["level"] else None, side)

    @property
    def family(self) -> str:
        """The first part of the term: `iwae` of `iwae/50`."""
        return self.term.partition("/")[0]

    @property
    def level_name(self) -> str:
        """`x`, `z1`, `z2`, ..., or an empty text where the metric is of all levels."""
        return "" if self.level is None else f"z{self.level}" if self.level else "x"

    @property
    def unit(self) -> str:
        """The unit; scores lie between about 0 and 1.

        >>> [Metric.parse(name).unit for name in ("rate/z1", "bpd", "ais/acceptance", "ess/median")]
        ['nats', 'bits/dim', 'share', 'draws']
        """
        return UNITS.get(self.term.rpartition("/")[2]) or UNITS.get(self.family, "nats")

    @property
    def section(self) -> str:
        """The section of the metrics that it belongs to; empty for those that people compare.

        >>> [Metric.parse(name).section for name in ("rate/z1", "gap", "gap/z1", "bdmc/width", "nll/bias")]
        ['', '', 'levels', 'annealing', 'bias']
        """
        names = ([f"{self.term}/z"] if self.level else []) + [self.term, self.family]
        return next((SECTION_OF[name] for name in names if name in SECTION_OF), "other")


def logged_key(name: str, split: str = "test", *, error: bool = False) -> str:
    """Return the key under which MLflow gets a metric, or its standard error, of a data split.

    MLflow makes a section of charts of all that stands before the last slash, in alphabetical order: those of the other
    sections follow on those that people compare.

    >>> logged_key("rate/z1"), logged_key("nll", error=True), logged_key("ais/gain"), logged_key("levels/elbo")
    ('test/rate/z1', 'test_se/nll', 'test_annealing/ais/gain', 'test_levels/elbo')
    """
    section = "se" if error else Metric.parse(name).section
    return f"{split}_{section}/{name.removeprefix(f'{section}/')}" if section else f"{split}/{name}"


def levels_of(names: Iterable[str], term: str) -> list[int]:
    """Return the levels, the lowest first, that a term was measured at, whichever sides of it there are.

    >>> levels_of(["elbo", "gap/z1", "gap/z3/lower", "gap/z3/upper", "gap"], "gap")
    [1, 3]
    """
    metrics = map(Metric.parse, names)
    return sorted({metric.level for metric in metrics if metric.term == term and metric.level is not None})


def partial_errors(names: Iterable[str]) -> dict[str, list[str]]:
    """Return the metrics whose standard errors cover the draws alone, by what these errors hold fixed.

    >>> partial_errors(["elbo", "amortization_gap/z1", "amortization_gap", "bdmc/width"])
    {'the optimized posterior': ['amortization_gap'], 'the number of temperatures': ['bdmc/width']}
    """
    terms = dict.fromkeys(Metric.parse(name).term for name in names)
    reasons: dict[str, list[str]] = {}
    for term in terms:
        if term in HELD_FIXED:
            reasons.setdefault(HELD_FIXED[term], []).append(term)
    return reasons
