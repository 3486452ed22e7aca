"""The databases that the environment names: MLFLOW_TRACKING_URI and CAVE_OPTUNA_URL, or a file each at the root.

Also the addresses of pages of MLflow's UI (`runs_page`), after that of its server.

A relative SQLite path starts at the root, wherever a command is called. The two need a database each: both keep the
number of their last migration in a table of one name, and would take the other's for their own.
"""

from __future__ import annotations

from pathlib import Path
from urllib.parse import quote, unquote

from pipeline.environment import postgres_default, store_address
from pipeline.errors import InputError
from pipeline.redaction import MLFLOW_ADDRESS, OPTUNA_ADDRESS, without_password

__all__ = [
    "BOUND",
    "DRIVER",
    "FINAL",
    "PICTURES",
    "SEARCH",
    "VARIABLES",
    "VIEW_TAG",
    "address",
    "coordinator_lock",
    "lock_folder",
    "require_separate",
    "run_page",
    "runs_page",
    "shared_database",
    "sqlite_file",
    "worker_lock",
]

VARIABLES = {"mlflow": MLFLOW_ADDRESS, "optuna": OPTUNA_ADDRESS}
DRIVER = "{} names a PostgreSQL, and its driver is missing: pip install 'platos-cave[postgres]'"
FINAL, BOUND, SEARCH, PICTURES = "final-models", "bound-taken-apart", "search", "pictures"  # keys of a study's views
VIEW_TAG = "mlflow.sharedViewState."  # what the tags of views begin with, their keys following
HERE = ("", "localhost", "127.0.0.1", "::1")


def address(name: str, root: Path) -> str:
    """Return the address of `mlflow`'s or `optuna`'s store as it was given, or else of the file at the root."""
    return store_address(VARIABLES[name]) or f"sqlite:///{quote(str(root / f'{name}.db'))}"


def sqlite_file(address: str, root: Path) -> Path | None:
    """Return the file of an SQLite database, or nothing where the store is another."""
    scheme, _, rest = address.partition(":///")
    path = unquote(rest.partition("?")[0]).removeprefix("file:")  # an address of SQLite's own
    return root / path if scheme.partition("+")[0] == "sqlite" and path not in ("", ":memory:") else None


def shared_database(root: Path) -> str | None:
    """Return the address, without a password, of the database that MLflow and Optuna share, or None."""
    first, second = (address(name, root) for name in VARIABLES)
    database = _identity(first, root)
    return without_password(second) if database is not None and database == _identity(second, root) else None


def lock_folder(database: Path) -> Path:
    """Return the folder of the locks that belong to an SQLite file."""
    return database.with_name(f"{database.name}.locks")


def worker_lock(search: str, token: str) -> str:
    """Return the name of the lock that a search's worker holds as long as it runs."""
    return f"{search}/workers/{token}"


def coordinator_lock(search: str) -> str:
    """Return the name of the lock that a search's coordinator holds."""
    return f"{search}/coordinator"


def require_separate(root: Path) -> None:
    """Raise `InputError` unless each has a database of its own."""
    if address := shared_database(root):
        raise InputError(
            f"MLflow and Optuna share the database {address}, and would spoil each other's tables;"
            f" give {' or '.join(VARIABLES.values())} another"
        )


def runs_page(experiment_id: str, view: str = "", search: str = "") -> str:
    """Return the page of an experiment's runs: as a named view shows them, or those that a search finds, or all.

    Without `workflowType` the UI opens on another page.
    """
    chosen = f"&viewStateShareKey={view}" if view else f"&searchFilter={quote(search)}" if search else ""
    charts = "" if view in ("", FINAL) else "&compareRunsMode=CHART"
    return f"/#/experiments/{experiment_id}/runs?workflowType=machine_learning{charts}{chosen}"


def run_page(experiment_id: str, run_id: str, artifact: str = "") -> str:
    """Return the page of a run, or of one of its artifacts."""
    tail = f"/artifacts/{artifact}" if artifact else ""
    return f"/#/experiments/{experiment_id}/runs/{run_id}{tail}?workflowType=machine_learning"


def _identity(address: str, root: Path) -> tuple[str, ...] | None:
    """Return a key that is equal for addresses of one database; None where the address does not determine it."""
    if (path := sqlite_file(address, root)) is not None:
        return ("sqlite", str(path.resolve()))
    if not address.startswith("postgres"):
        return None
    import sqlalchemy

    try:
        url = sqlalchemy.make_url(address)
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return None
    asked = {key: value if isinstance(value, str) else value[-1] for key, value in url.query.items()}
    host = url.host or asked.get("host") or postgres_default("PGHOST")
    port = url.port or asked.get("port") or postgres_default("PGPORT") or 5432
    user = url.username or asked.get("user") or postgres_default("PGUSER")
    database = url.database or asked.get("dbname") or postgres_default("PGDATABASE") or user
    return ("postgresql", "localhost" if host in HERE or host.startswith("/") else host.lower(), str(port), database)
