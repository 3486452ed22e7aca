"""The comparison of a study's variants: their numbers' means and intervals, and what they allow to be said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from pipeline.metric import Metric
from pipeline.params import measure_of
from pipeline.report import inputs
from pipeline.report.intervals import Interval, interval
from pipeline.report.paired import FEWEST_SEEDS, Difference, crossed_interval, differences
from pipeline.study import Study
from pipeline.text import by_level, describe_bias

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "Result", "build", "join"]

SUMMED = ("rate", "chain_kl", "kl", "gap", "approximation_gap", "amortization_gap")  # over levels, to one number
COMPARED = ("nll", "elbo", "reconstruction", "kl", "gap")  # what every pair of variants is compared by
FEW = 3  # variants of which every pair gets a sentence
MANY = 5  # variants of which a page still shows every pair


@dataclass(frozen=True)
class Model:
    """What was trained for one seed."""

    widths: tuple[int, ...]  # of z_1, ..., z_T
    parameters: int
    likelihood: str


@dataclass(frozen=True)
class Result:
    """What the stages found for one variant; metrics are named without their prefix `test/`."""

    variant: str
    models: tuple[Model, ...]  # by seed: those of different searches may differ
    protocol: Mapping[str, Any]
    seeds: tuple[int, ...]
    searched: int  # settings that its search had to choose
    searches: int  # how often it was searched; 0: not at all
    metrics: Mapping[str, Interval]  # and `seconds`, of training
    rough: bool = False  # has `nll/bias` of a seed no error?

    @property
    def depth(self) -> int:
        """T, of the deepest of its models."""
        return max(len(model.widths) for model in self.models)

    @property
    def depths(self) -> str:
        """T of all models, in words."""
        return _alternatives([str(count) for count in sorted({len(model.widths) for model in self.models})])

    @property
    def widths(self) -> str:
        """The units by level of all models, in words."""
        return _alternatives([by_level(model.widths) for model in self.models])

    @property
    def parameters(self) -> str:
        """The number of weights of all models, in words: a range where they differ."""
        counts = sorted({model.parameters for model in self.models})
        return str(counts[0]) if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"

    @property
    def likelihood(self) -> str:
        """The likelihood of all models, in words."""
        return _alternatives([model.likelihood for model in self.models])

    @property
    def measure(self) -> str:
        """What the likelihood gives to an image: a probability, or a density and of what."""
        return measure_of(self.models[0].likelihood, self.protocol.get("dequantization", "none"))

    @property
    def too_high(self) -> str:
        """By how much nll exceeds -log p(x), in words; empty where that is small for every seed."""
        bias = self.metrics.get("nll/bias")
        return describe_bias(self.metrics["nll/reliable"].mean == 1, bias.mean if bias else None, self.rough)

    def levels(self, metric: str) -> list[Interval]:
        """Return a metric that is split by level, from z_1 up, each level over the seeds that have it.

        A diffusion has none of them: its levels are a curve over log SNR.
        """
        names = [str(Metric(metric, level)) for level in range(1, self.depth + 1)]
        return [self.metrics[name] for name in names if name in self.metrics]


@dataclass(frozen=True)
class Comparison:
    """The results of all variants of a study, and the differences between them."""

    confidence: float
    seeds: pd.DataFrame  # the tidy table of `results`, that the rest is worked out from
    results: tuple[Result, ...]
    differences: tuple[Difference, ...] = ()  # of every pair of one measure, by each metric of `COMPARED`
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
    def summed(self) -> pd.DataFrame:
        """The tidy table, where a level that a seed's model lacks has 0 nats in the terms that are summed over levels.

        So the means of the levels' parts sum to the mean of the whole, also where seeds differ in depth.
        """
        import pandas as pd

        depths = self.seeds.groupby(["variant", "seed"])["depth"].first().to_dict()
        parts = self.seeds[self.seeds["term"].isin(SUMMED) & (self.seeds["level"] != "")]
        have = set(zip(parts["variant"], parts["seed"], parts["metric"], strict=True))
        rows = [
            {**row, "seed": seed, "depth": depth, "value": 0.0, "se": 0.0}
            for (_, metric), group in parts.groupby(["variant", "metric"], sort=False)
            for row in [group.iloc[0].to_dict()]
            for (variant, seed), depth in depths.items()
            if variant == row["variant"]
            and depth < (Metric.parse(row["metric"]).level or 0)
            and (variant, seed, str(Metric(row["term"], 1))) in have
        ]
        return pd.concat([self.seeds, pd.DataFrame(rows)], ignore_index=True) if rows else self.seeds

    @property
    def search_coverage(self) -> str:
        """Say whether intervals over seeds cover the luck of the search, as a clause; nothing without a search."""
        searches, seeds = max(r.searches for r in self.results), max(len(r.seeds) for r in self.results)
        if searches == 0:
            return ""
        if searches == 1:
            return "the search was done once, and its luck is not in the interval"
        if searches == seeds:
            return f"the interval covers {searches} searches too, as each seed has its own"
        return f"the interval covers the search only in part, as {seeds} seeds share {searches} searches"

    @cached_property
    def groups(self) -> dict[str, list[Result]]:
        """The variants by the measure of their likelihoods: numbers of different measures cannot be compared."""
        groups: dict[str, list[Result]] = {}
        for result in self.results:
            groups.setdefault(result.measure, []).append(result)
        return groups

    @cached_property
    def marked(self) -> tuple[str, ...]:
        """The variants that are not shown to be worse than the one with the lowest nll, where another is."""
        marked: list[str] = []
        for group in self.groups.values() if self.comparable else ():
            best = _lowest(group)
            worse = {difference.higher for difference in self._against(best) if difference.decided}
            marked += [result.variant for result in group if result.variant not in worse] if worse else []
        return tuple(marked)

    @property
    def verdict(self) -> str:
        """Say which nll is lowest, and by how much the others lie above it: of equal measures alone."""
        if not self.comparable:
            return "The variants were measured by different protocols: their numbers cannot be compared."
        if len(self.groups) == 1:
            return self._ranked(list(self.results))
        kinds = [f"that of {join([r.variant for r in group])} is a {name}" for name, group in self.groups.items()]
        first = f"The likelihood {kinds[0].removeprefix('that ')}"
        text = f"{', '.join([first, *kinds[1:]])}: nll, elbo and reconstruction cannot be compared between these."
        return " ".join([text, *(self._ranked(group, of_all=False) for group in self.groups.values())])

    @property
    def headline(self) -> str:
        """Say in a sentence or two which variant is best, by how much, and how sure that is."""
        if not self.comparable:
            return self.verdict
        return " ".join(self._best(group) for group in self.groups.values())

    def _best(self, group: list[Result]) -> str:
        best = _lowest(group)
        of = "" if len(self.groups) == 1 else f" of {join([result.variant for result in group])}"
        if len(group) == 1:
            return f"{best.variant}: nll, the estimate of -log p(x), is {best.metrics['nll']} nats.{_bias_note(group)}"
        nll = best.metrics["nll"]
        first = f"{best.variant} describes the test images best{of}: its nll, the estimate of -log p(x), is {nll} nats."
        against = [d for d in self._against(best) if {d.first, d.second} <= {result.variant for result in group}]
        clear, open_ = ([d for d in against if d.decided is decided] for decided in (True, False))
        parts = [f"{d.higher} by {d.interval}" for d in clear]
        sure = [f"It is better than {join(parts)} nats, which is more than chance."] if parts else []
        if open_:
            names = [f"{d.higher if d.lower == best.variant else d.lower} ({d.interval} nats)" for d in open_]
            counts = sorted({n for d in open_ for n in d.seeds})
            few = f" with {join([str(n) for n in counts])} seed{'s' if counts != [1] else ''} each"
            words = "It is not shown to be better than" if clear else "But it is not shown to be better than"
            sure.append(f"{words} {join(names)}: so small a difference may be chance{few}.")
        return " ".join([first, *sure]) + _bias_note(group)

    @property
    def shown(self) -> list[Difference]:
        """The differences that a page has: all, or with many variants those in nll from the lowest of each measure."""
        if len(self.results) <= MANY:
            return list(self.differences)
        return [difference for group in self.groups.values() for difference in self._against(_lowest(group))]

    def _against(self, best: Result) -> list[Difference]:
        """Return the differences in nll from one variant, in the order of the variants."""
        return [d for d in self.differences if d.metric == "nll" and best.variant in (d.first, d.second)]

    def _sentences(self, group: list[Result], best: Result) -> list[Difference]:
        """Return the differences in nll that get a sentence: those from the lowest, and of few variants the others."""
        first = self._against(best)
        if len(group) > FEW:
            return first
        names = {result.variant for result in group}
        rest = [d for d in self.differences if d.metric == "nll" and {d.first, d.second} <= names and d not in first]
        return first + rest

    def _ranked(self, group: list[Result], *, of_all: bool = True) -> str:
        best = _lowest(group)
        if len(group) == 1:
            return f"The nll of {best.variant} is {best.metrics['nll']} nats.{_bias_note(group)}"
        of = "" if of_all else f" of {join([result.variant for result in group])}"
        text = f"The lowest mean nll{of} is that of {best.variant}, {best.metrics['nll']} nats."
        ranked = self._sentences(group, best)
        if any(difference.half is None for difference in ranked):
            few = "One seed has no interval, so that no difference is shown to be more than chance."
            return f"{text} {few}{_bias_note(group)}"
        text = " ".join([text, *(difference.sentence for difference in ranked)])
        first = ranked[0]
        seeds = " or ".join(str(count) for count in sorted({n for d in ranked for n in d.seeds}))
        pairs = len(group) * (len(group) - 1) // 2
        text += f" Differences are paired over the {first.images} test images; their {self.confidence:.0%} intervals"
        text += f" cover {seeds} seeds, images and draws{f'; {self.search_coverage}' if self.search_coverage else ''}."
        text += f" Values of p are adjusted for {pairs} pairs (Holm)." if pairs > 1 else ""
        if min(n for d in ranked for n in d.seeds) < FEWEST_SEEDS:
            text += f" Fewer than {FEWEST_SEEDS} seeds decide nothing."
        return f"{text}{_bias_note(group)}"


def _bias_note(group: list[Result]) -> str:
    """Say of which variants nll lies further above -log p(x) than its error says."""
    parts = [f"that of {result.variant} {result.too_high}" for result in group if result.too_high]
    return f" nll is too high by more than its error says: {join(parts)}." if parts else ""


def build(study: Study) -> Comparison:
    """Read the results of all variants; a missing file raises `InputError`, which names the stage that makes it."""
    seeds, confidence = inputs.results(study), study.params.report.confidence
    images = {variant: inputs.image_values(study, variant) for variant in study.params.variants}
    metrics: dict[str, dict[str, Interval]] = {variant: {} for variant in study.params.variants}
    count = len(study.params.train.seeds)
    for (variant, metric), values in seeds.groupby(["variant", "metric"], sort=False)["value"]:
        metrics[variant][metric] = (
            crossed_interval(images[variant][metric], confidence)
            if metric in images[variant]
            else interval(values.tolist(), confidence, count)
        )
    unknown = set(seeds.loc[(seeds["metric"] == "nll/bias") & seeds["se"].isna(), "variant"])
    results = tuple(_result(study, variant, row, variant in unknown) for variant, row in metrics.items())
    return Comparison(confidence, seeds, results, _differences(results, images, confidence), tuple(study.notes()))


def _differences(
    results: Sequence[Result], images: Mapping[str, Mapping[str, Any]], confidence: float
) -> tuple[Difference, ...]:
    pairs: list[Difference] = []
    if any(result.protocol != results[0].protocol for result in results):
        return ()
    for measure in dict.fromkeys(result.measure for result in results):
        group = [result.variant for result in results if result.measure == measure]
        for metric in COMPARED:
            pairs += differences(metric, {variant: images[variant][metric] for variant in group}, confidence)
    return tuple(pairs)


def _result(study: Study, variant: str, metrics: Mapping[str, Interval], rough: bool) -> Result:
    seeds = study.params.variant(variant).train.seeds
    models = [inputs.model(study, variant, seed) for seed in seeds]
    return Result(
        variant=variant,
        models=tuple(Model(tuple(m["widths"]), int(m["parameters"]), m["model"]["likelihood"]) for m in models),
        protocol=inputs.protocol(study, variant),
        seeds=seeds,
        searched=inputs.searched(study, variant),
        searches=inputs.searches(study, variant),
        metrics=metrics,
        rough=rough,
    )


def _lowest(group: list[Result]) -> Result:
    return min(group, key=lambda result: result.metrics["nll"].mean)


def _alternatives(texts: list[str]) -> str:
    return " or ".join(dict.fromkeys(texts))


def join(names: list[str]) -> str:
    """Return names as a sentence has them: `vae, hvae and mhvae`."""
    return " and ".join([", ".join(names[:-1]), names[-1]]) if len(names) > 1 else names[0]
