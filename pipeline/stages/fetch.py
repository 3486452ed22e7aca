"""Stage `fetch`: bring the data set's published files; the only stage that may use the network."""

from __future__ import annotations

import shutil
from pathlib import Path

from pipeline import data
from pipeline.display import shown
from pipeline.environment import data_mirror
from pipeline.errors import InputError
from pipeline.progress import reporting
from pipeline.study import Study

__all__ = ["main", "run"]


def run(study: Study) -> None:
    """Check all parameters and fetch the files, those of `evaluate.outliers` into a folder of their own."""
    data.check(study.params.data)
    if not study.watches_own_images:
        key = "data.name" if study.params.data.name == "files" else "evaluate.outliers.data"
        how = (
            "add `- ${root}/${data.path}` to the deps of prepare"
            if study.folder == study.root
            else "run `cave study refresh`"
        )
        raise InputError(
            f"{key}: files given, but dvc.yaml has no dependency on data.path; {how}, or make a study for these"
            " images: `cave study new mine --data PATH`"
        )
    mirror = data_mirror()
    outliers = study.raw / "outliers"
    with shown(study.stage_title("fetch")):
        with reporting(f"{study.params.data.name}: fetch"):
            data.fetch(study.params.data, study.raw, study.cache, mirror)
        shutil.rmtree(outliers, ignore_errors=True)
        if study.params.outliers is not None:
            with reporting(f"{study.params.outliers.name}: fetch"):
                data.fetch(study.params.outliers, outliers, study.cache, mirror)


def main() -> None:
    """Run the stage of the study in the working directory."""
    run(Study.at(Path.cwd()))
