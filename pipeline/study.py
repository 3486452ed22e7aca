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
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.environment import shared_root
from pipeline.errors import InputError
from pipeline.files import sha256, write_text
from pipeline.location import nearest_project
from pipeline.params import Params, notes
from pipeline.params.derived import outdated

__all__ = [
    "Study",
    "activate",
    "active",
    "creation_lock",
    "existing_studies",
    "find_root",
    "is_name",
    "pipeline_text",
]

VARIANT_STAGES = ("sweep", "train", "evaluate")
PREPARE = "deps:\n    - ${out}/raw\n"  # how the dependencies of stage prepare begin
OWN_IMAGES = "    - ${root}/${data.path}\n"  # and the one that a study of a user's own images has beside them
SPLITS = "      - ${out}/data\n"  # the dependency of the stages that a variant has, each of which has a model
HIDDEN = "/dvc.yaml"  # the line of a study's .dvcignore that hides its pipeline from DVC


@dataclass(frozen=True)
class Study:
    """Parameters, and the folders they are worked out in."""

    params: Params
    folder: Path  # that holds params.yaml
    root: Path  # of the project
    out: Path  # of this study's outputs
    shared_root: Path  # where databases and caches lie

    @classmethod
    def at(cls, folder: Path, overrides: Mapping[str, Any] | None = None) -> Study:
        """Read the study whose `params.yaml` lies in `folder`."""
        params = Params.read(folder / "params.yaml", overrides)
        root = (folder / params.root).resolve()
        return cls(
            params=params,
            folder=folder.resolve(),
            root=root,
            out=(folder / params.out).resolve(),
            shared_root=shared_root(root),
        )

    @property
    def name(self) -> str:
        """The study's name: its folder's."""
        return self.out.name

    @property
    def unique_name(self) -> str:
        """The name with a digest of where the outputs lie: two folders of one study, side by side, differ in it."""
        return f"{self.name}-{sha256([os.path.relpath(self.out, self.shared_root).encode()])[:8]}"

    @property
    def locks(self) -> Path:
        """The locks of the stages that write into the output folder."""
        return self.cache / "locks" / "stages" / self.unique_name

    @property
    def creation_lock(self) -> Path:
        """The lock of the process that makes or removes the study of this name."""
        return creation_lock(self.shared_root, self.name)

    @property
    def cache(self) -> Path:
        """Downloads, locks, logs that MLflow does not have yet, and the states that unfinished work resumes from."""
        return self.shared_root / ".cache"

    @property
    def runs(self) -> Path:
        """The folders of runs that are not finished, or that MLflow lacks."""
        return self.cache / "runs"

    @property
    def raw(self) -> Path:
        """The data set's files as published."""
        return self.out / "raw"

    @property
    def data(self) -> Path:
        """The splits."""
        return self.out / "data"

    @property
    def outliers(self) -> Path:
        """The splits of the data set that images from elsewhere are taken from (`evaluate.outliers`)."""
        return self.out / "outliers"

    def sweep(self, variant: str) -> Path:
        """The sweep's outputs."""
        return self.out / "sweep" / variant

    def train(self, variant: str) -> Path:
        """The final models, a folder a seed."""
        return self.out / "train" / variant

    def evaluate(self, variant: str) -> Path:
        """The test results."""
        return self.out / "evaluate" / variant

    def decomposition(self, variant: str) -> Path:
        """The test results of all seeds, with what they are of (`evaluations`)."""
        return self.evaluate(variant) / "decomposition.json"

    def evaluation_time(self, variant: str, seed: int) -> Path:
        """The seconds that a seed's evaluation took: no output, since outputs are the same whenever they are made."""
        return self.cache / "evaluate" / self.unique_name / ".seconds" / f"{variant}-{seed}.json"

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

    @property
    def verdict(self) -> str:
        """The sentences in which the report compares the variants; empty without a report."""
        try:
            return (self.report / "table.md").read_text(encoding="utf-8").split("\n\n")[1]
        except (OSError, UnicodeDecodeError, IndexError):
            return ""

    def notes(self, variant: str | None = None, stage: str = "") -> list[str]:
        """Say what overrides values of the study's file, for one variant or all of them, in one stage or in all."""
        return notes(*Params.read_with_file(self.folder / "params.yaml"), variant=variant, command=stage)

    def notices(self, variant: str, stage: str = "") -> list[str]:
        """Return the lines that a stage begins with: how its settings differ from `study.yaml`, then its `notes`."""
        changed = (
            "" if self.folder == self.root else outdated(Params.read_values(self.root / "params.yaml"), self.folder)
        )
        return [*([changed] if changed else []), *self.notes(variant, stage)]

    @property
    def watches_own_images(self) -> bool:
        """Whether DVC sees a change of the user's own images, if there are any."""
        if self.is_standalone or not self.params.has_own_images:
            return True
        return OWN_IMAGES in (self.folder / "dvc.yaml").read_text(encoding="utf-8")

    @property
    def is_standalone(self) -> bool:
        """Whether `cave train` or `cave sweep` made this study, so that no `dvc repro` can run it."""
        return self.folder != self.root and not (self.folder / "dvc.yaml").exists()

    def stage_title(self, stage: str, variant: str = "") -> str:
        """Return what a display calls a stage, of a variant: its name, and its number where DVC runs the study."""
        name = f"{stage} {variant or self.params.data.name}"
        if self.is_standalone:
            return name
        variants = list(self.params.variants)
        # DVC runs a stage for all variants before the next one.
        order = ["fetch", "prepare", *(f"{each} {one}" for each in VARIANT_STAGES for one in variants), "report"]
        return f"stage {1 + order.index(name if variant else stage)} of {len(order)}: {name}"

    def command(self, stage: str) -> str:
        """Return the command that makes the results of a stage, such as `report` or `sweep@vae`."""
        if self.is_standalone:
            name, _, variant = stage.partition("@")
            word = "sweep" if name == "sweep" else "train"
            return f"cave {word} {variant or next(iter(self.params.variants))} --study {self.name}"
        if self.folder == self.root:
            return "dvc repro"
        first = "" if active(self.folder) else f"cave study activate {self.name} && "
        return f"{first}dvc repro {self.folder.relative_to(self.root)}/dvc.yaml"

    def how(self, stage: str) -> str:
        """Say in a sentence how a stage's results are made again."""
        if self.is_standalone:
            return f"Made by `{self.command(stage)}`, with the settings in `experiments/{self.name}/params.yaml`."
        command = self.command(stage)
        return f"Reproduce with `{command}{' ' if self.folder == self.root else ':'}{stage}`."


def pipeline_text(root: Path, folder: Path) -> bytes:
    """Return the root's `dvc.yaml` as the study in `folder` has it; may raise `OSError`.

    It is a copy; where the study has images of a user's own, stage prepare depends on them too, and where it has
    extensions in the root, the stages with a model depend on those.
    """
    text = (root / "dvc.yaml").read_bytes()
    with suppress(InputError):
        params = Params.read_values(folder / "params.yaml")
        if params.has_own_images and OWN_IMAGES.encode() not in text:
            text = text.replace(PREPARE.encode(), (PREPARE + OWN_IMAGES).encode(), 1)
        for module in params.extensions:
            path = module.replace(".", "/")
            name = path if (root / path).is_dir() else f"{path}.py"
            line = f"      - ${{root}}/{name}\n".encode()
            if (root / name).exists() and line not in text:
                text = text.replace(SPLITS.encode(), SPLITS.encode() + line)
    return text


def creation_lock(root: Path, name: str) -> Path:
    """Return the lock of the process that makes or removes the study of a name."""
    return root / ".cache" / "locks" / f"new-{name}"


def is_name(name: str) -> bool:
    """Return whether a study may have this name: a folder's, of lower-case letters, digits, - and _."""
    return re.fullmatch(r"[\w-]{1,100}", name) is not None and name == name.lower() and name.strip("-_") != ""


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
    """Return the root of the project around `start`; raise `InputError` where there is none."""
    if (root := nearest_project(start)) is None:
        raise InputError(f"{start}: not inside a platos-cave project (no pyproject.toml with params.yaml above it)")
    return root


def existing_studies(root: Path) -> list[Study]:
    """Return the default study and those in `experiments`, as far as their parameters can be read."""
    studies: dict[Path, Study] = {}
    for path in [root / "params.yaml", *sorted((root / "experiments").glob("*/params.yaml"))]:
        with suppress(InputError):
            study = Study.at(path.parent)
            studies.setdefault(study.out, study)
    return list(studies.values())
