"""A study: a folder with its `params.yaml`, and where everything that belongs to it lies.

The default study is the project's root itself with its outputs in `experiments/default`; every other is a
folder `experiments/<name>` whose `dvc.yaml` is a link to the root's. Stores and caches are shared by all:
they lie at the root that `DVC_ROOT` names (so that `dvc exp run --temp` finds them), else at `params.root`.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.files import write_text
from pipeline.params import Params, dump_yaml, notes

__all__ = ["Study", "find_root"]


@dataclass(frozen=True)
class Study:
    """Parameters, and the folders they are worked out in."""

    params: Params
    folder: Path  # that holds params.yaml
    root: Path  # of the project
    out: Path  # of this study's outputs
    store: Path  # where databases and caches lie

    @classmethod
    def at(cls, folder: Path, overrides: Mapping[str, Any] | None = None) -> Study:
        """Read the study whose `params.yaml` lies in `folder`."""
        params = Params.read(folder / "params.yaml", overrides)
        root = (folder / params.root).resolve()
        store = Path(os.environ.get("DVC_ROOT") or root).resolve()
        return cls(params=params, folder=folder.resolve(), root=root, out=(folder / params.out).resolve(), store=store)

    @property
    def name(self) -> str:
        """The study's name: its folder's."""
        return self.out.name

    @property
    def cache(self) -> Path:
        """Downloads, locks, states of unfinished work, which starts anew without them, and what MLflow is to hear."""
        return self.store / ".cache"

    @property
    def raw(self) -> Path:
        """The data set's files as published."""
        return self.out / "raw"

    @property
    def data(self) -> Path:
        """The splits."""
        return self.out / "data"

    def sweep(self, variant: str) -> Path:
        """The sweep's outputs."""
        return self.out / "sweep" / variant

    def train(self, variant: str) -> Path:
        """The final models, a folder a seed."""
        return self.out / "train" / variant

    def evaluate(self, variant: str) -> Path:
        """The test results."""
        return self.out / "evaluate" / variant

    def curves(self, variant: str) -> Path:
        """The training curve, means over seeds, as DVC plots it."""
        return self.out / "curves" / f"{variant}.csv"

    def metrics(self, variant: str) -> Path:
        """The test results' means over seeds, as DVC shows them."""
        return self.out / "metrics" / f"{variant}.json"

    @property
    def report(self) -> Path:
        """The comparison of all variants."""
        return self.out / "report"

    def notes(self, variant: str | None = None, stage: str = "") -> list[str]:
        """Say what overrides values of the study's file, for one variant or all of them, in one stage or in all."""
        return notes(*Params.read_with_file(self.folder / "params.yaml"), variant=variant, command=stage)

    def how(self, stage: str) -> str:
        """Say in a sentence how a stage's results are made again."""
        if (self.folder / "dvc.yaml").exists():
            here = "" if self.folder == self.root else f"{self.folder.relative_to(self.root)}/dvc.yaml:"
            return f"Reproduce with `dvc repro {here}{stage}`."
        return f"Made by hand with the settings in `{self.out.name}/params.yaml`."

    @classmethod
    def create(cls, root: Path, name: str, overrides: Mapping[str, Any], *, pipeline: bool = True) -> Study:
        """Make the folder `experiments/<name>` with its own parameters and, for `pipeline`, a link to `dvc.yaml`.

        Other parameters that are there already are an `InputError`; a budget of trials may change.
        """
        folder = root / "experiments" / name
        if not name.replace("-", "").replace("_", "").isalnum() or name != name.lower():
            raise InputError(f"study: '{name}' given; allowed: lower-case letters, digits, - and _")
        params = Params.read(root / "params.yaml", overrides)
        if (root / params.out).resolve() == folder.resolve():
            raise InputError(f"study: '{name}' is the study of the root's params.yaml; choose another name")
        # The budget's values are in place already, and what `overrides` set is not to be set back.
        params = params.override({"root": "../..", "out": ".", "budget": "default", "budgets": {"default": {}}})
        path = folder / "params.yaml"
        if path.exists():
            budget = {"sweep.trials": params.sweep.trials, "sweep.failures": params.sweep.failures}
            if Params.read(path).override(budget) != params:
                raise InputError(f"study: experiments/{name} is there with other parameters; choose another name")
        write_text(path, dump_yaml(params))
        link = folder / "dvc.yaml"
        if not pipeline:
            write_text(folder / ".gitignore", "/raw\n/data\n/train\n")  # what DVC would keep out of git
        elif not link.is_symlink():
            link.symlink_to("../../dvc.yaml")
        return cls.at(folder)


def find_root(start: Path) -> Path:
    """Return the nearest folder at or above `start` that holds both `pyproject.toml` and `params.yaml`."""
    for folder in [start, *start.parents]:
        if (folder / "pyproject.toml").is_file() and (folder / "params.yaml").is_file():
            return folder
    raise InputError(f"{start}: not inside a platos-cave project (no pyproject.toml with params.yaml above it)")
