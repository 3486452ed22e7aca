"""The comparison of a study's variants: their numbers' means and intervals, and what they allow to be said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipeline.params import measure_of
from pipeline.report import inputs
from pipeline.report.intervals import Interval, interval
from pipeline.study import Study

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "Result", "build", "join"]


@dataclass(frozen=True)
class Result:
    """What the stages found for one variant; metrics are named without their prefix `test/`."""

    variant: str
    widths: tuple[int, ...]  # of z_1, ..., z_T
    parameters: int
    protocol: Mapping[str, Any]
    likelihood: str
    seeds: tuple[int, ...]
    metrics: Mapping[str, Interval]  # and `seconds`, of training

    @property
    def depth(self) -> int:
        """T."""
        return len(self.widths)

    @property
    def measure(self) -> str:
        """What the likelihood gives to an image: a probability, or a density and of what."""
        return measure_of(self.likelihood, self.protocol.get("dequantization", "none"))

    def levels(self, metric: str) -> list[Interval]:
        """Return a metric that is split by level, from z_1 up."""
        return [self.metrics[f"{metric}/z{level}"] for level in range(1, self.depth + 1)]


@dataclass(frozen=True)
class Comparison:
    """The results of all variants of a study."""

    confidence: float
    seeds: pd.DataFrame  # the tidy table of `results`, that the rest is worked out from
    results: tuple[Result, ...]
    settings: tuple[str, ...] = ()  # what overrides values of the study's file, a line each

    @property
    def comparable(self) -> bool:
        """Were all variants measured by one protocol?"""
        return all(result.protocol == self.results[0].protocol for result in self.results)

    @property
    def error(self) -> float:
        """The largest Monte Carlo standard error of a seed's nll, in nats."""
        return float(self.seeds.loc[self.seeds["metric"] == "nll", "se"].max())

    @cached_property
    def groups(self) -> dict[str, list[Result]]:
        """The variants by the measure of their likelihoods: numbers of different measures cannot be compared."""
        groups: dict[str, list[Result]] = {}
        for result in self.results:
            groups.setdefault(result.measure, []).append(result)
        return groups

    @cached_property
    def marked(self) -> tuple[str, ...]:
        """The variants whose interval of nll no other of their measure lies below, where one lies above.

        Fewer than 3 seeds mark nothing.
        """
        marked: list[str] = []
        for group in self.groups.values() if self.comparable else ():
            best = _lowest(group)
            if min(len(result.seeds) for result in group) < 3:
                continue
            near = [r.variant for r in group if best.metrics["nll"].overlaps(r.metrics["nll"])]
            marked += near if len(near) < len(group) else []
        return tuple(marked)

    @property
    def verdict(self) -> str:
        """Say which nll is lowest, and what the intervals over seeds say of the others: of equal measures alone."""
        if not self.comparable:
            return "The variants were measured by different protocols: their numbers cannot be compared."
        if len(self.groups) == 1:
            return self._ranked(list(self.results))
        kinds = [f"that of {join([r.variant for r in group])} is a {name}" for name, group in self.groups.items()]
        first = f"The likelihood {kinds[0].removeprefix('that ')}"
        text = f"{', '.join([first, *kinds[1:]])}: nll, elbo and reconstruction cannot be compared between these."
        return " ".join([text, *(self._ranked(group, of_all=False) for group in self.groups.values())])

    def _ranked(self, group: list[Result], *, of_all: bool = True) -> str:
        best = _lowest(group)
        here, others = best.metrics["nll"], [result for result in group if result is not best]
        if not others:
            return f"The nll of {best.variant} is {here} nats."
        of = "" if of_all else f" of {join([result.variant for result in group])}"
        text = f"The lowest mean nll{of} is that of {best.variant}, {here} nats."
        if here.half is None:
            return f"{text} One seed has no interval, so that no difference is shown to be more than chance."
        overlap = [result.variant for result in others if here.overlaps(result.metrics["nll"])]
        clear = [result.variant for result in others if result.variant not in overlap]
        seeds = f"the {len(best.seeds)} seeds alone: test images and draws are held fixed"
        text += f" The {self.confidence:.0%} intervals cover {seeds}."
        if overlap:
            text += f" That of {best.variant} overlaps with {_those(overlap)}: these intervals do not decide."
        if clear:
            text += f" {'It' if overlap else f'That of {best.variant}'} does not overlap with {_those(clear)}."
        return f"{text} Fewer than 3 seeds carry no claim." if len(best.seeds) < 3 else text


def build(study: Study) -> Comparison:
    """Read the results of all variants; a missing file raises `InputError`, which names the stage that makes it."""
    seeds, confidence = inputs.results(study), study.params.report.confidence
    metrics: dict[str, dict[str, Interval]] = {variant: {} for variant in study.params.variants}
    for (variant, metric), values in seeds.groupby(["variant", "metric"], sort=False)["value"]:
        metrics[variant][metric] = interval(values.tolist(), confidence)
    return Comparison(
        confidence, seeds, tuple(_result(study, *found) for found in metrics.items()), tuple(study.notes())
    )


def _result(study: Study, variant: str, metrics: Mapping[str, Interval]) -> Result:
    seeds = study.params.variant(variant).train.seeds
    model = inputs.model(study, variant, seeds[0])
    return Result(
        variant=variant,
        widths=tuple(model["widths"]),
        parameters=int(model["parameters"]),
        protocol=inputs.protocol(study, variant),
        likelihood=model["model"]["likelihood"],
        seeds=seeds,
        metrics=metrics,
    )


def _lowest(group: list[Result]) -> Result:
    return min(group, key=lambda result: result.metrics["nll"].mean)


def _those(variants: list[str]) -> str:
    return f"{'those' if len(variants) > 1 else 'that'} of {join(variants)}"


def join(names: list[str]) -> str:
    """Return names as a sentence has them: `vae, hvae and mhvae`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
