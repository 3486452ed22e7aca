"""The command line, `cave`. Heavy libraries are imported by the commands that need them."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from pipeline.errors import InputError, guarded
from pipeline.params import Params, digest, parse_assignments
from pipeline.signals import heed
from pipeline.study import Study, activate, active, copy_pipeline, find_root

__all__ = ["main", "runs_link"]

app = typer.Typer(
    help="VAE, HVAE and Markovian HVAE of any depth, each bound taken apart term by term.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
studies = typer.Typer(help="Make and list studies.", no_args_is_help=True)
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
    """Check params.yaml and say what is wrong with it, in one line."""
    from pipeline import data, stores

    root = find_root(Path.cwd())
    params = Params.read(root / "params.yaml", parse_assignments(assignments or []))
    data.check(params.data)
    stores.apart(Path(os.environ.get("DVC_ROOT") or root).resolve())
    print(f"params.yaml is sound: {params.data.name}, variants {', '.join(params.variants)}")


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
    overrides = parse_assignments(assignments or [])
    if trials is not None:
        overrides["sweep.trials"] = trials
    settings = {"LAUNCHER": launcher, "RAY_ADDRESS": address, "GPUS_PER_WORKER": gpus, "CPUS_PER_WORKER": cpus}
    os.environ |= {f"CAVE_{setting}": str(value) for setting, value in settings.items() if value is not None}
    study = _by_hand(f"sweep-{variant}", name, variant, overrides, workers)
    from pipeline.stages import sweep as stage

    stage.run(study, variant)
    _where(study, study.sweep(variant))


@app.command()
def worker(variant: Variant, study: Help = None, workers: Workers = None) -> None:
    """Help with the sweep of a study from this host, as long as it has trials to run; start it if nobody has.

    CAVE_OPTUNA_URL and MLFLOW_TRACKING_URI name the stores that all hosts share.
    """
    from pipeline import launch
    from pipeline.sweep import Sweep, join

    found = _existing(study)
    found.params.variant(variant)
    if workers is not None:
        os.environ["CAVE_WORKERS"] = str(workers)
    _bring(found)
    join(Sweep(found, variant), launch.workers(found.params.sweep.trials))


@app.command()
def train(variant: Variant, workers: Workers = None, assignments: Set = None, name: Name = None) -> None:
    """Train and evaluate one variant with the settings as given, without a search, in a study of its own."""
    study = _by_hand(f"train-{variant}", name, variant, parse_assignments(assignments or []), workers)
    from pipeline.stages import evaluate
    from pipeline.stages import train as stage

    stage.run(study, variant)
    evaluate.run(study, variant)
    _where(study, study.evaluate(variant))


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
    from pipeline.tracking import Tracker

    tracker = Tracker(Study.at(find_root(Path.cwd())))
    told = tracker.require().deliver(everything=True)
    print(f"sent to MLflow at {tracker.store.address}: {told.sent}; left: {told.left + sum(told.elsewhere.values())}")
    for address, count in told.elsewhere.items():
        print(f"{count} meant for MLflow at {address}: set MLFLOW_TRACKING_URI to it")
    if told.busy:
        print(f"{told.busy} belong to work that is running")
    if told.left or told.elsewhere:
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
    root = find_root(Path.cwd())
    linked = (root / "experiments" / name / "dvc.yaml").is_symlink()
    Study.create(root, name, parse_assignments(assignments or []))
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
    from pipeline.provenance import git

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
    """List the studies."""
    root = find_root(Path.cwd())
    print(f"{Params.read(root / 'params.yaml').out}  (dvc repro)")
    for path in sorted((root / "experiments").glob("*/params.yaml")):
        how = f"dvc repro {path.parent.relative_to(root)}/dvc.yaml"
        if not (path.parent / "dvc.yaml").exists():
            how = "by hand"
        elif not active(path.parent):
            how = f"inactive: cave study activate {path.parent.name}, then {how}"
        print(f"{path.parent.relative_to(root)}  ({how})")


@app.command()
def show(study: Of = None) -> None:
    """Print a study's comparison table, where its report lies, and the address of its runs."""
    from pipeline.report import table_text

    found = _existing(study)
    print(table_text(found))
    print(f"\nreport: {found.report / 'report.html'}")
    _runs(found, 5000)


@app.command()
def link(study: Of = None) -> None:
    """Print where a study's report lies and the address at which `cave ui` shows its runs."""
    found = _existing(study)
    print(f"report: {found.report / 'report.html'}")
    _runs(found, 5000)


@app.command()
def ui(study: Of = None, port: Annotated[int, typer.Option(min=1, max=65535)] = 5000) -> None:
    """Serve the MLflow UI on this machine alone, until Ctrl-C."""
    from pipeline.tracking import database, tracking_uri

    found = _existing(study)
    _runs(found, port)
    uri = tracking_uri(found)
    if uri.startswith("http"):
        print("MLFLOW_TRACKING_URI names a server: it shows the runs itself")
        return
    database(found)
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
    if not (folder / "params.yaml").is_file():
        default = Study.at(root)
        if default.name == name:
            return default
        raise InputError(f"study: '{name}' given; see `cave study list`")
    return Study.at(folder)


def _by_hand(kind: str, name: str | None, variant: str, overrides: dict[str, Any], workers: int | None) -> Study:
    """Return a study of one variant made for this one command, its data prepared.

    Equal settings give the same study. A path that is set by hand is not swept.
    """
    from pipeline import data
    from pipeline.stages import fetch, prepare

    root = find_root(Path.cwd())
    given = Params.read(root / "params.yaml", {name: overrides[name] for name in ("budget",) if name in overrides})
    given.variant(variant)
    for path, value in given.variants[variant].items():
        if overrides.get(path, value) != value:
            raise InputError(f"--set: {path}: {overrides[path]!r} given, but variant '{variant}' fixes it at {value!r}")
    if "sweep.space" not in overrides:
        overrides["sweep.space"] = {
            path: kind.model_dump() for path, kind in given.sweep.space.items() if path not in overrides
        }
    overrides["variants"] = {variant: given.variants[variant]}
    params = Params.read(root / "params.yaml", overrides)
    data.check(params.data)
    settings = params.model_dump()
    del settings["sweep"]["trials"], settings["sweep"]["failures"], settings["root"], settings["out"]
    if workers is not None:
        os.environ["CAVE_WORKERS"] = str(workers)
    study = Study.create(root, name or f"{kind}-{digest(settings, 8)}", overrides, pipeline=False)
    fetch.run(study)
    prepare.run(study)
    return study


def _bring(study: Study) -> None:
    """Fetch and prepare a study's data where they are not here yet; processes that start at once do it once."""
    from pipeline import data
    from pipeline.files import locked
    from pipeline.stages import fetch, prepare

    with locked(study.cache / "locks" / f"data-{study.name}"):
        try:
            data.load(study.data)
        except InputError:
            fetch.run(study)
            prepare.run(study)


def _where(study: Study, folder: Path) -> None:
    print(f"\nresults: {folder}")
    _runs(study, 5000)


def _runs(study: Study, port: int) -> None:
    from pipeline.files import read_json

    kept = [*study.out.glob("train/*/seed-*/mlflow.json"), *study.out.glob("sweep/*/mlflow.json")]
    experiment = next((known for path in kept if (known := read_json(path)["experiment"])), None)
    if experiment is None:
        print(f"study {study.name} has no runs yet")
        return
    address = runs_link(experiment, f"http://127.0.0.1:{port}")
    print(f"runs:   {address}  (served by `make ui`)")


def runs_link(experiment_id: str, address: str = "http://127.0.0.1:5000") -> str:
    """Return the address at which the MLflow UI shows a study's runs (without it, it opens on another page)."""
    return f"{address}/#/experiments/{experiment_id}/runs?workflowType=machine_learning"


def main() -> None:
    """Run the command line."""
    guarded(_run)


def _run() -> None:
    # Typer would end on Ctrl-C by itself and without a word.
    from typer.main import get_command

    try:
        code = get_command(app)(standalone_mode=False)
        heed()
        sys.exit(code or 0)
    except Exception as error:
        if type(error).__name__ == "Abort":
            raise KeyboardInterrupt from None
        if not hasattr(error, "show"):
            raise
        error.show()  # a fault in the words of the command
        sys.exit(getattr(error, "exit_code", 2))
