"""Studies that one command makes and runs, `cave train` or `cave sweep`: no `dvc repro` is needed for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pipeline import data, processes
from pipeline.cli.new_study import create_study
from pipeline.data.files import last_change
from pipeline.environment import Resources
from pipeline.errors import InputError
from pipeline.files import file_lock
from pipeline.params import Params, digest, notes
from pipeline.params.derived import write_settings
from pipeline.processes.signals import ignore_signals
from pipeline.removal import discard, was_begun
from pipeline.stages import fetch, prepare
from pipeline.study import Study, find_root, is_name

__all__ = ["bring_data", "by_hand"]

BUDGET = ("sweep.searches", "sweep.trials", "sweep.max_failures")  # what may change in a study that is there


@contextmanager
def by_hand(
    command: str, name: str | None, variant: str, overrides: Mapping[str, Any], resources: Resources | None = None
) -> Iterator[Study]:
    """Give the study of one variant that a `command` (train or sweep) runs, its data prepared.

    Without a name, equal settings give the same study; with one, the study of that name goes on if it is there. A path
    that is set by hand is not swept. Where the command fails before its first epoch, nothing is left of a study that it
    has made.
    """
    root = find_root(Path.cwd())
    processes.worker_count(1, resources or Resources.read())  # a wrong value stops the command before it makes anything
    params, file, complete = _settings(root, variant, overrides)
    settings = params.model_dump()
    for path in BUDGET:
        del settings["sweep"][path.removeprefix("sweep.")]
    del settings["root"], settings["out"]
    own_name = name or f"{command}-{variant}-{digest(settings, 8)}"
    folder = root / "experiments" / own_name
    fresh = not is_name(own_name) or not (folder / "params.yaml").exists()
    for line in notes(params, file, overrides, command=command) if fresh or name is None else ():
        print(line, flush=True)
    if fresh:
        study = create_study(root, own_name, complete, pipeline=False, fill=_fetch)
    else:
        study = _resume_study(folder, variant, params, [*overrides, *(BUDGET if name is None else ())])
    try:
        yield study
    except BaseException:
        if fresh and not was_begun(study):
            with ignore_signals(), suppress(InputError):  # the first error is the one to report
                discard(study)
        raise


def _settings(root: Path, variant: str, overrides: Mapping[str, Any]) -> tuple[Params, Params, dict[str, Any]]:
    """Return the parameters of a study of one variant, those of the root's file, and the overrides between the two."""
    first = {path: overrides[path] for path in ("budget", "budgets", "variants") if path in overrides}
    own = Params.read(root / "params.yaml", first)
    own.variant(variant)
    complete = dict(overrides) | {"variants": {variant: own.variants[variant]}}
    params, file = Params.read_with_file(root / "params.yaml", complete)
    data.check(params.data)
    return params, file, complete


def _resume_study(folder: Path, variant: str, params: Params, asked: Sequence[str]) -> Study:
    """Return the study that an earlier command made in a folder, with the trials and searches that are now asked for.

    Any other value in `asked` must be the one that the study has. Where the root's `params.yaml` has other settings,
    the study keeps its own, and one line says so.
    """
    study = Study.at(folder)
    if not study.is_standalone:
        command = study.command("report")
        raise InputError(f"study: {study.name} is run by DVC (`{command}`); choose another name for one by hand")
    study.params.variant(variant)
    own, requested = ({**each.flat(), f"variants.{variant}": each.variants[variant]} for each in (study.params, params))
    others = [path for path in own | requested if path not in BUDGET and own.get(path, "") != requested.get(path, "")]
    explicit = [*asked, *(params.budgets[params.budget] if "budget" in asked else ())]
    for path in others:
        if any(path == word or path.startswith(f"{word}.") for word in explicit):
            has, not_this = (repr(values.get(path))[:60] for values in (own, requested))
            raise InputError(
                f"study: experiments/{study.name} is there with other parameters ({path} is {has}, not {not_this});"
                " choose another name, or go on with its own settings by leaving out what is set"
            )
    if others:
        few = ", ".join(others[:3]) + (f" and {len(others) - 3} more" if len(others) > 3 else "")
        print(f"study {study.name} goes on with its own params.yaml, which differs from the root's in {few}")
    budget: dict[str, Any] = {
        path: requested[path] for path in BUDGET if path in explicit and requested[path] != own[path]
    }
    if budget:
        changed = study.params.override(budget)
        changed.check()
        write_settings(folder, changed, Params.read_values(study.root / "params.yaml"))
        study = Study.at(folder)
    bring_data(study)
    return study


def bring_data(study: Study) -> None:
    """Fetch and prepare a study's data where they are not here yet; processes that start at once do it once."""
    with file_lock(study.locks / "data"):
        try:
            data.load(study.data)
            if study.params.outliers is not None:
                data.load(study.outliers)
        except InputError:
            _fetch(study)
            return
    path = study.root / (study.params.data.path or "")
    read = (study.data / "data.json").stat().st_mtime
    if study.is_standalone and study.params.has_own_images and path.exists() and last_change(path) > read:
        print(
            f"study {study.name} keeps the images that it has read, and {study.params.data.path} has changed since; to"
            f" read it anew: cave study rm {study.name}, and the same command again"
        )


def _fetch(study: Study) -> None:
    fetch.run(study)
    prepare.run(study)
