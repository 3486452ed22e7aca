"""The command line, `cave`. Heavy libraries are imported by the commands that need them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.cli.new_study import copy_pipeline, create_study
from pipeline.errors import InputError
from pipeline.location import use_project_code
from pipeline.params import Params, notes, parse_assignments
from pipeline.processes.entry import run_main
from pipeline.processes.signals import raise_if_interrupted
from pipeline.study import Study, activate, existing_studies, find_root, is_name
from pipeline.text import nearest

__all__ = ["main"]

app = typer.Typer(
    help="VAE, HVAE and Markovian HVAE of any depth, each bound taken apart term by term.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
studies = typer.Typer(help="Make, list and remove studies.", no_args_is_help=True)
app.add_typer(studies, name="study")

Set = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="PATH=VALUE", help="Override a parameter, e.g. --set data.name=mnist. Repeatable."),
]
Variant = Annotated[str, typer.Option(help="A name in the section variants of params.yaml.")]
Workers = Annotated[int | None, typer.Option(min=1, help="Worker processes; default: one a core.")]
Name = Annotated[
    str | None, typer.Option("--study", help="Name of the study's folder; default: made from the settings.")
]
Of = Annotated[str | None, typer.Argument(help="A study's name; default: the study of the root's params.yaml.")]

Help = Annotated[str | None, typer.Option("--study", help="A study's name; default: that of the root's params.yaml.")]


@app.command()
def check(assignments: Set = None) -> None:
    """Check params.yaml, and that DVC would start; say in one line what is wrong."""
    from pipeline import data, stores
    from pipeline.report.cost import seed_cost
    from pipeline.runs.provenance import dvc_starts

    root, overrides = find_root(Path.cwd()), parse_assignments(assignments or [])
    params, file = Params.read_with_file(root / "params.yaml", overrides)
    data.check(params.data)
    stores.apart(Path(os.environ.get("DVC_ROOT") or root).resolve())
    if (root / ".dvc").is_dir() and not dvc_starts(root):
        raise InputError(
            f"{root} is not a git repository, without which DVC does not start; run: git init && git add -A &&"
            " git commit -m 'Begin' (or clone the project with git)"
        )
    print(f"params.yaml is sound: {params.data.name}, variants {', '.join(params.variants)}")
    for line in notes(params, file, overrides):
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
    gpus: Annotated[float | None, typer.Option("--gpus-per-worker", help="0.25: four workers share a GPU.")] = None,
    cpus: Annotated[float | None, typer.Option("--cpus-per-worker", help="Cores that Ray keeps for a worker.")] = None,
    assignments: Set = None,
    name: Name = None,
) -> None:
    """Search one variant's settings, in a study of its own; the same command again goes on where it stopped."""
    overrides = _assigned(assignments)
    if trials is not None and overrides.setdefault("sweep.trials", trials) != trials:
        raise InputError(f"--set: sweep.trials: {overrides['sweep.trials']!r} given beside --trials {trials}")
    settings = {"LAUNCHER": launcher, "RAY_ADDRESS": address, "GPUS_PER_WORKER": gpus, "CPUS_PER_WORKER": cpus}
    os.environ |= {f"CAVE_{setting}": str(value) for setting, value in settings.items() if value is not None}
    if workers is not None:
        os.environ["CAVE_WORKERS"] = str(workers)
    from pipeline.cli.by_hand import by_hand

    with by_hand("sweep", name, variant, overrides) as study:
        from pipeline import report
        from pipeline.stages import sweep as stage
        from pipeline.stages.train import trained

        stage.run(study, variant)
        if trained(study, variant) and (study.evaluate(variant) / "decomposition.json").exists():
            report.write(study)  # its models are still those of the best settings
        else:
            report.write_search(study)
    _results(study)


@app.command()
def worker(variant: Variant, study: Help = None, workers: Workers = None) -> None:
    """Help with the sweep of a study from this host, as long as it has trials to run; start it if nobody has.

    CAVE_OPTUNA_URL and MLFLOW_TRACKING_URI name the stores that all hosts share.
    """
    from pipeline import processes
    from pipeline.cli.by_hand import bring_data
    from pipeline.sweep import Sweep, join

    found = _existing(study)
    found.params.variant(variant)
    if workers is not None:
        os.environ["CAVE_WORKERS"] = str(workers)
    bring_data(found)
    join(Sweep(found, variant), processes.workers(found.params.sweep.trials))


@app.command()
def train(variant: Variant, workers: Workers = None, assignments: Set = None, name: Name = None) -> None:
    """Train and evaluate one variant with the settings as given, without a search, in a study of its own.

    With --study NAME of a study that `cave sweep` has made, the best settings of its search are trained. The same
    command again goes on where it stopped; what is trained already is not trained again.
    """
    if workers is not None:
        os.environ["CAVE_WORKERS"] = str(workers)
    from pipeline.cli.by_hand import by_hand

    with by_hand("train", name, variant, _assigned(assignments)) as study:
        from pipeline import report
        from pipeline.stages import evaluate
        from pipeline.stages import train as stage

        stage.run(study, variant, anew=False)
        evaluate.run(study, variant)
        report.write(study)
    _results(study)


@app.command()
def reproduce(
    run_id: str,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the worktree with the run's code, and say where.")] = False,
) -> None:
    """Run one training or trial again from its MLflow run; exit code 0 if its numbers are equal bit for bit, else 1.

    It runs the code of the run's commit and its patch: give it runs of a store that you trust.
    """
    from pipeline.reproduce import reproduce as run_again

    if not run_again(find_root(Path.cwd()), run_id, keep=keep).equal:
        sys.exit(1)


@app.command()
def sync() -> None:
    """Send to MLflow what was logged while it could not be reached; exit code 0 if nothing is left, else 1."""
    from pipeline.tracking import Tracker, mark_current

    root = find_root(Path.cwd())
    tracker = Tracker(Study.at(root))
    result = tracker.require().publish_all(everything=True)
    left = result.left + sum(result.elsewhere.values())
    print(f"sent to MLflow at {tracker.server.address}: {result.done}; left: {left}")
    for address, count in result.elsewhere.items():
        print(f"{count} meant for MLflow at {address}: set MLFLOW_TRACKING_URI to it")
    if result.busy:
        print(f"{result.busy} belong to work that is running")
    unmarked = [study.name for study in existing_studies(root) if not mark_current(study)]
    if left or unmarked:
        sys.exit(1)


@app.command()
def doctor(study: Of = None) -> None:
    """Find what keeps a study from running or going on, and say the command that mends it; exit code 1 for a fault."""
    from pipeline.doctor import CHECKS, examine, place, table

    root = find_root(Path.cwd())
    folder = root if study is None else root / "experiments" / study
    if not (folder / "params.yaml").is_file():
        folder = _existing(study).folder
    levels = set()
    for name, finding in examine(CHECKS, place(root, folder)):
        levels.add(finding.level)
        print(table(name, finding), flush=True)
    if "fault" in levels:
        sys.exit(1)


@studies.command("new")
def study_new(name: str, assignments: Set = None) -> None:
    """Make the study experiments/NAME: its own params.yaml, and a copy of the pipeline."""
    from pipeline import data

    root, overrides = find_root(Path.cwd()), _assigned(assignments)
    params, file = Params.read_with_file(root / "params.yaml", overrides)
    data.check(params.data)
    linked = (root / "experiments" / name / "dvc.yaml").is_symlink()
    create_study(root, name, overrides)
    for line in notes(params, file, overrides):
        print(line)
    if linked:
        print(f"experiments/{name}/dvc.yaml was a link and is now a copy of the root's dvc.yaml")
    print(f"experiments/{name}/params.yaml is written; run it with: dvc repro experiments/{name}/dvc.yaml")


@studies.command("activate")
def study_activate(name: str) -> None:
    """Let DVC run and show a study that came with the project; until then, DVC passes over it."""
    study = _existing(name)
    if study.folder == study.root or not (study.folder / "dvc.yaml").is_file():
        raise InputError(f"study: '{name}' given, which has no dvc.yaml of its own; see `cave study list`")
    activate(study.folder)
    print(f"DVC sees experiments/{study.name} from now on; run it with: dvc repro experiments/{study.name}/dvc.yaml")


@studies.command("refresh")
def study_refresh() -> None:
    """Copy the root's dvc.yaml into every study that has one, after it was changed."""
    from pipeline.files import write_bytes
    from pipeline.runs.provenance import git

    root = find_root(Path.cwd())
    for path in sorted((root / "experiments").glob("*/dvc.yaml")):
        name, before = path.relative_to(root), None if path.is_symlink() else path.read_bytes()
        if not copy_pipeline(root, path.parent):
            continue
        saved = ""
        if before is not None and git(path.parent, "cat-file", "blob", "HEAD:./dvc.yaml") != before:
            write_bytes(path.with_name("dvc.yaml.before"), before)
            saved = f"; what it was is in {name}.before"
        print(f"{name} is now a copy of the root's dvc.yaml{saved}")


@studies.command("list")
def study_list() -> None:
    """List the studies: how each is run, how far it is, its best nll, and which settings are others than the root's."""
    from pipeline.cli.studies import rows, table

    print(table(rows(find_root(Path.cwd()))))


@studies.command("rm")
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
        raise InputError(f"study: '{name}' given{_near(name)}; `cave study list` shows those that are there")
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


@app.command()
def show(study: Of = None) -> None:
    """Print a study's table, of its comparison or of its search, where its report lies, and the address of its runs."""
    _results(_existing(study))


@app.command()
def link(study: Of = None) -> None:
    """Print where a study's report lies and the address at which its runs are shown, as far as they are there."""
    found = _existing(study)
    _links(found)


@app.command()
def ui(
    study: Of = None,
    port: Annotated[int | None, typer.Option(min=1, max=65535, help="Default: 5000, or the next that is free.")] = None,
) -> None:
    """Serve the MLflow UI on this machine alone, until Ctrl-C."""
    from pipeline.links import free_port
    from pipeline.tracking import mark_current, open_database, tracking_uri

    found = _existing(study)
    uri = tracking_uri(found)
    if uri.startswith("http"):
        mark_current(found)
        _runs(found)
        print("MLFLOW_TRACKING_URI names a server: it shows the runs itself")
        return
    port, notice = free_port(port)
    open_database(found, read_only=True)
    mark_current(found)
    if notice:
        print(notice)
    _runs(found, port)
    environment = os.environ | {
        "MLFLOW_BACKEND_STORE_URI": uri,  # not on the command line, where others would see its password
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    # Said outright, as MLFLOW_HOST and options for servers in the environment would say otherwise.
    environment |= {"MLFLOW_GUNICORN_OPTS": "", "MLFLOW_UVICORN_OPTS": ""}
    words = ["ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    os.chdir(found.store)
    sys.stdout.flush()
    os.execve(sys.executable, [sys.executable, "-m", "mlflow", *words], environment)  # which then hears the signals


def _existing(name: str | None) -> Study:
    root = find_root(Path.cwd())
    if name is None:
        return Study.at(root)
    folder = root / "experiments" / name
    if not is_name(name) or not (folder / "params.yaml").is_file():
        default = Study.at(root)
        if default.name == name:
            return default
        raise InputError(f"study: '{name}' given{_near(name)}; `cave study list` shows those that are there")
    return Study.at(folder)


def _assigned(assignments: list[str] | None) -> dict[str, Any]:
    """Read the `--set` assignments of a command that makes a study; one that sets its folder is an `InputError`."""
    overrides = parse_assignments(assignments or [])
    for path in {"root", "out"} & set(overrides):
        raise InputError(f"--set: {path}: a new study lies in experiments/, by its own name; leave {path} out")
    return overrides


def _near(name: str) -> str:
    from pipeline.cli.studies import names

    return nearest(name, names(find_root(Path.cwd())))


def _results(study: Study) -> None:
    """Print what a study has to show, where its report lies, and where its runs are."""
    from pipeline.report import overview

    print(f"\n{overview(study)}\n")
    _links(study)


def _links(study: Study) -> None:
    from pipeline.links import report_line

    print(report_line(study))
    _runs(study)


def _runs(study: Study, port: int = 5000) -> None:
    from pipeline.links import runs_line

    print(runs_line(study, port))


def main() -> None:
    """Run the command line."""
    use_project_code()
    run_main(_run)


def _run() -> None:
    # Typer would end on Ctrl-C by itself and without a word.
    from typer.main import get_command

    try:
        code = get_command(app)(standalone_mode=False)
        raise_if_interrupted()
        sys.exit(code or 0)
    except Exception as error:
        if type(error).__name__ == "Abort":
            raise KeyboardInterrupt from None
        if not hasattr(error, "show"):
            raise
        error.show()  # a fault in the words of the command
        sys.exit(getattr(error, "exit_code", 2))
