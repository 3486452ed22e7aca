"""What the stage of this process is at, as the lines of a picture."""

from __future__ import annotations

import time

from pipeline.display.pipe import Pipe
from pipeline.display.rows import rows
from pipeline.progress import Status, seconds_text
from pipeline.text import NARROW, plural

__all__ = ["Picture"]


class Picture:
    """What the stage of this process is at: the status of each piece of work, and how many are finished."""

    def __init__(self, title: str, noun: str = "", metric: str = "valid/elbo") -> None:
        self.title, self.noun, self.metric = title, noun, metric
        self.start = time.monotonic()
        self.own: Status | None = None
        self.pipes: list[Pipe] = []
        self.done, self.total, self.before = 0, 0, 0
        self.best = ""
        self.begun: dict[str, float] = {}  # the fraction of each piece that was done when it was first seen

    def expect(self, total: int, done: int = 0) -> None:
        """Set how many pieces of work there are, and how many of them are finished already."""
        self.total, self.done, self.before = total, done, done

    def finish(self, done: int) -> None:
        """Set how many pieces of work are finished."""
        self.done = done

    def update(self, status: Status) -> None:
        """Take a status of this process's own work."""
        self.own = self._counted(status)

    def add(self, pipe: Pipe) -> None:
        """Show the work of a worker."""
        self.pipes.append(pipe)

    def read(self) -> None:
        """Take what workers have written: a status, or a line, which is printed."""
        for pipe in self.pipes:
            for item in pipe.read():
                if isinstance(item, str):
                    print(item, flush=True)
                else:
                    pipe.status = self._counted(item)

    def remove(self, pipe: Pipe) -> None:
        """Show no more of a worker that has ended, once all it wrote was read."""
        if pipe in self.pipes:
            self.read()
            if pipe.rest:
                print(pipe.rest.decode("utf-8", "replace"), flush=True)
            self.pipes.remove(pipe)
            pipe.close()

    def _counted(self, status: Status) -> Status | None:
        self.begun.setdefault(status.name, status.fraction)
        if not status.ended:
            return status
        if status.counted and self.done < self.total:
            self.done += 1
        return None

    @property
    def statuses(self) -> list[Status]:
        """The statuses of what is at work."""
        return [each for each in (self.own, *(pipe.status for pipe in self.pipes)) if each is not None]

    def seconds_left(self, now: float) -> float | None:
        """Return how long the rest takes, at the rate of all pieces together since the picture was first drawn."""
        trained = [status for status in self.statuses if status.value is not None]
        parts = sum(status.fraction for status in trained)
        resumed = sum(self.begun[status.name] for status in trained)
        gone = self.done - self.before + parts - resumed
        rest = self.total - self.done - parts
        return (now - self.start) * rest / gone if gone > 0.01 and rest > 0 else None

    def lines(self, width: int, letters: tuple[str, str] = ("━", "─"), now: float | None = None) -> list[str]:
        """Return the picture as lines of at most `width` cells; `letters` draw what is done of a bar, and the rest."""
        words = [f"{self.done} of {plural(self.total, self.noun)}"] if self.total else []
        words += [f"best {self.best}"] if self.best else []
        seconds = self.seconds_left(time.monotonic() if now is None else now)
        about = "about " if width >= NARROW else ""
        words += [] if seconds is None else [f"{about}{seconds_text(seconds)} left"]
        head = self.title
        for word in words:
            if len(head) + 2 + len(word) <= width:
                head += f"  {word}"
        return [head[:width], *rows(self.statuses, self.title.split()[-1], self.metric, width, letters)]
