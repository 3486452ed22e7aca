"""An error is one line, and no password is shown: not in a line, not in a traceback, not in a tag."""

from __future__ import annotations

import re

import pytest

from pipeline.errors import InputError, RunError
from pipeline.processes.entry import run_main
from pipeline.redaction import passwords, redacted, without_password

SECRET = "hunter/2@home"
ADDRESS = "postgresql://me:hunter%2F2%40home@host:5432/db"


@pytest.mark.parametrize(
    ("address", "text"),
    [
        ("postgresql://me:secret@host:5432/db", "postgresql://host:5432/db"),
        ("postgresql://me:se/cr@t@host/db", "postgresql://host/db"),
        ("postgresql://host/db?user=me&password=secret", "postgresql://host/db"),
        ("sqlite:///a/b.db", "sqlite:///a/b.db"),
        ("http://host:5000", "http://host:5000"),
    ],
)
def test_an_address_is_shown_without_its_password(address: str, text: str) -> None:
    """What is said of a store leaves its user, its password and its query out."""
    assert without_password(address) == text


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("CAVE_OPTUNA_URL", ADDRESS, SECRET),
        ("CAVE_OPTUNA_URL", ADDRESS, "hunter%2F2%40home"),
        ("MLFLOW_TRACKING_URI", "http://me:secret@host", "secret"),
        ("MLFLOW_TRACKING_URI", "postgresql://host/db?sslpassword=secret", "secret"),
        ("MLFLOW_TRACKING_PASSWORD", "secret", "secret"),
    ],
)
def test_every_form_of_a_password_is_taken_out(
    name: str, value: str, word: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A password of the environment, as written or decoded, is gone from a text and from both kinds of error."""
    monkeypatch.setenv(name, value)
    assert word in passwords()
    for text in (redacted(f"no {word} here"), str(InputError(f"no {word} here")), str(RunError(f"no {word} here"))):
        assert text == "no *** here"


def test_a_password_in_any_address_is_taken_out() -> None:
    """An address that a library prints, known to the environment or not, loses its user and its password."""
    assert redacted("at 'http://me:pw@host/x' and ssh://git@host") == "at 'http://host/x' and ssh://git@host"


def test_nothing_is_taken_out_where_there_is_no_password(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a password in the environment, texts stay as they are."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////home/me@work/mlflow.db")
    assert redacted("sqlite:////home/me@work/mlflow.db: a: b@c") == "sqlite:////home/me@work/mlflow.db: a: b@c"


def test_a_traceback_holds_no_password(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An error nobody foresaw keeps its traceback and its exit code, and loses the address's password."""
    monkeypatch.setenv("CAVE_OPTUNA_URL", ADDRESS)

    def fail() -> None:
        try:
            raise ValueError(f"cannot connect to {ADDRESS}")
        except ValueError as error:
            raise KeyError(SECRET) from error

    with pytest.raises(SystemExit) as ended:
        run_main(fail)
    text = capsys.readouterr().err
    assert ended.value.code == 1
    assert "Traceback" in text
    assert "host:5432" in text
    assert SECRET not in text
    assert "hunter" not in text


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            "epoch-reportd:1:mark",
            r"CAVE_FAULT: 'epoch-reportd' given \(did you mean 'epoch-reported'\?\); allowed: any, ",
        ),
        ("any:0:mark", "CAVE_FAULT: 'any:0:mark' given; allowed: NAME:N:MARK, where N is a whole number from 1"),
        ("any:1", "CAVE_FAULT: 'any:1' given"),
    ],
)
def test_an_unknown_fault_stops_a_program(
    value: str, message: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """A crash that can never come is one line and exit code 2, before anything is done."""
    monkeypatch.setenv("CAVE_FAULT", value)
    with pytest.raises(SystemExit) as end:
        run_main(lambda: print("worked"))
    out, err = capfd.readouterr()
    assert (end.value.code, out) == (2, "")
    assert re.match(f"error: {message}", err)
    assert len(err.splitlines()) == 1
