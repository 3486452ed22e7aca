"""What is written for people: counts, columns, and output under any encoding and into a pipe whose reader has gone."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline import report
from pipeline.text import align_columns, plural
from tests.small import ROOT
from tests.test_report import fake

SAYING = "from pipeline.processes.entry import run_main; run_main(lambda: print({text!a}))"
LONG = """
import sys, time
from pipeline.processes.entry import run_main
def main():
    try:
        for i in range(100000):
            print("a line that fills the pipe", flush=True)
    except Exception as error:
        print("failed", type(error).__name__, file=sys.stderr)
    except KeyboardInterrupt:
        print("ended cleanly", file=sys.stderr)
        raise
run_main(main)
"""


def run(*words: str, folder: Path = ROOT, **environment: str) -> subprocess.CompletedProcess[bytes]:
    """Run Python with these words and see the bytes that it writes."""
    own = {key: value for key, value in os.environ.items() if not key.startswith(("LC_", "LANG", "PYTHONUTF8"))}
    own |= {"PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, *words], cwd=folder, env=own, capture_output=True)


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a project whose study has a report."""
    folder = tmp_path_factory.mktemp("project")
    (folder / "pyproject.toml").touch()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("pipeline.report.folder.draw", lambda *_: {})
        report.write(fake(folder))
    return folder


def test_a_count_agrees_with_its_noun() -> None:
    """One is singular, all else plural."""
    phrases = [
        plural(count, noun) for count, noun in ((0, "run"), (1, "trial"), (3, "study"), (2, "day"), (2, "batch"))
    ]
    assert phrases == ["0 runs", "1 trial", "3 studies", "2 days", "2 batches"]


def test_columns_are_aligned_without_spaces_at_the_end() -> None:
    """Cells of a column begin, or end, at one place."""
    assert align_columns([["a", "b", ""], ["long", "b", "c"]]) == ["a     b", "long  b  c"]


@pytest.mark.parametrize(
    ("environment", "expected"),
    [
        ({"PYTHONIOENCODING": "ascii"}, b"3 +/- 1 ... \\xe9 \\udcff\n"),
        ({"PYTHONIOENCODING": "latin-1"}, b"3 \xb1 1 ... \xe9 \\udcff\n"),
        ({"PYTHONIOENCODING": "utf-8"}, "3 ± 1 … é \\udcff\n".encode()),
        ({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, b"3 +/- 1 ... \\xe9 \\udcff\n"),
    ],
    ids=["ascii", "latin-1", "utf-8", "C"],
)
def test_what_an_encoding_cannot_show_is_replaced(environment: dict[str, str], expected: bytes) -> None:
    """Whatever is printed comes out, also the part of a file's name that is no text."""
    done = run("-c", SAYING.format(text="3 ± 1 … é \udcff"), **environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, b"")


@pytest.mark.slow
def test_the_table_is_shown_on_a_terminal_of_ascii(shown: Path) -> None:
    """`cave show` prints its intervals with +/-."""
    done = run("-m", "pipeline", "show", folder=shown, PYTHONIOENCODING="ascii")
    assert done.returncode == 0, done.stderr
    assert b" +/- 0.0" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("words", [("show",), ("--help",), ("check",), ("study", "list")])
def test_a_reader_that_has_gone_ends_a_command_without_a_word(shown: Path, words: tuple[str, ...]) -> None:
    """With a closed pipe there is no traceback, and the exit code is that of SIGPIPE."""
    source, sink = os.pipe()
    os.close(source)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pipeline", *words]
    done = subprocess.run(command, cwd=shown, env=environment, stdout=sink, stderr=subprocess.PIPE, text=True)
    os.close(sink)
    assert (done.returncode, done.stderr) == (141, "")


def test_work_whose_reader_has_gone_is_interrupted_and_has_not_failed() -> None:
    """In the middle of work a closed pipe is handled as Ctrl-C is, so that nothing is marked as failed."""
    command = [sys.executable, "-c", LONG]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == "ended cleanly\n"
    assert process.returncode == 141


def test_a_command_without_any_output_works() -> None:
    """Where stdout is closed from the start, a command does its work."""
    done = subprocess.run(["sh", "-c", f"{sys.executable} -m pipeline check >&-"], cwd=ROOT, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
