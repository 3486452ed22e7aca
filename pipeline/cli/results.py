"""Commands that show results, send them to MLflow, and find what is wrong."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import StudyArgument, StudyOption, existing_study, print_links, print_results
from pipeline.study import Study, existing_studies, find_root
from pipeline.text import plural

__all__ = ["app"]

app = typer.Typer()


@app.command()
def show(study: StudyArgument = None) -> None:
    """Print a study's table, of its comparison or of its search, where its report lies, and the address of its runs."""
    print_results(existing_study(study))


@app.command()
def params(
    path: Annotated[str | None, typer.Argument(help="A parameter or a section, as model.depth; default: all.")] = None,
    study: StudyOption = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the comments of params.yaml, and docs/parameters.md.")
    ] = False,
) -> None:
    """Show parameters: path, value, what is allowed, and what it means."""
    from pipeline.cli.parameters import parameter_table, write_reference

    if write:
        lines = write_reference(find_root(Path.cwd()))
        print("\n".join(lines or ["params.yaml and docs/parameters.md are up to date"]))
        return
    print(parameter_table(existing_study(study).params, path))


@app.command()
def link(study: StudyArgument = None) -> None:
    """Print where a study's report lies and the address at which its runs are shown, as far as they are there."""
    chosen = existing_study(study)
    print_links(chosen)


@app.command()
def sync() -> None:
    """Publish to MLflow the runs that it lacks or has in part; exit code 0 if nothing is left, else 1."""
    from pipeline.runs import earlier_version_runs
    from pipeline.tracking import Tracker, mark_current

    root = find_root(Path.cwd())
    tracker = Tracker(Study.at(root))
    result = tracker.require().backlog.publish_all(everything=True)
    pending = result.remaining + sum(result.elsewhere.values())
    print(f"sent to MLflow at {tracker.server.address}: {result.done}; left: {pending}")
    for address, count in result.elsewhere.items():
        print(f"{count} meant for MLflow at {address}: set MLFLOW_TRACKING_URI to it")
    if result.busy:
        print(f"{result.busy} belong to work that is running")
    if older := earlier_version_runs(tracker.study.cache):
        print(f"{plural(older, 'run')} of an earlier version: run `cave sync` by it, or give up .cache/outbox")
    unmarked = [study.name for study in existing_studies(root) if not mark_current(study)]
    if pending or older or unmarked:
        sys.exit(1)


@app.command()
def doctor(study: StudyArgument = None) -> None:
    """Find what keeps a study from running or resuming, and the commands to fix it; exit code 1 for a fault."""
    from pipeline.doctor import CHECKS, examine, find_target, table

    root = find_root(Path.cwd())
    folder = root if study is None else root / "experiments" / study
    if not (folder / "params.yaml").is_file():
        folder = existing_study(study).folder
    levels = set()
    for name, finding in examine(CHECKS, find_target(root, folder)):
        levels.add(finding.level)
        print(table(name, finding), flush=True)
    if "fault" in levels:
        sys.exit(1)
