"""A bar in a notebook: what is at work, how much of it is done, and the best bound so far."""

from __future__ import annotations

import html
import sys
from typing import Any

from pipeline.progress import Status, seconds_text

__all__ = ["Bar", "notebook"]


def notebook() -> Any | None:
    """Return the module that displays in the notebook whose kernel this process is; None where it is none."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython is not None else None
    return ipython.display if ipython is not None and hasattr(shell, "kernel") else None


class Bar:
    """A bar in the output of a cell, which is replaced whenever something was done."""

    def __init__(self, display: Any, title: str, metric: str) -> None:
        self.display, self.title, self.metric = display, title, metric
        self.handle = display.display(display.HTML(self.text(None)), display_id=True)

    def update(self, status: Status) -> None:
        """Show a status."""
        self.handle.update(self.display.HTML(self.text(status)))

    def text(self, status: Status | None) -> str:
        """Return the bar as HTML."""
        words = [self.title]
        if status is not None:
            words += [status.text] if status.what else []
            words += [] if status.best is None else [f"best {self.metric} {status.best:.3f}"]
            seconds = 0.0 if status.ended else status.seconds_left or 0.0
            words += ["done"] if status.ended else [f"{seconds_text(seconds)} left"] if seconds >= 1 else []
        fraction = 0.0 if status is None else 1.0 if status.ended else status.fraction
        bar = f'<progress value="{fraction:.3f}" max="1" style="width: 16em; vertical-align: middle"></progress>'
        return f"<div>{bar} {html.escape(', '.join(words))}</div>"
