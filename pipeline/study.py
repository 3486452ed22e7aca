"""A study: a folder with its `params.yaml`, and where everything that belongs to it lies.

The default study is the project's root itself with its outputs in `experiments/default`; every other is a
folder `experiments/<name>` whose `dvc.yaml` is a copy of the root's. It is no link, because DVC cannot read a link in
another revision, and then shows nothing of that revision. Stores and caches are shared by all: they lie at the root
that `DVC_ROOT` names (so that `dvc exp run --temp` finds them), else at `params.root`.

The studies that come with the project are inactive until a user wants them: `dvc checkout` and `dvc pull` fail for
outputs that no stage has made yet, so a `.dvcignore` in the study's folder hides its `dvc.yaml` from DVC.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import InputError
from pipeline.files import write_bytes, write_text
from pipeline.params import Params, dump_yaml

__all__ = ["HIDDEN", "Study", "activate", "active", "copy_pipeline", "find_root"]

HIDDEN = "/dvc.yaml"  # the line of a study's .dvcignore that hides its pipeline from DVC


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

    def how(self, stage: str) -> str:
        """Say in a sentence how a stage's results are made again."""
        if (self.folder / "dvc.yaml").exists():
            here = "" if self.folder == self.root else f"{self.folder.relative_to(self.root)}/dvc.yaml:"
            first = "" if active(self.folder) else f"`cave study activate {self.name}` and "
            return f"Reproduce with {first}`dvc repro {here}{stage}`."
        return f"Made by hand with the settings in `{self.out.name}/params.yaml`."

    @classmethod
    def create(cls, root: Path, name: str, overrides: Mapping[str, Any], *, pipeline: bool = True) -> Study:
        """Make the folder `experiments/<name>` with its own parameters and, for `pipeline`, a copy of `dvc.yaml`.

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
        copy = folder / "dvc.yaml"
        if not pipeline:
            write_text(folder / ".gitignore", "/raw\n/data\n/train\n")  # what DVC would keep out of git
        elif copy.is_symlink() or not copy.exists():
            copy_pipeline(root, folder)
        return cls.at(folder)


def copy_pipeline(root: Path, folder: Path) -> bool:
    """Make a study's `dvc.yaml` a copy of the root's, also where it was a link; return whether it was not one yet."""
    copy = folder / "dvc.yaml"
    try:
        content = (root / "dvc.yaml").read_bytes()
        if not copy.is_symlink() and copy.exists() and copy.read_bytes() == content:
            return False
    except OSError as error:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror}") from None
    write_bytes(copy, content)
    return True


def active(folder: Path) -> bool:
    """Return whether DVC sees the pipeline of the study in `folder`."""
    return HIDDEN not in _hidden(folder)


def activate(folder: Path) -> None:
    """Let DVC see the pipeline of the study in `folder`."""
    lines = [line for line in _hidden(folder) if line != HIDDEN]
    path = folder / ".dvcignore"
    if all(line.startswith("#") or not line.strip() for line in lines):
        path.unlink(missing_ok=True)
    else:
        write_text(path, "\n".join(lines) + "\n")


def _hidden(folder: Path) -> list[str]:
    try:
        return (folder / ".dvcignore").read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        return []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{folder / '.dvcignore'}: cannot be read: {error}") from None


def find_root(start: Path) -> Path:
    """Return the nearest folder at or above `start` that holds both `pyproject.toml` and `params.yaml`."""
    for folder in [start, *start.parents]:
        if (folder / "pyproject.toml").is_file() and (folder / "params.yaml").is_file():
            return folder
    raise InputError(f"{start}: not inside a platos-cave project (no pyproject.toml with params.yaml above it)")
