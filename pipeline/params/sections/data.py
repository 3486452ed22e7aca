"""The section `data` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from pipeline.params.ranges import Strict
from pipeline.params.sections.types import DataName, Seed

__all__ = [
    "CaveParams",
    "DataParams",
    "published_binary",
]


class CaveParams(Strict):
    """The rendered data set `cave`."""

    images: Annotated[int, Field(ge=100, le=1_000_000)] = Field(
        description="Number of images that are rendered, for training, validation and test together."
    )
    size: Annotated[int, Field(ge=28, le=512)] = Field(description="Height and width of an image in pixels.")
    grey: bool = Field(description="Whether shadows have soft edges, in grey levels, instead of being black on white.")


def published_binary(name: str, grey: bool) -> bool:
    """Return whether the pixels of a data set are 0 or 1 before any binarization; `grey` is that of `cave`."""
    return name in ("binarized_mnist", "caltech101_silhouettes") or (name == "cave" and not grey)


class DataParams(Strict):
    """The images, their splits and their pixels."""

    name: DataName = Field(description="Data set.")
    protocol: Literal["auto", "stratified", "standard", "burda", "static", "published"] = Field(
        description="How the images are split; auto is the first protocol of the data set. Numbers of different "
        "protocols are not comparable."
    )
    binarization: Literal["dynamic", "static", "none"] = Field(
        description="How grey levels become binary pixels: dynamic draws them anew at each presentation, static once "
        "by the seed, none keeps the grey levels. Validation and test images are drawn once."
    )
    dequantization: Literal["none", "uniform"] = Field(
        description="uniform makes x = (grey level + u) / number of grey levels, with u uniform in [0, 1) drawn anew "
        "at each presentation and once in validation and test; for the likelihoods gaussian and continuous_bernoulli."
    )
    seed: Seed = Field(description="Seed of the splits, of the static binarization and of the rendered data set.")
    cave: CaveParams = Field(description="Parameters of the rendered data set cave.")

    @property
    def binary(self) -> bool:
        """Whether the pixels are 0 or 1, as published or by binarization."""
        return self.binarization != "none" or published_binary(self.name, self.cave.grey)

    @property
    def grey_levels(self) -> int:
        """Number of grey levels of a pixel."""
        return 2 if self.binary else 17 if self.name == "digits" else 256
