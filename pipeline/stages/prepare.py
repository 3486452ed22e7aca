"""Stage `prepare`: published files to uint8 splits, the test set binarized once."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline import data
from pipeline.display import shown
from pipeline.errors import InputError
from pipeline.files import write_json
from pipeline.progress import reporting
from pipeline.study import Study

__all__ = ["main", "run"]


def run(study: Study) -> None:
    """Split, say what came out, and prepare the data set of `evaluate.outliers` in a folder of its own."""
    with shown(study.stage_title("prepare")), reporting(f"{study.params.data.name}: prepare"):
        splits = data.prepare(study.params.data, study.raw, study.data, study.root)
    print(
        f"{splits.name}: {len(splits.train)} / {len(splits.valid)} / {len(splits.test)} images of {_size(splits)}"
        f" (protocol {splits.protocol}, binarization {splits.binarization})"
    )
    likelihoods = {study.params.variant(name).model.likelihood for name in study.params.variants}
    for line in data.misfits(splits, likelihoods):
        print(f"note: {line}")
    _outliers(study, splits)


def _outliers(study: Study, splits: data.Splits) -> None:
    """Prepare images from elsewhere; DVC wants the folder also where there are none, and they then have no file."""
    shutil.rmtree(study.outliers, ignore_errors=True)
    if study.params.outliers is None:
        write_json(study.outliers / "none.json", {})
        return
    with reporting(f"{study.params.outliers.name}: prepare"):
        other = data.prepare(study.params.outliers, study.raw / "outliers", study.outliers, study.root)
    if other.shape != splits.shape:
        raise InputError(
            f"evaluate.outliers.data: images of {other.name} are {_size(other)}, those of {splits.name}"
            f" {_size(splits)}; allowed: shuffled or a data set of one shape"
        )
    print(f"{other.name}: {len(other.test)} test images from elsewhere (evaluate.outliers)")


def _size(splits: data.Splits) -> str:
    return " x ".join(map(str, splits.array_shape))


def main() -> None:
    """Run the stage of the study in the working directory."""
    run(Study.at(Path.cwd()))
