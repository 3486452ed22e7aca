"""From a folder of one's own images to the report: `cave study new --data`, DVC's view of the files, and warnings."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from pipeline import data
from pipeline.cli.app import app
from pipeline.cli.by_hand import bring_data
from pipeline.cli.new_study import create_study
from pipeline.cli.own_images import SHEET
from pipeline.data.summary import misfits, survey
from pipeline.doctor import CHECKS, find_target
from pipeline.errors import InputError
from pipeline.params import Params, dump_yaml, read_yaml
from pipeline.stages import fetch
from pipeline.study import Study
from tests.small import ROOT, splits
from tests.test_dvc import SMALL, commit, dvc, git
from tests.workshop import make_study

TINY = SMALL | {
    "sweep.space": {},
    "train.epochs": 1,
    "evaluate.draws": 20,
    "evaluate.k": [1, 20],
    "evaluate.milestone_draws": 20,
}


def draw_images(folder: Path, count: int, mode: str = "RGB", side: int | None = None) -> Path:
    """Write PNG files of a disc or a box before a ground, of mixed sizes unless all have one."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True)
    for number in range(count):
        width, height = (side, side) if side else (int(size) for size in rng.integers(20, 60, 2))
        colours = [tuple(int(value) for value in rng.integers(0, 256, 3)) for _ in range(2)]
        image = Image.new("RGB", (width, height), colours[0])
        box = [0.2 * width, 0.2 * height, 0.8 * width, 0.7 * height]
        (ImageDraw.Draw(image).ellipse if number % 2 else ImageDraw.Draw(image).rectangle)(box, fill=colours[1])
        image.convert(mode).save(folder / f"{number:05d}.png")
    return folder


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project without commits, with settings that take a second."""
    folder = tmp_path / "project"
    make_study(folder)
    (folder / "params.yaml").write_text(dump_yaml(Params.read(ROOT / "params.yaml", TINY)))
    for name in ("dvc.yaml", ".dvcignore", ".gitignore", "pyproject.toml"):
        shutil.copy(ROOT / name, folder / name)
    monkeypatch.chdir(folder)
    return folder


def new_study(*words: str) -> None:
    app(["study", "new", "mine", *words], standalone_mode=False)


@pytest.mark.slow
@pytest.mark.parametrize("count", [80, pytest.param(2000, marks=pytest.mark.nightly)])
def test_a_folder_of_colour_images_becomes_a_report(root: Path, count: int) -> None:
    """Two commands lead to a report with pictures in colour; DVC sees each change of the files, and none otherwise."""
    photos = draw_images(root.parent / "fotos ä", count)
    shutil.copytree(ROOT / "pipeline", root / "pipeline", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / ".dvc" / "plots", root / ".dvc" / "plots")
    shutil.copy(ROOT / ".dvc" / "config", root / ".dvc" / "config")
    git(root, "init", "-q", "-b", "main")
    commit(root, "made")
    new_study("--data", "../fotos ä", "--set", "data.size=16", "--set", "data.fit=crop")
    dvc(root, "repro", "experiments/mine/dvc.yaml")
    page = (root / "experiments" / "mine" / "report" / "report.html").read_text()
    pictures = [base64.b64decode(content) for content in re.findall(r"data:image/png;base64,([\w+/=]+)", page)]
    pixels = [np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).astype(int) for picture in pictures]
    assert sum(np.ptp(picture, axis=-1).max() > 60 for picture in pixels) >= 5
    stage = ("status", "--json", "experiments/mine/dvc.yaml:prepare")
    assert json.loads(dvc(root, *stage)) == {}
    Image.new("RGB", (40, 40)).save(photos / "new.png")
    ((entry,),) = json.loads(dvc(root, *stage)).values()
    changed = entry["changed deps"]
    assert [(Path(path).name, change) for path, change in changed.items()] == [("fotos ä", "modified")]


def test_a_new_study_says_what_is_there(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Settings are those that suit the images, unless the user has set them; a sheet shows the training images."""
    draw_images(root / "photos", 20)
    shutil.copy(root / "photos" / "00000.png", root / "photos" / "copy.png")
    new_study("--data", "photos", "--set", "data.size=24", "--set", "data.fit=resize")
    output = capsys.readouterr().out
    assert "21 images: 21 PNG; 21 colour" in output
    assert re.search(r"\d+ sizes, heights 2\d to 5\d, widths 2\d to 5\d", output)
    assert "15 / 3 / 3 images of 3 x 24 x 24 for training, validation and test" in output
    own = read_yaml(root / "experiments" / "mine" / "study.yaml")
    assert own["data.path"] == "photos"
    assert (own["data.size"], own["data.fit"], own["data.binarization"]) == (24, "resize", "none")
    assert own["model.likelihood"] == "discretized_logistic"
    with Image.open(root / "experiments" / "mine" / SHEET) as sheet:
        assert sheet.width > 600
    assert sorted(path.name for path in (root / "experiments" / "mine").iterdir()) == sorted(
        [SHEET, "dvc.yaml", "params.yaml", "study.yaml"]
    )
    dependencies = read_yaml(root / "experiments" / "mine" / "dvc.yaml")["stages"]["prepare"]["deps"]
    assert "${root}/${data.path}" in dependencies
    assert [finding.level for finding in CHECKS["dvc.yaml"](find_target(root, root))] == ["ok"]
    app(["study", "refresh"], standalone_mode=False)
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("kind", ["black and white", "grey", "splits"])
def test_settings_that_suit(kind: str, root: Path) -> None:
    """Black and white images stay binary, grey ones do not; folders for the splits are taken as they are."""
    images = np.random.default_rng(0).integers(0, 2 if kind == "black and white" else 200, (30, 12, 12), dtype=np.uint8)
    names = ("train", "valid", "test") if kind == "splits" else ("x",)
    np.savez(root / "x.npz", **dict.fromkeys(names, images))
    new_study("--data", "x.npz")
    params = Study.at(root / "experiments" / "mine").params
    assert (params.data.size, params.data.binarization) == (None, "dynamic" if kind == "black and white" else "none")
    assert params.data.protocol == ("folders" if kind == "splits" else "auto")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--data", "nowhere"], r"--data: 'nowhere' given; no such file or folder"),
        (["--data", ".", "--set", "data.name=mnist"], r"--set: data\.name: --data gives it; leave one of the two out"),
        (["--set", "data.name=files"], r"data\.path: null given for files; allowed: a folder or a file of images"),
        (["--set", "data.name=files", "--set", "data.path=/x"], r"path must be relative to the project's root"),
        (["--data", ".", "--set", "data.fit=crop"], r"fit crop needs a size, not null"),
        (["--data", ".", "--set", "data.fractions=[0.5, 0.5, 0.5]"], r"fractions must have the sum 1, not 1\.5"),
    ],
)
def test_a_wrong_command_leaves_no_study(words: list[str], line: str, root: Path) -> None:
    """It has one line, and nothing is left of the study."""
    with pytest.raises(InputError, match=rf"^[^\n]*{line}[^\n]*$"):
        new_study(*words)
    assert not list(root.glob("experiments/*"))


def test_a_bad_image_leaves_no_study(root: Path) -> None:
    """An image that cannot be decoded is named, and the study's folder is not there."""
    file = draw_images(root / "photos", 8, side=16) / "00003.png"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(InputError, match=r"photos/00003\.png: "):
        new_study("--data", "photos")
    assert not list(root.glob("experiments/*"))


def test_a_study_whose_files_dvc_does_not_see_is_refused(root: Path) -> None:
    """Where dvc.yaml lacks the dependency, a stage would not notice a change of the files."""
    draw_images(root / "photos", 8, side=16)
    (root / "params.yaml").write_text(
        dump_yaml(Params.read(root / "params.yaml", {"data.name": "files", "data.path": "photos"}))
    )
    with pytest.raises(
        InputError,
        match=r"dvc\.yaml has no dependency on data\.path; add `- .*` to the deps of prepare",
    ):
        fetch.run(Study.at(root))


def test_a_study_by_hand_says_that_its_images_have_changed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It keeps the images that it has read; a file that is changed, added or removed since leads to a line."""
    photos = draw_images(root / "photos", 20, side=16)
    settings = {"data.name": "files", "data.path": "photos"}
    study = create_study(root, "hand", settings, pipeline=False)
    bring_data(study)
    before = (study.data / "data.json").stat().st_mtime
    for item in (photos, *photos.iterdir()):
        os.utime(item, (before - 9, before - 9))
    capsys.readouterr()
    bring_data(study)
    assert capsys.readouterr().out == ""
    (photos / "00003.png").unlink()
    bring_data(study)
    assert "study hand keeps the images that it has read, and photos has changed since" in capsys.readouterr().out


def test_what_is_said_of_images() -> None:
    """Copies across splits and values that never change are counted; grey levels and colour have warnings."""
    own = replace(splits("none"), name="files")
    own.train[:, 3], own.valid[:2] = 7, own.train[:2]
    lines = survey(own)
    assert "1 of 16 values are the same in all training images" in lines
    assert "2 of 48 images of validation and test are in the training set too" in lines
    assert misfits(own, {"discretized_logistic"}) == []
    assert ["is a density" in line for line in misfits(own, {"gaussian"})] == [True]
    (grey,) = misfits(replace(own, binarization="dynamic", binary=True), {"bernoulli"})
    assert "of the training pixels are grey" in grey
    colour = replace(own, binarization="dynamic", binary=True, shape=(4, 2, 2))
    assert ["the images are in colour" in line for line in misfits(colour, {"bernoulli"})] == [True]
    white = replace(own, train=np.where(own.train > 99, 255, 0).astype(np.uint8))
    assert ["black or white" in line for line in misfits(white, {"discretized_logistic"})] == [True]
    assert data.survey is survey
