"""Stores and mirrors that are elsewhere: do they answer, within seconds?"""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

from pipeline.doctor.finding import Finding, Target, fault, ok
from pipeline.environment import data_mirror, store_address
from pipeline.redaction import MLFLOW_ADDRESS, OPTUNA_ADDRESS, reason, without_password

__all__ = ["mirror", "optuna", "tracking"]

PATIENCE = 3.0  # seconds


def tracking(target: Target) -> Iterator[Finding]:
    """Does the MLflow server answer that MLFLOW_TRACKING_URI names?"""
    address = store_address(MLFLOW_ADDRESS)
    if address.startswith("postgres"):
        yield _postgres("MLFLOW_TRACKING_URI")
        return
    if not address.startswith(("http://", "https://")):
        yield ok("a database, no server" if address else "the database at the root, no server")
        return
    code, reason = _get(address.rstrip("/") + "/health")
    named = without_password(address)
    if code == 200:
        yield ok(f"{named} answers")
    else:
        yield fault(f"MLflow at {named}: {reason}", "start that server, or: unset MLFLOW_TRACKING_URI")


def optuna(target: Target) -> Iterator[Finding]:
    """Does the database answer that CAVE_OPTUNA_URL names?"""
    if store_address(OPTUNA_ADDRESS).startswith("postgres"):
        yield _postgres("CAVE_OPTUNA_URL")
    else:
        yield ok("a file, no server")


def _postgres(variable: str) -> Finding:
    address = store_address(variable)
    named = without_password(address)
    if find_spec("psycopg") is None:
        return fault(f"{named} is a PostgreSQL, and its driver is missing", "pip install 'psycopg[binary]'")
    import importlib

    psycopg = importlib.import_module("psycopg")
    rest = address.partition("://")[2]
    try:
        psycopg.connect(f"postgresql://{rest}", connect_timeout=round(PATIENCE)).close()
    except psycopg.Error as error:
        return fault(f"PostgreSQL at {named}: {reason(error)}", f"start that server, or: unset {variable}")
    return ok(f"{named} answers")


def mirror(target: Target) -> Iterator[Finding]:
    """Is the mirror there that CAVE_DATA_MIRROR names?"""
    address = data_mirror()
    if not address:
        yield ok("none; data come from where they are published")
    elif not address.lower().startswith(("http://", "https://")):
        exists = Path(address).expanduser().is_dir()
        yield ok(address) if exists else fault(f"{address}: no such folder", "unset CAVE_DATA_MIRROR")
    else:
        code, reason = _get(address)
        named = without_password(address)
        # Whether there is a list of files, or it is shown, does not matter.
        yield ok(f"{named} answers") if code else fault(f"{named}: {reason}", "unset CAVE_DATA_MIRROR")


def _get(address: str) -> tuple[int, str]:
    """Return the status of an answer, 0 where there is none, and what is wrong in words."""
    import requests

    try:
        with requests.get(address, timeout=PATIENCE, stream=True, allow_redirects=False) as answer:
            return answer.status_code, f"answers with HTTP {answer.status_code}"
    except requests.Timeout:
        return 0, f"no answer within {PATIENCE:.0f} s"
    except requests.RequestException as error:
        return 0, f"cannot be reached ({type(error).__name__})"
