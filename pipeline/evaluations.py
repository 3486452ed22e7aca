"""The test results of a variant as a file, `decomposition.json`, and whether they are of the models that are there now.

The file names each seed's training by its key, with the settings of that training, so that numbers and settings are
read from one place. Between a new training and its evaluation the model's `mlflow.json` has another key; after an edit
of `params.yaml`, or a new search, the present settings are others.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pipeline.errors import InputError
from pipeline.files import read_json, write_json
from pipeline.params import Params
from pipeline.params.text import format_value
from pipeline.searches import settings
from pipeline.study import Study

__all__ = [
    "Evaluation",
    "Numbers",
    "changed_settings",
    "retrained",
    "retrained_line",
    "trained_settings",
]

SECTIONS = ("data", "model", "train", "compare")  # of the parameters that a training depends on
SEEDS = "train.seeds"  # of which a training has one

Numbers = dict[str, dict[int, tuple[float, float | None]]]  # by metric and seed: a value, and its Monte Carlo error


@dataclass(frozen=True)
class Evaluation:
    """The content of the file."""

    protocol: Mapping[str, Any]
    numbers: Numbers  # by metrics without their prefix `test/`
    settings: Mapping[str, Any]  # of the measurement, by dotted path; empty for a file of an earlier version
    trainings: Mapping[int, Mapping[str, Any]]  # by seed: `key`, `weights`, `settings`; empty for an earlier version

    @classmethod
    def of(cls, study: Study, variant: str) -> Evaluation | None:
        """Read the results of a variant; None where it was not evaluated.

        Raises:
            InputError: the file is damaged.
        """
        path = study.decomposition(variant)
        return cls.parse(read_json(path), str(path)) if path.is_file() else None

    @classmethod
    def parse(cls, content: Any, where: str) -> Evaluation:
        """Return what the content of a file, found at `where`, says."""
        numbers: Numbers = {}
        try:
            for seed, results in content["seeds"].items():
                for key, cell in results.items():
                    se = None if cell["se"] is None else float(cell["se"])
                    numbers.setdefault(key.removeprefix("test/"), {})[int(seed)] = (float(cell["value"]), se)
            trainings = {
                int(seed): {
                    "key": training["key"],
                    "weights": training.get("weights"),
                    "settings": dict(training["settings"]),
                }
                for seed, training in content.get("trainings", {}).items()
            }
            return cls(dict(content.get("protocol", {})), numbers, dict(content.get("settings", {})), trainings)
        except (AttributeError, KeyError, TypeError, ValueError):
            raise InputError(f"{where}: damaged; evaluate again") from None

    @property
    def seeds(self) -> list[int]:
        """The seeds that were measured."""
        return sorted({seed for values in self.numbers.values() for seed in values})

    def recorded(self, seed: int | None = None) -> dict[str, Any]:
        """Return the settings that a seed, by default the first, was trained and measured with."""
        training = next(iter(self.trainings.values()), {}) if seed is None else self.trainings.get(seed, {})
        return {**training.get("settings", {}), **self.settings}

    @staticmethod
    def write(
        study: Study, variant: str, protocol: Mapping[str, Any], results: Mapping[str, Mapping[str, Any]]
    ) -> None:
        """Write a variant's test results by seed, with what they are of.

        Raises:
            InputError: the file that names a seed's training is missing or damaged.
        """
        named = {seed: read_json(study.train(variant) / f"seed-{seed}" / "mlflow.json", "run") for seed in results}
        content = {
            "variant": variant,
            "protocol": protocol,
            "settings": {path: value for path, value in study.params.flat().items() if path.startswith("evaluate.")},
            "trainings": {
                seed: {
                    "key": training.get("key"),
                    "weights": training.get("weights"),
                    "settings": training.get("settings", {}),
                }
                for seed, training in named.items()
            },
            "seeds": results,
        }
        write_json(study.decomposition(variant), content)


def trained_settings(params: Params) -> dict[str, Any]:
    """Return the parameters that a training depends on, by dotted path."""
    return {path: value for path, value in params.flat().items() if path.split(".")[0] in SECTIONS and path != SEEDS}


def retrained(study: Study, variant: str) -> list[int]:
    """Return the seeds whose models were trained again after the evaluation that is there."""
    evaluation = Evaluation.of(study, variant)
    seeds = []
    for seed, training in evaluation.trainings.items() if evaluation else ():
        path = study.train(variant) / f"seed-{seed}" / "mlflow.json"
        present = read_json(path, "run") if path.is_file() else training
        if any(present.get(name) != training[name] for name in ("key", "weights")):
            seeds.append(seed)
    return seeds


def retrained_line(study: Study, variant: str) -> str:
    """Say which seeds `retrained` returns, and what evaluates them; nothing where there are none."""
    seeds = retrained(study, variant)
    if not seeds:
        return ""
    end = "s" if len(seeds) > 1 else ""
    models = f"the model{end} of seed{end} {', '.join(map(str, seeds))}"
    was, them = ("were", "them") if len(seeds) > 1 else ("was", "it")
    command = study.command(f"evaluate@{variant}")
    where = f"study {study.name}, variant {variant}"
    return f"{where}: {models} {was} trained again after the evaluation; `{command}` evaluates {them}"


def changed_settings(study: Study, variant: str, seed: int | None = None) -> str:
    """Say which settings are others than those that a seed, by default the first, was trained and measured with.

    That is nothing where they are equal, and for results of an earlier version.
    """
    evaluation = Evaluation.of(study, variant)
    recorded = {} if evaluation is None else evaluation.recorded(seed)
    if not recorded:
        return ""
    number = study.params.variant(variant).train.seeds[0] if seed is None else seed
    try:
        present = json.loads(json.dumps(settings(study, variant, number).flat(), default=list))
    except InputError as error:  # of a search that the present settings do not go with
        return str(error)
    parts = [
        f"{path} was {format_value(value)} and is now {format_value(present[path])}"
        for path, value in recorded.items()
        if path in present and present[path] != value
    ]
    if not parts:
        return ""
    more = f", and {len(parts) - 1} more" if len(parts) > 1 else ""
    return f"study {study.name}, variant {variant}: settings have changed since it was trained: {parts[0]}{more}"
