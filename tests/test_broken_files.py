"""Broken files that one stage leaves for another, and broken parameters in a process of their own: one line each."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pipeline import data
from pipeline.jobs import final_models as stage
from pipeline.models import build
from pipeline.models.checkpoint import load, save_model
from pipeline.processes.entry import run_main
from pipeline.stages import train
from tests.command import assert_one_line, call
from tests.small import ROOT, covering, model_params, splits
from tests.workshop import make_study
from tests.zygote import run

TEXT = (ROOT / "params.yaml").read_bytes()

JUNK = [
    b"", b"{", b"null", b"[]", b"3", b'"x"', b"{}", b"\xff\xfe", b"\x00", b"[" * 100_000, b'{"a":' * 100_000,
    b"9" * 5000, b"NaN", b'{"params": 3, "trial": 1}', b'{"params": null, "trial": 1}',
    b'{"params": {"model.dept": 1}, "trial": 1}', b'{"trial": 0}',
    b'{"params": {"model.depth": 1e999}, "trial": 1}', b'{"params": {"model": {}}, "trial": 1}',
    b'{"params": [1], "trial": 1}', b'{"params": {"model.depth": -1}, "trial": 1}',
    b'{"params": {"": 1}, "trial": 1}', b'\xef\xbb\xbf{"trial": 1}',
]  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("junk", range(len(JUNK)))
def test_a_broken_best_json_gets_its_line(tmp_path: Path, junk: int) -> None:
    """A `best.json` that no sweep has written stops the training of its variant in one line."""
    study = make_study(tmp_path)
    folder = study.sweep("mhvae")
    folder.mkdir(parents=True)
    (folder / "best.json").write_bytes(JUNK[junk])
    assert "best.json" in assert_one_line(
        *call(main=lambda: run_main(lambda: print(stage.settings(study, "mhvae", 0))))
    )


@pytest.mark.parametrize("junk", range(len(JUNK)))
@pytest.mark.parametrize("name", ["model.json", "data.json"])
def test_broken_json_between_stages_gets_its_line(tmp_path: Path, name: str, junk: int) -> None:
    """A description of a model, or of the data, that is none is refused in one line by what reads it."""
    model = build(model_params(), splits_mean(), (1, 4, 4))
    save_model(tmp_path, model, model_params(), splits())
    (tmp_path / name).write_bytes(JUNK[junk])
    read = {"model.json": load, "data.json": data.load}[name]
    assert_one_line(*call(main=lambda: run_main(lambda: print(read(tmp_path)))))


def splits_mean() -> Any:
    """Return the mean image of the small data as the model takes it."""
    import torch

    return torch.as_tensor(splits().mean, dtype=torch.float32)


@pytest.mark.parametrize(
    "content", [b"", b"a,b\n1,2\n", b"\xff", b"\x00", b"epoch\nx\n", b'epoch\n"' + b"x" * 200_000, b"epoch\n1,2,3\n"]
)
def test_a_broken_curve_gets_its_line(tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """A `curves.csv` that no training has written is refused in one line where the curves are averaged."""
    study = make_study(tmp_path)
    for seed in (0, 1):
        folder = study.train("vae") / f"seed-{seed}"
        folder.mkdir(parents=True)
        (folder / "curves.csv").write_bytes(b"epoch,seconds\n1,2\n" if seed == 0 else content)
    monkeypatch.setattr("pipeline.processes.map_in_workers", lambda *_: None)  # both were trained
    assert_one_line(*call(main=lambda: run_main(lambda: train.run(study, "vae"))))


FEW = [
    b"model: [1, 2",
    b"\xff\xfe",
    b"",
    TEXT.replace(b"depth: 2", b"dept: 2"),
    b"a: &a [*a]",
    TEXT + b"x: !!python/name:os.system ''\n",
]


@pytest.mark.slow
@covering(
    "content, words",
    FEW,
    [["check"], ["train", "--variant", "vae"]],
    ids=lambda value: value[0] if isinstance(value, list) else FEW.index(value),
)
def test_a_process_of_its_own_tells_the_same(tmp_path: Path, content: bytes, words: list[str]) -> None:
    """A broken file ends a real command with its line and exit code 2, and nothing is written."""
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "params.yaml").write_bytes(content)
    done = run(tmp_path, "pipeline", *words, code=2)
    assert_one_line(2, done.stdout, done.stderr)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["params.yaml", "pyproject.toml"]
