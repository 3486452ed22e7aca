"""The section `data` of params.yaml."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from pipeline.params.ranges import Strict
from pipeline.params.sections.types import DataName, Seed, Several

__all__ = [
    "CaveParams",
    "DataParams",
    "published_binary",
]


Fraction = Annotated[float, Field(gt=0, lt=1)]


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

    name: DataName = Field(description="Data set; files is a folder or a file of your own images, at path.")
    path: Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=4096)] | None = Field(
        description="Where the images of data set files are, relative to the project's root: a folder of images, an "
        ".npy or .npz file, or Parquet or Arrow files. docs/data.md has the details. null: none."
    )
    layout: Literal["auto", "nhw", "nchw", "nhwc"] = Field(
        description="Order of an array's axes: images, channels, height, width. auto: as its shape says."
    )
    channels: Literal["auto", "grey", "rgb"] = Field(
        description="Channels of an image: grey is one, rgb three; others are converted. auto: rgb if any image is in "
        "colour."
    )
    size: Annotated[int, Field(ge=4, le=1024)] | None = Field(
        description="Height and width that images are brought to. null: their own, which must be equal."
    )
    fit: Literal["refuse", "resize", "crop"] = Field(
        description="How images get that size: resize changes height and width, crop scales the shorter side and cuts "
        "off the ends of the longer one, refuse accepts no other size."
    )
    labels: bool = Field(description="Whether the names of sub-folders, an array or a column of labels become labels.")
    fractions: Annotated[tuple[Fraction, ...], Field(min_length=3, max_length=3)] = Field(
        description="Shares of training, validation and test under protocol fractions; their sum is 1."
    )
    limit: Several | None = Field(
        description="Largest number of images, drawn by the seed; under protocol folders, of each split. null: all."
    )
    skip: bool = Field(description="Whether images that cannot be used are left out and listed, instead of an error.")
    protocol: Literal["auto", "stratified", "standard", "burda", "static", "published", "fractions", "folders"] = Field(
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

    @model_validator(mode="after")
    def _is_whole(self) -> Self:
        if abs(sum(self.fractions) - 1) > 1e-6:
            raise ValueError(f"fractions must have the sum 1, not {sum(self.fractions):g}")
        if self.fit != "refuse" and self.size is None:
            raise ValueError(f"fit {self.fit} needs a size, not null")
        if self.path is not None and self.path.startswith(("/", "~")):
            raise ValueError(f"path must be relative to the project's root, as ../images, not '{self.path}'")
        return self

    @property
    def binary(self) -> bool:
        """Whether the pixels are 0 or 1, as published or by binarization."""
        return self.binarization != "none" or published_binary(self.name, self.cave.grey)

    @property
    def grey_levels(self) -> int:
        """Number of grey levels of a pixel."""
        return 2 if self.binary else 17 if self.name == "digits" else 256
