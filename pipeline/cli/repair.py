"""Commands that find what is wrong, send MLflow what it lacks, and run a training again."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import Json, StudyArgument, existing_study, print_json
from pipeline.study import Study, existing_studies, find_root
from pipeline.text import plural

__all__ = ["app"]

app = typer.Typer()
REPAIR = "Repair, as in: cave doctor"  # a heading of the help


@app.command(rich_help_panel=REPAIR, epilog="Example: cave doctor wide")
def doctor(study: StudyArgument = None, as_json: Json = False) -> None:
    """Find what keeps a study from running or resuming, and the commands to fix it; exit code 1 for a fault."""
    from pipeline.doctor import CHECKS, examine, find_target, table

    root = find_root(Path.cwd())
    folder = root if study is None else root / "experiments" / study
    if not (folder / "params.yaml").is_file():
        folder = existing_study(study).folder
    findings = []
    for name, finding in examine(CHECKS, find_target(root, folder)):
        findings.append({"check": name, **asdict(finding)})
        if not as_json:
            print(table(name, finding), flush=True)
    if as_json:
        print_json(findings)
    if any(finding["level"] == "fault" for finding in findings):
        sys.exit(1)


@app.command(rich_help_panel=REPAIR, epilog="Example: cave sync")
def sync() -> None:
    """Publish to MLflow the runs that it lacks or has in part; exit code 0 if nothing is left, else 1."""
    from pipeline.run_folders import earlier_version_runs
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


@app.command(rich_help_panel=REPAIR, epilog="Example: cave reproduce 843daf0a0ab242ad940c973d25b915a3")
def reproduce(
    run_id: Annotated[str, typer.Argument(help="Id of the run in MLflow: of a trial or a final model.")],
    keep: Annotated[bool, typer.Option("--keep", help="Keep the worktree with the run's code, and say where.")] = False,
) -> None:
    """Run one training or trial again from its MLflow run; exit code 0 if its numbers are equal bit for bit, else 1.

    It runs the code of the run's commit and its patch: give it runs of a store that you trust.
    """
    from pipeline.reproduce import reproduce as run_again

    if not run_again(find_root(Path.cwd()), run_id, keep=keep).equal:
        sys.exit(1)
