"""What the commands share: their options, the study that a name means, and the lines that close a command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import InputError
from pipeline.params import Params, parse_assignments
from pipeline.study import Study, find_root, is_name
from pipeline.text import did_you_mean

__all__ = [
    "Json",
    "Set",
    "StudyArgument",
    "StudyName",
    "StudyOption",
    "Variant",
    "VariantOption",
    "Workers",
    "chosen_variant",
    "existing_study",
    "grid_overrides",
    "name_hint",
    "print_json",
    "print_links",
    "print_results",
    "print_runs",
    "study_overrides",
]


def _completions(names: Callable[[], list[str]]) -> list[str]:
    """Return what a shell proposes: nothing where there is a fault, whose line has no place there."""
    try:
        return names()
    except InputError:
        return []


def _variants() -> list[str]:
    return _completions(variant_names)


def _studies() -> list[str]:
    return _completions(study_names)


Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override a parameter, e.g. --set data.name=mnist. Repeatable."),
]
Variant = Annotated[
    str | None,
    typer.Argument(metavar="VARIANT", help="A name in the section variants of params.yaml.", autocompletion=_variants),
]
VariantOption = Annotated[str | None, typer.Option("--variant", hidden=True, help="The same, as an option.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON for a script, and nothing else.")]
Workers = Annotated[int | None, typer.Option(min=1, metavar="N", help="Worker processes; default: one a core.")]
StudyName = Annotated[
    str | None,
    typer.Option("--study", metavar="NAME", help="Name of the study's folder; default: made from the settings."),
]
StudyArgument = Annotated[
    str | None,
    typer.Argument(metavar="STUDY", help="A study; default: that of the root's params.yaml.", autocompletion=_studies),
]
StudyOption = Annotated[
    str | None,
    typer.Option(
        "--study",
        metavar="NAME",
        help="A study's name; default: that of the root's params.yaml.",
        autocompletion=_studies,
    ),
]


def chosen_variant(position: str | None, option: str | None) -> str:
    """Return the variant that a command names, by its position or by the option `--variant`."""
    if position and option and position != option:
        raise InputError(f"--variant: {option!r} given beside {position!r}; leave the option out")
    if not (name := position or option):
        allowed = ", ".join(variant_names())
        raise InputError(f"VARIANT: none given, as in `cave train {variant_names()[0]}`; allowed: {allowed}")
    return name


def variant_names() -> list[str]:
    """Return the names of the variants in the root's `params.yaml`."""
    return list(Params.read(find_root(Path.cwd()) / "params.yaml").variants)


def study_names() -> list[str]:
    """Return the names of the project's studies."""
    from pipeline.cli.studies import names

    return names(find_root(Path.cwd()))


def print_json(value: Any) -> None:
    """Print a value as JSON; numbers that are not finite are null."""
    finite = json.loads(json.dumps(value, default=str), parse_constant=lambda _: None)
    print(json.dumps(finite, indent=1, ensure_ascii=False))


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


def grid_overrides(root: Path, variant: str, words: list[str], overrides: dict[str, Any]) -> dict[str, Any]:
    """Return the overrides of a search that tries every combination of the values in `PATH=[VALUE,...]` words."""
    values = parse_assignments(words, "--grid")
    own = Params.read(
        root / "params.yaml", {path: value for path, value in overrides.items() if path != "sweep.trials"}
    )
    fixed = own.variant(variant) and own.variants[variant]
    for path, choices in values.items():
        if not isinstance(choices, list) or not choices:
            raise InputError(f"--grid: {path}: {choices!r} given; allowed: a list of values, as in {path}=[1,2]")
        if path in fixed or path in overrides:
            where = f"variant '{variant}' fixes it" if path in fixed else "--set gives it"
            raise InputError(f"--grid: {path}: {where}, so that it cannot be searched; leave one of the two out")
        if path == "train.seeds":
            raise InputError(
                "--grid: train.seeds: a search trains a setting once; for other seeds of each, set sweep.searches, as"
                " in --set sweep.searches=3"
            )
    if "sweep.trials" in overrides:
        raise InputError("--grid: has as many trials as there are combinations; leave --trials and sweep.trials out")
    flat = own.flat()
    first = {path: choices[0] for path, choices in values.items() if flat.get(path) not in choices}
    space = {path: {"choices": choices} for path, choices in values.items()}
    return {**overrides, **first, "sweep.sampler": "grid", "sweep.space": space}


def name_hint(name: str) -> str:
    """Return ` (did you mean 'x'?)` for the study whose name is close, or nothing."""
    return did_you_mean(name, study_names())


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
