"""Types that several parameters share."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

__all__ = [
    "MOST",
    "Count",
    "DataName",
    "Nonnegative",
    "Positive",
    "Seed",
    "Several",
    "Width",
]

MOST = 2**31 - 1  # of whatever is counted: what every library takes
Seed = Annotated[int, Field(ge=0, le=MOST)]
Count = Annotated[int, Field(ge=1, le=MOST)]
Several = Annotated[int, Field(ge=2, le=MOST)]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Nonnegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Width = Annotated[int, Field(ge=1, le=65536)]

DataName = Literal[
    "digits",
    "cave",
    "mnist",
    "fashion_mnist",
    "binarized_mnist",
    "omniglot",
    "caltech101_silhouettes",
    "frey_face",
    "cifar10",
    "svhn",
    "files",
]
