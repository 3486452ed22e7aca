"""The comparison of a study's variants: their numbers' means and intervals, and what they allow to be said."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

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
    seeds: tuple[int, ...]
    metrics: Mapping[str, Interval]  # and `seconds`, of training

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
    seeds: pd.DataFrame  # the tidy table of `results`, that the rest is worked out from
    results: tuple[Result, ...]

    @property
    def comparable(self) -> bool:
        """Were all variants measured by one protocol?"""
        return all(result.protocol == self.results[0].protocol for result in self.results)

    @property
    def error(self) -> float:
        """The largest Monte Carlo standard error of a seed's nll, in nats."""
        return float(self.seeds.loc[self.seeds["metric"] == "nll", "se"].max())

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
        overlap = [result.variant for result in others if here.overlaps(result.metrics["nll"])]
        clear = [result.variant for result in others if result.variant not in overlap]
        text += f" Its {self.confidence:.0%} interval over {len(best.seeds)} seeds"
        parts = [f"overlaps with that of {join(overlap)}"] if overlap else []
        parts += [f"lies apart from that of {join(clear)}"] if clear else []
        few = " Fewer than 3 seeds carry no claim." if len(best.seeds) < 3 else ""
        return f"{text} {' and '.join(parts)}.{few}"


def build(study: Study) -> Comparison:
    """Read the results of all variants; a missing file raises `InputError`, which names the stage that makes it."""
    seeds, confidence = inputs.results(study), study.params.report.confidence
    metrics: dict[str, dict[str, Interval]] = {variant: {} for variant in study.params.variants}
    for (variant, metric), values in seeds.groupby(["variant", "metric"], sort=False)["value"]:
        metrics[variant][metric] = interval(values.tolist(), confidence)
    return Comparison(confidence, seeds, tuple(_result(study, *found) for found in metrics.items()))


def _result(study: Study, variant: str, metrics: Mapping[str, Interval]) -> Result:
    seeds = study.params.variant(variant).train.seeds
    model = inputs.model(study, variant, seeds[0])
    return Result(
        variant=variant,
        widths=tuple(model["widths"]),
        parameters=int(model["parameters"]),
        protocol=inputs.protocol(study, variant),
        seeds=seeds,
        metrics=metrics,
    )


def join(names: list[str]) -> str:
    """Return names as a sentence has them: `vae, hvae and mhvae`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
