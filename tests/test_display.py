"""On a terminal long work has a live picture; its width, letters and colours are those that the terminal has."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pytest

from pipeline import display, progress
from pipeline.display import Picture, Pipe
from pipeline.progress import Status, reporting, track_progress
from tests.small import ROOT
from tests.test_progress import Clock

SEEDS = [
    Status("mhvae seed 0", "epoch", 120, 300, "", 0.4, 20.0, -23.123, -23.012, "1,021"),
    Status("mhvae seed 1", "epoch", 3, 300, "", 0.01, 120.0, -43.5, -43.5, "998"),
]


def picture(*statuses: Status) -> Picture:
    """Return the picture of a training with two seeds of three at work."""
    drawn = Picture("stage 8 of 12: train mhvae", "seed")
    drawn.start = 0.0
    drawn.expect(3, 1)
    for status in statuses:
        pipe = Pipe()
        pipe.status = drawn._counted(status)
        drawn.add(pipe)
    return drawn


@pytest.mark.parametrize(
    ("width", "lines"),
    [
        (
            79,
            [
                "stage 8 of 12: train mhvae  1 of 3 seeds",
                "        epoch                              valid/elbo     best  images/s   left",
                "seed 0  120 of 300  ########-------------     -23.123  -23.012     1,021   20 s",
                "seed 1  3 of 300    ---------------------     -43.500  -43.500       998  2 min",
            ],
        ),
        (
            40,
            [
                "stage 8 of 12: train mhvae  1 of 3 seeds",
                "        epoch          elbo   left",
                "seed 0  120 of 300  -23.123   20 s",
                "seed 1  3 of 300    -43.500  2 min",
            ],
        ),
    ],
)
def test_the_picture_has_what_the_width_has_room_for(width: int, lines: list[str]) -> None:
    """Bar, rate and best value are left out where there is no room; a row is never cut within a number."""
    drawn = picture(*SEEDS).lines(width, ("#", "-"), now=60.0)
    assert drawn == lines
    assert all(len(line) <= width for line in drawn)


def test_an_evaluation_shows_its_loops() -> None:
    """A loop is shown by the outermost one, and the loops within move its bar on."""
    clock, statuses = Clock(), list[Status]()
    progress.connect(statuses.append)
    try:
        with reporting("mhvae seed 0", clock):
            for _ in track_progress(range(4), "inner bounds", "passes"):
                for _ in track_progress(range(2), "draws of the posterior", "passes"):
                    clock.now += 5
    finally:
        progress.connect(None)
    assert [status.fraction for status in statuses[:5]] == [0, 0.125, 0.25, 0.375, 0.5]
    assert statuses[1] == Status("mhvae seed 0", "inner bounds", 0, 4, "passes", 0.125, 35.0)
    assert statuses[-1].ended
    row = picture(statuses[1]).lines(79, ("#", "-"))[-1]
    assert row.split() == ["seed", "0", "inner", "bounds,", "0", "of", "4", "#####" + 35 * "-", "35", "s"]


def test_a_pipe_has_lines_and_statuses_and_never_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """A line that is not whole waits for its rest; a status for which there is no room is dropped."""
    pipe = Pipe()
    send = display.pipe._send(pipe.sink)
    os.write(pipe.sink, "a line\nhalf ± ".encode())
    send(SEEDS[0])
    os.write(pipe.sink, b"of a")
    assert list(pipe.read()) == ["a line", "half ± ", SEEDS[0]]
    os.write(pipe.sink, b" line\n")
    assert list(pipe.read()) == ["of a line"]
    for _ in range(2000):
        send(SEEDS[1])
    assert 100 < len(list(pipe.read())) < 2000
    pipe.close()
    send(SEEDS[0])  # nobody reads it any more


WORK = """
import sys, time
from pipeline import display
from pipeline.progress import reporting
display.send_statuses()
with reporting("vae seed 0") as reporter:
    for epoch in range(1, 5):
        reporter.epoch(epoch, 4, epoch / 10, -20.0 - epoch, "1,000")
        reporter.step(epoch, 4, f"epoch {epoch} of 4", 0.0)
        time.sleep(0.3)
print("a warning", file=sys.stderr)
"""
COORDINATE = """
from pathlib import Path
from pipeline import display, processes
from pipeline.environment import Resources
with display.shown("train vae", "seed"):
    display.count(1)
    processes.run([["work"]], Path.cwd(), Resources())
print("\\u00b1 ends")
"""


def on_a_terminal(folder: Path, columns: int, **variables: str) -> str:
    """Run a coordinator with a worker on a terminal of so many columns; return all that is written to it."""
    (folder / "work.py").write_text(WORK)
    (folder / "coordinate.py").write_text(
        "from pipeline.processes.output import safe_output\nsafe_output()\n" + COORDINATE
    )
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    own = {name: value for name, value in os.environ.items() if name not in ("CI", "NO_COLOR", "COLUMNS")}
    own |= {"PYTHONPATH": f"{ROOT}:{folder}", "TERM": "xterm"} | variables
    process = subprocess.Popen([sys.executable, "coordinate.py"], cwd=folder, env=own, stdout=end, stderr=end)
    os.close(end)
    output = b""
    try:
        while chunk := os.read(terminal, 1 << 16):
            output += chunk
    except OSError:  # the other end is closed
        pass
    os.close(terminal)
    assert process.wait() == 0, output
    return output.decode()


@pytest.mark.nightly
def test_a_worker_is_drawn_by_its_coordinator(tmp_path: Path) -> None:
    """Rows come and go, lines stay; the cursor is never hidden; a narrow ASCII terminal gets its letters alone."""
    text = on_a_terminal(tmp_path, 40, PYTHONIOENCODING="ascii", NO_COLOR="1")
    assert re.search(r"seed 0  [1234] of 4  -2[1234]\.000", text)
    assert "vae seed 0: epoch 4 of 4\r\n" in text
    assert "vae seed 0: epoch 2 of 4" not in text  # which the picture has shown
    assert "a warning\r\n" in text
    assert text.endswith("+/- ends\r\n")
    assert text.isascii()
    assert "\x1b[?25l" not in text
    assert "\x1b[3" not in text  # a colour


@pytest.mark.slow
def test_a_ci_job_gets_lines(tmp_path: Path) -> None:
    """CI on a terminal is the same as a pipe: a line for the steps that have one, and no control sequence."""
    text = on_a_terminal(tmp_path, 80, CI="true")
    assert text.splitlines() == [*(f"vae seed 0: epoch {n} of 4" for n in (1, 2, 3, 4)), "a warning", "± ends"]
