"""What MLflow's errors mean: one line for the user, and whether the same request can succeed later."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from pipeline.errors import InputError
from pipeline.redaction import redacted
from pipeline.study import Study
from pipeline.tracking.connection import display_address, import_mlflow

__all__ = ["reason_of", "refusal_of", "translate_mlflow_errors"]

REFUSED = (400, 404, 405, 409, 410, 411, 413, 414, 415, 422)  # answers that will be the same the next time


@contextmanager
def translate_mlflow_errors(study: Study) -> Iterator[None]:
    """Turn what MLflow, or the driver of its database, raises into an `InputError` of one line."""
    import_mlflow()
    from alembic.util import CommandError
    from mlflow.exceptions import MlflowException
    from sqlalchemy.exc import SQLAlchemyError

    try:
        yield
    except (MlflowException, OSError, SQLAlchemyError, CommandError, ImportError) as error:
        raise InputError(f"MLflow at {display_address(study)} cannot be used: {reason_of(error)}") from None


def reason_of(error: BaseException) -> str:
    """Return in a line what caused an error; for a failed request, what the system said of it."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.strerror:
            return f"{cause.filename}: {cause.strerror}" if cause.filename else str(cause.strerror)
        if isinstance(cause, TimeoutError):
            return "no answer in time"
        cause = cause.__cause__ or cause.__context__
    return redacted(" ".join(str(getattr(error, "orig", None) or error).split()))[:200]


def refusal_of(error: Exception) -> str:
    """Return why MLflow will never accept a request; nothing where it may, being down, busy, or closed to us now."""
    from mlflow.exceptions import MlflowException
    from requests import HTTPError
    from sqlalchemy.exc import DataError, IntegrityError, SQLAlchemyError

    if isinstance(error, MlflowException):
        of_database = isinstance(error.__cause__, SQLAlchemyError)
        if of_database and not isinstance(error.__cause__, DataError | IntegrityError):
            return ""
        refused = error.error_code == "INVALID_STATE" or (
            error.get_http_status_code() in REFUSED and error.error_code != "ENDPOINT_NOT_FOUND"
        )
    elif isinstance(error, HTTPError):
        refused = error.response is not None and error.response.status_code in REFUSED
    else:  # what the folder itself lacks
        lacks = isinstance(error, FileNotFoundError | KeyError | TypeError | ValueError | AttributeError)
        refused = lacks and (isinstance(error, FileNotFoundError) or not isinstance(error, OSError))
    return (reason_of(error) or type(error).__name__) if refused else ""
