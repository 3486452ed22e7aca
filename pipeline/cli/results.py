"""Commands that show results, settings and runs."""

from __future__ import annotations

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import (
    Json,
    StudyArgument,
    StudyOption,
    existing_study,
    print_json,
    print_links,
    print_results,
)
from pipeline.params import Params
from pipeline.study import find_root

__all__ = ["app"]

app = typer.Typer()
LOOK = "Look, as in: cave show"  # a heading of the help


@app.command(rich_help_panel=LOOK, epilog="Example: cave show wide")
def show(study: StudyArgument = None, as_json: Json = False) -> None:
    """Print a study's table, of its comparison or of its search, where its report lies, and the address of its runs."""
    chosen = existing_study(study)
    if as_json:
        from pipeline.cli.scripts import study_document

        print_json(study_document(chosen))
        return
    print_results(chosen)


@app.command("open", rich_help_panel=LOOK, epilog="Example: cave open wide")
def open_report(study: StudyArgument = None) -> None:
    """Open a study's report in the browser, where there is one; print where it lies."""
    from pipeline.cli.scripts import open_page
    from pipeline.links import report_line

    chosen = existing_study(study)
    print(report_line(chosen), flush=True)
    page = chosen.report / "report.html"
    if not page.is_file():
        sys.exit(1)
    open_page(page)


@app.command("runs", rich_help_panel=LOOK, epilog="Example: cave runs --best")
def list_runs(
    study: StudyArgument = None,
    best: Annotated[bool, typer.Option("--best", help="Only the best of each variant, the very best first.")] = False,
    as_json: Json = False,
) -> None:
    """List a study's runs: of its final models with their nll, or of the trials of what was only searched."""
    from pipeline.cli.run_list import best_of, run_table, runs
    from pipeline.evaluations import retrained_line

    chosen = existing_study(study)
    for variant in chosen.params.variants:
        if line := retrained_line(chosen, variant):
            print(line, file=sys.stderr)
    listed = best_of(runs(chosen)) if best else runs(chosen)
    if as_json:
        print_json([asdict(run) for run in listed])
        return
    print(run_table(chosen, listed))


@app.command(rich_help_panel=LOOK, epilog="Example: cave compare default wide, cave compare HEAD~1 HEAD --all")
def compare(
    first: Annotated[
        str,
        typer.Argument(metavar="A", help="A run's id, STUDY or its folder, VARIANT, STUDY:VARIANT, REVISION[:STUDY]."),
    ],
    second: Annotated[str, typer.Argument(metavar="B", help="The same.")],
    every: Annotated[bool, typer.Option("--all", help="Show every number, not only the main ones.")] = False,
    as_json: Json = False,
) -> None:
    """Say what differs between two runs, studies, variants or git revisions: settings, and numbers with errors."""
    from pipeline.cli.comparing import compare as set_side_by_side
    from pipeline.cli.comparing import comparison_text

    comparisons = set_side_by_side(find_root(Path.cwd()), first, second)
    if as_json:
        print_json([asdict(comparison) for comparison in comparisons])
        return
    print("\n\n".join(comparison_text(comparison, every) for comparison in comparisons))


@app.command(rich_help_panel=LOOK, epilog="Example: cave params model.depth")
def params(
    path: Annotated[
        str | None, typer.Argument(metavar="PATH", help="A parameter or a section, as model.depth; default: all.")
    ] = None,
    study: StudyOption = None,
    write: Annotated[
        bool, typer.Option("--write", help="Write the comments of params.yaml, and docs/parameters.md.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Show parameters: path, value, default where a study has another, what is allowed, and what it means."""
    from pipeline.cli.parameters import parameter_rows, parameter_table, write_reference

    if write:
        lines = write_reference(find_root(Path.cwd()))
        print("\n".join(lines or ["params.yaml and docs/parameters.md are up to date"]))
        return
    chosen = existing_study(study)
    rows = parameter_rows(chosen.params, Params.read_values(chosen.root / "params.yaml"), path)
    if as_json:
        print_json([asdict(row) for row in rows])
        return
    print(parameter_table(rows))


@app.command(rich_help_panel=LOOK, epilog="Example: cave link wide")
def link(study: StudyArgument = None, as_json: Json = False) -> None:
    """Print where a study's report lies and the address at which its runs are shown, as far as they are there."""
    chosen = existing_study(study)
    if as_json:
        from pipeline.cli.scripts import link_document

        print_json(link_document(chosen))
        return
    print_links(chosen)
