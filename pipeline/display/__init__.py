"""The live picture of long work on a terminal; where output is piped, or in a CI job, lines are printed instead.

In a notebook it is a bar in the output of the cell.

    stage 8 of 12: train mhvae  1 of 3 seeds, about 2 min left
                 epoch                     valid/elbo     best  images/s     left
    seed 1  120 of 300  ============------    -23.123  -23.012     1,021     20 s
    seed 2    3 of 300  ------------------    -43.123  -43.123     1,008    2 min

`shown` draws it for the process that coordinates, around all of its work. Its workers write to pipes instead of the
terminal: each status as a line with a mark, which becomes a row, and every other line as it is, which is printed above
the picture. What a terminal is too narrow for is left out. Nothing here is needed for a result: a status that finds
its pipe full is dropped.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from pipeline import progress
from pipeline.display.notebook import Bar, notebook
from pipeline.display.picture import Picture
from pipeline.display.pipe import Pipe, send_statuses
from pipeline.environment import plain_output

__all__ = ["Picture", "Pipe", "close", "count", "current", "is_live", "read", "send_statuses", "shown"]

REDRAW = 2.0  # times a second


def is_live() -> bool:
    """Return whether this process draws a picture: its output is a terminal that can move the cursor, and no CI job."""
    return sys.stdout is not None and sys.stdout.isatty() and not plain_output()


_pictures: list[Picture] = []


def current() -> Picture | None:
    """Return the picture that this process draws, if it draws one."""
    return _pictures[-1] if _pictures else None


def read() -> None:
    """Take what workers have written since the last call, if this process draws a picture."""
    if _pictures:
        _pictures[-1].read()


def close(pipe: Pipe | None) -> None:
    """Take the last of what a worker that has ended has written, and show no more of it."""
    if pipe and _pictures:
        _pictures[-1].remove(pipe)


def count(total: int, done: int = 0) -> None:
    """Set how many pieces of work there are, and how many of them are finished already."""
    if _pictures:
        _pictures[-1].expect(total, done)


@contextmanager
def shown(title: str, noun: str = "", metric: str = "valid/elbo") -> Iterator[None]:
    """Draw the picture of what is at work in this block, under a title whose last word is the variant's name."""
    if (display := notebook()) is not None:
        try:
            progress.connect(Bar(display, title, metric).update)
            yield
        finally:
            progress.connect(None)
        return
    if not is_live() or _pictures:
        yield
        return
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    class Steady(Console):
        """A console that leaves the cursor visible: a process that is killed could not show it again."""

        def show_cursor(self, show: bool = True) -> bool:
            return False

    console = Steady(force_terminal=True, soft_wrap=True, highlight=False, markup=False, emoji=False)
    letters = ("━", "─") if console.encoding.startswith("utf") else ("#", "-")
    picture = Picture(title, noun, metric)

    def draw() -> Text:
        text = Text("\n".join(picture.lines(console.width - 1, letters)), no_wrap=True, overflow="crop")
        text.highlight_regex(f"{letters[0]}{{4,}}", "cyan")
        text.highlight_regex(f"{letters[1]}{{4,}}", "dim")
        return text

    _pictures.append(picture)
    try:
        progress.connect(picture.update)
        with Live(get_renderable=draw, console=console, refresh_per_second=REDRAW, transient=True):
            yield
    finally:
        progress.connect(None)
        _pictures.remove(picture)
