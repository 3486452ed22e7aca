"""Commands that start work: they check, search and train."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import (
    Set,
    StudyName,
    StudyOption,
    Variant,
    VariantOption,
    Workers,
    chosen_variant,
    existing_study,
    grid_overrides,
    print_results,
    study_overrides,
)
from pipeline.environment import Resources, shared_root
from pipeline.errors import InputError
from pipeline.params import Params, notes, parse_assignments
from pipeline.params.derived import outdated
from pipeline.study import Study, find_root

__all__ = ["START", "app"]

app = typer.Typer()


START = "Start, as in: cave train mhvae"  # a heading of the help


@app.command(rich_help_panel=START, epilog="Example: cave check --set model.depth=3")
def check(assignments: Set = None) -> None:
    """Check params.yaml, and that DVC would start; say in one line what is wrong."""
    from pipeline import addresses, data
    from pipeline.report.cost import seed_cost
    from pipeline.run_folders.git import dvc_starts

    root, overrides = find_root(Path.cwd()), parse_assignments(assignments or [])
    params, file = Params.read_with_file(root / "params.yaml", overrides)
    data.check(params.data)
    addresses.require_separate(shared_root(root))
    if (root / ".dvc").is_dir() and not dvc_starts(root):
        raise InputError(
            f"{root} is not a git repository, without which DVC does not start; run: git init && git add -A &&"
            " git commit -m 'Begin' (or clone the project with git)"
        )
    print(f"params.yaml is sound: {params.data.name}, variants {', '.join(params.variants)}")
    for line in notes(params, file, overrides):
        print(line)
    for path in sorted((root / "experiments").glob("*/study.yaml")):
        if line := outdated(file, path.parent):
            print(line)
    if cost := seed_cost(Study.at(root, overrides)):
        print(cost)


@app.command(rich_help_panel=START, epilog="Example: cave sweep mhvae --trials 50 --workers 2 --set data.name=mnist")
def sweep(
    variant: Variant = None,
    trials: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Finished trials wanted; default: sweep.trials.")
    ] = None,
    grid: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATH=[VALUE,...]",
            help="Try every combination of these values instead, e.g. --grid model.depth=[1,2,3]. Repeatable.",
        ),
    ] = None,
    workers: Workers = None,
    launcher: Annotated[str | None, typer.Option(metavar="NAME", help="What starts workers: local or ray.")] = None,
    address: Annotated[
        str | None, typer.Option(metavar="WHERE", help="Ray's cluster: auto, local or HOST:PORT.")
    ] = None,
    gpus: Annotated[
        float | None, typer.Option("--gpus-per-worker", metavar="X", help="GPUs of a worker; 0.25: four share one.")
    ] = None,
    cpus: Annotated[
        float | None, typer.Option("--cpus-per-worker", metavar="X", help="Cores that Ray reserves for a worker.")
    ] = None,
    assignments: Set = None,
    name: StudyName = None,
    option: VariantOption = None,
) -> None:
    """Search one variant's settings, in a study of its own; the same command again goes on where it stopped."""
    variant, overrides = chosen_variant(variant, option), study_overrides(assignments)
    if trials is not None and overrides.setdefault("sweep.trials", trials) != trials:
        raise InputError(f"--set: sweep.trials: {overrides['sweep.trials']!r} given beside --trials {trials}")
    if grid:
        overrides = grid_overrides(find_root(Path.cwd()), variant, grid, overrides)
    resources = Resources.read(
        workers=workers, launcher=launcher, ray_address=address, gpus_per_worker=gpus, cpus_per_worker=cpus
    )
    from pipeline.cli.by_hand import by_hand

    with by_hand("sweep", name, variant, overrides, resources) as study:
        from pipeline import report
        from pipeline.evaluations import retrained
        from pipeline.jobs.final_models import trained
        from pipeline.stages import sweep as stage

        stage.run(study, variant, resources)
        if trained(study, variant) and study.decomposition(variant).exists() and not retrained(study, variant):
            report.write(study)  # its models are still those of the best settings
        else:
            report.write_search(study)
    print_results(study)


@app.command(rich_help_panel=START, epilog="Example: cave worker mhvae --study wide --workers 4")
def worker(
    variant: Variant = None, study: StudyOption = None, workers: Workers = None, option: VariantOption = None
) -> None:
    """Help with the sweep of a study from this host, as long as it has trials to run; start it if nobody has.

    CAVE_OPTUNA_URL and MLFLOW_TRACKING_URI name the stores that all hosts share.
    """
    from pipeline import processes
    from pipeline.cli.by_hand import bring_data
    from pipeline.sweep import Sweep, join

    variant, chosen = chosen_variant(variant, option), existing_study(study)
    chosen.params.variant(variant)
    resources = Resources.read(workers=workers)
    bring_data(chosen)
    count = processes.worker_count(chosen.params.trials(variant), resources)
    join(Sweep(chosen, variant, resources=resources), count)


@app.command(rich_help_panel=START, epilog="Example: cave train mhvae --set 'model.widths=[100, 50]'")
def train(
    variant: Variant = None,
    workers: Workers = None,
    assignments: Set = None,
    name: StudyName = None,
    option: VariantOption = None,
) -> None:
    """Train and evaluate one variant with the settings as given, without a search, in a study of its own.

    With --study NAME of a study that `cave sweep` has made, the best settings of its search are trained.

    The same command again goes on where it stopped; what is trained already is not trained again.
    """
    variant, resources = chosen_variant(variant, option), Resources.read(workers=workers)
    from pipeline.cli.by_hand import by_hand

    with by_hand("train", name, variant, study_overrides(assignments), resources) as study:
        from pipeline import report
        from pipeline.stages import evaluate
        from pipeline.stages import train as stage

        stage.run(study, variant, resources, anew=False)
        evaluate.run(study, variant, resources)
        report.write(study)
    print_results(study)
