"""Stage `fetch`: bring the data set's published files; the only stage that may use the network."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline import data
from pipeline.processes.entry import run_main
from pipeline.study import Study

__all__ = ["run"]


def run(study: Study) -> None:
    """Check all parameters and fetch the files, those of `evaluate.outliers` into a folder of their own."""
    data.check(study.params.data)
    data.fetch(study.params.data, study.raw, study.cache)
    aside = study.raw / "outliers"
    shutil.rmtree(aside, ignore_errors=True)
    if study.params.outliers is not None:
        data.fetch(study.params.outliers, aside, study.cache)


if __name__ == "__main__":
    run_main(lambda: run(Study.at(Path.cwd())))
