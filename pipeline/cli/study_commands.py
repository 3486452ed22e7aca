"""Commands that make, list and remove studies: `cave study ...`."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.common import Json, Set, existing_study, name_hint, print_json, study_overrides
from pipeline.cli.new_study import create_study
from pipeline.errors import InputError
from pipeline.params import Params, notes
from pipeline.study import activate, find_root

__all__ = ["app"]

app = typer.Typer(help="Make, list and remove studies.", no_args_is_help=True)


@app.command("new")
def study_new(
    name: str,
    assignments: Set = None,
    images: Annotated[
        Path | None,
        typer.Option("--data", metavar="PATH", help="Images of your own: a folder, or an .npy, .npz or Parquet file."),
    ] = None,
) -> None:
    """Make the study experiments/NAME: study.yaml for its own values, params.yaml of all values, and a dvc.yaml.

    Outside of a project, the files of one are made here first.
    """
    from pipeline.project import MADE, project_around

    overrides = study_overrides(assignments)
    with project_around(Path.cwd()) as (root, made):
        lines = _make(root, name, images, overrides)
    if made:
        print(f"{root} is now a project, with {', '.join(MADE)}")
    print("\n".join(lines))


def _make(root: Path, name: str, images: Path | None, overrides: dict[str, Any]) -> list[str]:
    """Make a study and return the lines that say so."""
    from pipeline import data

    if images is not None:
        from pipeline.cli.own_images import own_settings

        overrides = own_settings(root, images, overrides)
    params, file = Params.read_with_file(root / "params.yaml", overrides)
    data.check(params.data)
    linked, lines = (root / "experiments" / name / "dvc.yaml").is_symlink(), notes(params, file, overrides)
    if params.data.name == "files":
        from pipeline.cli.own_images import SHEET, describe_images

        create_study(root, name, overrides, fill=describe_images)
        lines.insert(0, f"experiments/{name}/{SHEET} shows some of the training images")
    else:
        create_study(root, name, overrides)
    if linked:
        lines.append(f"experiments/{name}/dvc.yaml was a link and is now a copy of the root's dvc.yaml")
    return [
        *lines,
        f"experiments/{name}/study.yaml has its own values, params.yaml beside it all of them; run it with: dvc repro"
        f" experiments/{name}/dvc.yaml",
    ]


@app.command("activate")
def study_activate(name: str) -> None:
    """Let DVC run and show a study that came with the project; until then, DVC passes over it."""
    study = existing_study(name)
    if study.folder == study.root or not (study.folder / "dvc.yaml").is_file():
        raise InputError(f"study: '{name}' given, which has no dvc.yaml of its own; see `cave study list`")
    activate(study.folder)
    print(f"DVC sees experiments/{study.name} from now on; run it with: dvc repro experiments/{study.name}/dvc.yaml")


@app.command("refresh")
def study_refresh() -> None:
    """Bring the studies that DVC runs up to date with the root's dvc.yaml and the default values in its params.yaml."""
    from pipeline.cli.refresh import refresh_params, refresh_pipeline

    root = find_root(Path.cwd())
    defaults = Params.read_values(root / "params.yaml")
    folders = [path.parent for path in sorted((root / "experiments").glob("*/dvc.yaml"))]
    for folder in folders:  # dvc.yaml depends on what params.yaml names
        for line in (refresh_params(root, folder, defaults), refresh_pipeline(root, folder)):
            if line:
                print(line)


@app.command("list")
def study_list(as_json: Json = False) -> None:
    """List the studies: how each is run, how far it is, its best nll, and which settings differ from the root's."""
    from pipeline.cli.studies import rows, table

    listed = rows(find_root(Path.cwd()))
    if as_json:
        print_json([asdict(row) for row in listed])
        return
    print(table(listed))


@app.command("rm")
def study_rm(
    name: str,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Remove a study: its folder, its unfinished work, its searches in Optuna, its experiment in MLflow.

    MLflow marks the experiment as deleted and keeps its runs; Optuna forgets its trials.
    """
    from pipeline.removal import Removal

    removal = Removal.of(find_root(Path.cwd()), name)
    lines = removal.belongings()
    if not lines:
        raise InputError(f"study: '{name}' given{name_hint(name)}; `cave study list` shows those that are there")
    print("\n".join(["this removes:", *(f"  {line}" for line in lines)]), flush=True)
    if not yes:
        if not sys.stdin.isatty():
            raise InputError(f"nobody is there to be asked: to remove study {name}, call `cave study rm {name} --yes`")
        if not typer.confirm(f"remove study {name}?"):
            print("nothing is removed")
            return
    tracked, reasons = removal.tracked(), removal.remove()
    print(f"study {name} is removed")
    if tracked:
        print(f"git keeps its committed files: `git checkout -- experiments/{name}` brings them back")
    for reason in reasons:
        print(f"what could not be reached stays: {reason}; when it is back: cave study rm {name}", file=sys.stderr)
    if reasons:
        sys.exit(1)
