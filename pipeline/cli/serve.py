"""Commands that serve a study's runs and searches to a browser on this machine, until Ctrl-C."""

from __future__ import annotations

import importlib.util
import os
import socket
import sys
import time
import webbrowser
from contextlib import suppress
from typing import Annotated

import typer

from pipeline.cli.common import StudyArgument, existing_study, print_runs
from pipeline.environment import child_variables, has_screen, plain_output
from pipeline.errors import InputError

__all__ = ["app"]

app = typer.Typer()
LOOK = "Look, as in: cave show"  # a heading of the help
Port = Annotated[
    int | None, typer.Option(min=1, max=65535, metavar="N", help="Default: the usual one, or the next that is free.")
]
NoBrowser = Annotated[bool, typer.Option("--no-browser", help="Open no browser, where there is one.")]
DASHBOARD_PORT = 8080
PATIENCE = 60.0  # seconds that a server has to start


@app.command(rich_help_panel=LOOK, epilog="Example: cave ui wide")
def ui(study: StudyArgument = None, port: Port = None, no_browser: NoBrowser = False) -> None:
    """Serve the MLflow UI on this machine alone, and open it at the study's final models, until Ctrl-C.

    Where MLFLOW_TRACKING_URI names a server, that one is opened.
    """
    from pipeline.links import find_runs, free_port
    from pipeline.tracking import mark_current, open_database, tracking_uri

    chosen = existing_study(study)
    uri = tracking_uri(chosen)
    if uri.startswith("http"):
        mark_current(chosen)
        print_runs(chosen)
        print("MLFLOW_TRACKING_URI names a server: it shows the runs itself", flush=True)
        if not no_browser and _is_seen() and (address := find_runs(chosen).address):
            webbrowser.open(address)
        return
    port, notice = free_port(port)
    open_database(chosen, read_only=True)
    mark_current(chosen)
    if notice:
        print(notice)
    print_runs(chosen, port)
    server = {
        "MLFLOW_BACKEND_STORE_URI": uri,  # not on the command line, where others would see its password
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
    }
    # Said outright, as MLFLOW_HOST and options for servers in the environment would say otherwise.
    server |= {"MLFLOW_GUNICORN_OPTS": "", "MLFLOW_UVICORN_OPTS": ""}
    words = ["ui", "--host", "127.0.0.1", "--port", str(port), "--workers", "1"]
    os.chdir(chosen.shared_root)
    sys.stdout.flush()
    if not no_browser:
        _open_when_ready(find_runs(chosen, port).address, port)
    os.execve(sys.executable, [sys.executable, "-m", "mlflow", *words], child_variables(server))


@app.command(rich_help_panel=LOOK, epilog="Example: cave dashboard wide")
def dashboard(study: StudyArgument = None, port: Port = None, no_browser: NoBrowser = False) -> None:
    """Serve Optuna's dashboard of a study's searches on this machine alone, until Ctrl-C."""
    from pipeline.links import find_runs, free_port

    chosen = existing_study(study)
    if importlib.util.find_spec("optuna_dashboard") is None:
        raise InputError("optuna-dashboard is missing: pip install 'platos-cave[dashboard]'")
    from pipeline.sweep.dashboard import annotate, serve

    port, notice = free_port(port, DASHBOARD_PORT)
    searches = annotate(chosen, find_runs(chosen))
    if notice:
        print(notice)
    address = f"http://127.0.0.1:{port}/dashboard"
    for name, number in searches.items():
        print(f"{name}: {address}/studies/{number}")
    sys.stdout.flush()
    if not no_browser:
        _open_when_ready(f"{address}/studies/{next(iter(searches.values()))}", port)
    serve(chosen, port)


def _is_seen() -> bool:
    """Return whether a user who sits at a terminal would see a browser."""
    return sys.stdout.isatty() and has_screen() and not plain_output()


def _open_when_ready(address: str, port: int) -> None:
    """Open an address in the browser, if a user can see it, once the server listens that this process becomes."""
    if not address or not _is_seen():
        return
    server = os.getpid()
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        return
    if os.fork() == 0:  # nobody's child, so that nobody has to wait for it
        with suppress(OSError), open(os.devnull, "w") as nothing:
            os.dup2(nothing.fileno(), 1)
            os.dup2(nothing.fileno(), 2)
            deadline = time.monotonic() + PATIENCE
            while time.monotonic() < deadline:
                os.kill(server, 0)  # which fails when the server is gone
                with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                    webbrowser.open(address)
                    break
                time.sleep(0.2)
    os._exit(0)
