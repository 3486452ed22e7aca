"""The two kinds of search space of one parameter: an interval, or a list of choices."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = ["MOST_VALUES", "Choices", "Range", "Strict"]

MOST_VALUES = 2000  # of an interval, or settings of a grid; what has more counts as endless


class Strict(BaseModel):
    """Frozen; an unknown key raises; no type is converted."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Range(Strict):
    """An interval of a search space; integers where both ends are integers."""

    low: int | float
    high: int | float
    log: bool = False
    step: int | float | None = None

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if not self.low <= self.high:
            raise ValueError(f"low {self.low} is above high {self.high}")
        if self.log and self.low <= 0:
            raise ValueError(f"a log scale needs low above 0, not {self.low}")
        if self.step is not None and (self.log or self.step <= 0):
            raise ValueError("step must be above 0 and does not go with log")
        return self

    @property
    def is_integer(self) -> bool:
        """Whether integers are drawn."""
        return all(isinstance(value, int) for value in (self.low, self.high, self.step or 1))

    @property
    def boundary_values(self) -> tuple[int | float, ...]:
        """The lowest and the highest value, of the kind of number that is drawn."""
        ends = (self.low, self.high) if self.is_integer else (float(self.low), float(self.high))
        return tuple(dict.fromkeys(ends))

    @property
    def values(self) -> Sequence[int | float] | None:
        """All values, or None where they are endlessly many, or more than `MOST_VALUES`."""
        if self.is_integer:
            return range(int(self.low), int(self.high) + 1, int(self.step or 1))
        if self.low == self.high:
            return (self.low,)
        if self.step is None:
            return None
        count = math.floor((self.high - self.low) / self.step + 1e-8) + 1
        if count > MOST_VALUES:
            return None
        # Without the rounding of sums: 0.1 + 2 * 0.1 would be another setting than the 0.3 that a file has.
        return [float(f"{self.low + index * self.step:.12g}") for index in range(count)]

    def __contains__(self, value: object) -> bool:
        if isinstance(value, bool) or not isinstance(value, int | float) or not self.low <= value <= self.high:
            return False
        steps = (value - self.low) / (self.step or 1)
        return abs(steps - round(steps)) < 1e-8 if self.step or self.is_integer else True

    def __str__(self) -> str:
        scale = ", log" if self.log else f", step {self.step}" if self.step else ""
        return f"{self.low}..{self.high}{scale}"


class Choices(Strict):
    """A list of values of a search space."""

    choices: Annotated[tuple[str | int | float | bool, ...], Field(min_length=1)]

    @model_validator(mode="after")
    def _different(self) -> Self:
        if len(set(self.choices)) < len(self.choices):  # 1, 1.0 and true are equal, to Optuna too
            raise ValueError(f"choices must differ, not {list(self.choices)}")
        return self

    @property
    def boundary_values(self) -> tuple[str | int | float | bool, ...]:
        """Every choice."""
        return self.choices

    @property
    def values(self) -> tuple[str | int | float | bool, ...]:
        """Every choice."""
        return self.choices

    def __contains__(self, value: object) -> bool:
        return value in self.choices

    def __str__(self) -> str:
        return " | ".join(map(str, self.choices))
