"""Stage `prepare`: published files to uint8 splits, the test set binarized once."""

from __future__ import annotations

from pathlib import Path

from pipeline import data
from pipeline.errors import guarded
from pipeline.progress import reporting
from pipeline.study import Study

__all__ = ["run"]


def run(study: Study) -> None:
    """Split and say what came out."""
    with reporting(f"{study.params.data.name}: prepare"):
        splits = data.prepare(study.params.data, study.raw, study.data)
    height, width = splits.shape
    print(
        f"{splits.name}: {len(splits.train)} / {len(splits.valid)} / {len(splits.test)} images of {height} x {width}"
        f" (protocol {splits.protocol}, binarization {splits.binarization})"
    )


if __name__ == "__main__":
    guarded(lambda: run(Study.at(Path.cwd())))
