"""Commands that search, train and reproduce."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

from pipeline.cli.common import (
    Set,
    StudyName,
    StudyOption,
    Variant,
    Workers,
    existing_study,
    print_results,
    study_overrides,
)
from pipeline.environment import Resources, shared_root
from pipeline.errors import InputError
from pipeline.params import Params, notes, parse_assignments
from pipeline.params.derived import outdated
from pipeline.study import Study, find_root

__all__ = ["app"]

app = typer.Typer()


@app.command()
def check(assignments: Set = None) -> None:
    """Check params.yaml, and that DVC would start; say in one line what is wrong."""
    from pipeline import addresses, data
    from pipeline.report.cost import seed_cost
    from pipeline.runs.git import dvc_starts

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


@app.command()
def sweep(
    variant: Variant,
    trials: Annotated[int | None, typer.Option(min=1, help="Finished trials wanted; default: sweep.trials.")] = None,
    workers: Workers = None,
    launcher: Annotated[str | None, typer.Option(help="What starts workers: local or ray.")] = None,
    address: Annotated[str | None, typer.Option(help="Ray's cluster: auto, local or HOST:PORT.")] = None,
    gpus: Annotated[
        float | None, typer.Option("--gpus-per-worker", help="GPUs of a worker; 0.25: four share one.")
    ] = None,
    cpus: Annotated[
        float | None, typer.Option("--cpus-per-worker", help="Cores that Ray reserves for a worker.")
    ] = None,
    assignments: Set = None,
    name: StudyName = None,
) -> None:
    """Search one variant's settings, in a study of its own; the same command again goes on where it stopped."""
    overrides = study_overrides(assignments)
    if trials is not None and overrides.setdefault("sweep.trials", trials) != trials:
        raise InputError(f"--set: sweep.trials: {overrides['sweep.trials']!r} given beside --trials {trials}")
    resources = Resources.read(
        workers=workers, launcher=launcher, ray_address=address, gpus_per_worker=gpus, cpus_per_worker=cpus
    )
    from pipeline.cli.by_hand import by_hand

    with by_hand("sweep", name, variant, overrides, resources) as study:
        from pipeline import report
        from pipeline.jobs.final_models import trained
        from pipeline.stages import sweep as stage

        stage.run(study, variant, resources)
        if trained(study, variant) and (study.evaluate(variant) / "decomposition.json").exists():
            report.write(study)  # its models are still those of the best settings
        else:
            report.write_search(study)
    print_results(study)


@app.command()
def worker(variant: Variant, study: StudyOption = None, workers: Workers = None) -> None:
    """Help with the sweep of a study from this host, as long as it has trials to run; start it if nobody has.

    CAVE_OPTUNA_URL and MLFLOW_TRACKING_URI name the stores that all hosts share.
    """
    from pipeline import processes
    from pipeline.cli.by_hand import bring_data
    from pipeline.sweep import Sweep, join

    chosen = existing_study(study)
    chosen.params.variant(variant)
    resources = Resources.read(workers=workers)
    bring_data(chosen)
    count = processes.worker_count(chosen.params.sweep.trials, resources)
    join(Sweep(chosen, variant, resources=resources), count)


@app.command()
def train(variant: Variant, workers: Workers = None, assignments: Set = None, name: StudyName = None) -> None:
    """Train and evaluate one variant with the settings as given, without a search, in a study of its own.

    With --study NAME of a study that `cave sweep` has made, the best settings of its search are trained. The same
    command again goes on where it stopped; what is trained already is not trained again.
    """
    resources = Resources.read(workers=workers)
    from pipeline.cli.by_hand import by_hand

    with by_hand("train", name, variant, study_overrides(assignments), resources) as study:
        from pipeline import report
        from pipeline.stages import evaluate
        from pipeline.stages import train as stage

        stage.run(study, variant, resources, anew=False)
        evaluate.run(study, variant, resources)
        report.write(study)
    print_results(study)


@app.command()
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
