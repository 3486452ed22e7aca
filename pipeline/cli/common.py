"""What the commands share: their options, the study that a name means, and the lines that close a command."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import InputError
from pipeline.params import parse_assignments
from pipeline.study import Study, find_root, is_name
from pipeline.text import did_you_mean

__all__ = [
    "Set",
    "StudyArgument",
    "StudyName",
    "StudyOption",
    "Variant",
    "Workers",
    "existing_study",
    "name_hint",
    "print_links",
    "print_results",
    "print_runs",
    "study_overrides",
]

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override a parameter, e.g. --set data.name=mnist. Repeatable."),
]
Variant = Annotated[str, typer.Option(help="A name in the section variants of params.yaml.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Worker processes; default: one a core.")]
StudyName = Annotated[
    str | None, typer.Option("--study", help="Name of the study's folder; default: made from the settings.")
]
StudyArgument = Annotated[
    str | None, typer.Argument(help="A study's name; default: the study of the root's params.yaml.")
]
StudyOption = Annotated[
    str | None, typer.Option("--study", help="A study's name; default: that of the root's params.yaml.")
]


def existing_study(name: str | None) -> Study:
    """Return the study of a name, the root's own for None; `InputError` where there is none."""
    root = find_root(Path.cwd())
    if name is None:
        return Study.at(root)
    folder = root / "experiments" / name
    if not is_name(name) or not (folder / "params.yaml").is_file():
        default = Study.at(root)
        if default.name == name:
            return default
        raise InputError(f"study: '{name}' given{name_hint(name)}; `cave study list` shows those that are there")
    return Study.at(folder)


def study_overrides(assignments: list[str] | None) -> dict[str, Any]:
    """Read the `--set` assignments of a command that makes a study; one that sets its folder is an `InputError`."""
    overrides = parse_assignments(assignments or [])
    for path in {"root", "out"} & set(overrides):
        raise InputError(f"--set: {path}: a new study lies in experiments/, by its own name; leave {path} out")
    return overrides


def name_hint(name: str) -> str:
    """Return ` (did you mean 'x'?)` for the study whose name is close, or nothing."""
    from pipeline.cli.studies import names

    return did_you_mean(name, names(find_root(Path.cwd())))


def print_results(study: Study) -> None:
    """Print what a study has to show, where its report lies, and where its runs are."""
    from pipeline.report import overview

    print(f"\n{overview(study)}\n")
    print_links(study)


def print_links(study: Study) -> None:
    """Print where a study's report lies, and the address of its runs."""
    from pipeline.links import report_line

    print(report_line(study))
    print_runs(study)


def print_runs(study: Study, port: int = 5000) -> None:
    """Print the address of a study's runs."""
    from pipeline.links import runs_line

    print(runs_line(study, port))
