"""Tables as pandas has them, for users who go on with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pandas import DataFrame

__all__ = ["DataFrame", "frame"]


def frame(
    rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str] | None = None, index: str | None = None
) -> DataFrame:
    """Return rows as a table whose `columns` have these types, all columns without; `index` is one of them."""
    import pandas as pd

    table = pd.DataFrame(list(rows), columns=None if columns is None else list(columns))
    table = table if columns is None else table.astype(dict(columns))
    return table if index is None or index not in table else table.set_index(index)
