"""The data set `files`: folders, arrays and tables of images, what is refused of them, and how they are split."""

from __future__ import annotations

import re
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from pyarrow import parquet

from pipeline import data
from pipeline.data import Splits
from pipeline.errors import InputError
from pipeline.training import fit
from pipeline.training.loop import initial_model
from tests.small import ROOT, data_params, model_params, train_params

RNG = np.random.default_rng(0)


def save_image(path: Path, height: int = 8, width: int = 8, mode: str = "RGB", **options: Any) -> Path:
    """Write an image of random pixels."""
    path.parent.mkdir(parents=True, exist_ok=True)
    shape = (height, width, 3) if mode == "RGB" else (height, width)
    Image.fromarray(RNG.integers(0, 256, shape, dtype=np.uint8)).save(path, **options)
    return path


def folder_of(root: Path, count: int = 12, **options: Any) -> Path:
    """Make a folder of images of one size, in PNG."""
    for number in range(count):
        save_image(root / "images" / f"{number:02d}.png", **options)
    return root / "images"


def prepared(root: Path, path: str = "images", **changes: Any) -> Splits:
    """Read `path` in `root`, write its splits, and check that they are what is loaded."""
    settings = {"name": "files", "path": path, "binarization": "none", **changes}
    splits = data.prepare(data_params(**settings), root, root / "data", root)
    assert data.load(root / "data").digest == splits.digest
    return splits


def rows_of(splits: Splits) -> np.ndarray:
    return np.concatenate([splits.train, splits.valid, splits.test])


def test_a_folder_of_colour_images(tmp_path: Path) -> None:
    """Its pixels are those of the files, channel after channel; fractions are drawn by the seed."""
    files = sorted(folder_of(tmp_path, 20).iterdir())
    splits = prepared(tmp_path, fractions=(0.5, 0.3, 0.2))
    expected = {np.asarray(Image.open(file)).transpose(2, 0, 1).tobytes() for file in files}
    assert {row.tobytes() for row in rows_of(splits)} == expected
    assert splits.shape == (3, 8, 8)
    assert [len(part) for part in (splits.train, splits.valid, splits.test)] == [10, 6, 4]
    assert (splits.labels, splits.protocol, splits.scale) == ({}, "fractions", 255)
    assert prepared(tmp_path, fractions=(0.5, 0.3, 0.2)).digest == splits.digest
    assert prepared(tmp_path, fractions=(0.5, 0.3, 0.2), seed=1).digest != splits.digest
    assert len(rows_of(prepared(tmp_path, limit=13))) == 13


@pytest.mark.parametrize("form", ["png", "jpg", "webp", "bmp", "tiff"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_every_format_and_an_upright_image(form: str, mode: str, tmp_path: Path) -> None:
    """Each format is read as Pillow reads it; what a camera has laid sideways stands upright."""
    options = {"exif": Image.Exif()} if form in ("jpg", "webp", "png") else {}
    if options:
        options["exif"][0x0112] = 6
    for number in range(6):
        save_image(tmp_path / "images" / f"{number}.{form}", 6, 4, mode, **options)
    splits = prepared(tmp_path, fractions=(0.34, 0.33, 0.33))
    upright = (4, 6) if options else (6, 4)
    assert splits.shape == (3 if mode == "RGB" or form == "webp" else 1, *upright)
    pixels = np.asarray(Image.open(tmp_path / "images" / f"0.{form}"))
    pixels = np.rot90(pixels, -1) if options else pixels
    assert np.moveaxis(pixels.reshape(*upright, -1), 2, 0).tobytes() in {row.tobytes() for row in rows_of(splits)}


def test_sizes_channels_and_labels(tmp_path: Path) -> None:
    """A crop keeps proportions, a resize does not; grey and colour become what is asked for; sub-folders are labels."""
    wide = np.zeros((8, 16), np.uint8)
    wide[:, 4:12] = 255
    for label in ("b", "a/c"):
        (tmp_path / "images" / label).mkdir(parents=True)
        for number in range(6):
            Image.fromarray(wide).save(tmp_path / "images" / label / f"{number}.png")
    crop, resize = prepared(tmp_path, size=8, fit="crop"), prepared(tmp_path, size=8, fit="resize", channels="rgb")
    assert (rows_of(crop) == 255).all()
    assert crop.shape == (1, 8, 8)
    assert resize.shape == (3, 8, 8)
    assert (rows_of(resize).reshape(12, 3, 8, 8)[..., [0, -1]] < 30).all()
    labels = np.concatenate(list(crop.labels.values()))
    assert np.bincount(labels).tolist() == [6, 6]  # of a/c and b
    assert prepared(tmp_path, size=8, fit="crop", labels=False).labels == {}


@pytest.mark.parametrize(("layout", "shape"), [("nhw", (20, 6, 5)), ("nchw", (20, 3, 6, 5)), ("nhwc", (20, 6, 5, 3))])
@pytest.mark.parametrize("kind", ["npy", "npz", "float"])
def test_arrays(layout: str, shape: tuple[int, ...], kind: str, tmp_path: Path) -> None:
    """Each order of the axes is inferred; floats in 0..1 are the same images; labels go with their images."""
    images, labels = RNG.integers(0, 256, shape, dtype=np.uint8), np.arange(20)
    images[0] = 255
    if kind == "npy":
        np.save(tmp_path / "x.npy", images)
    else:
        np.savez(tmp_path / "x.npz", images=images if kind == "npz" else images / np.float32(255), labels=labels)
    splits = prepared(tmp_path, "x.npy" if kind == "npy" else "x.npz")
    planes = {"nhw": images, "nchw": images, "nhwc": images.transpose(0, 3, 1, 2) if images.ndim == 4 else images}[
        layout
    ]
    assert splits.shape == (1 if layout == "nhw" else 3, 6, 5)
    if kind == "npy":
        assert {row.tobytes() for row in rows_of(splits)} == {image.tobytes() for image in planes}
    else:
        chosen = np.concatenate([splits.labels[name] for name in ("train", "valid", "test")])
        assert (rows_of(splits) == planes.reshape(20, -1)[chosen]).all()


def encoded(count: int) -> list[dict[str, Any]]:
    import io

    rows = []
    for _ in range(count):
        content = io.BytesIO()
        Image.fromarray(RNG.integers(0, 256, (4, 4, 3), dtype=np.uint8)).save(content, "PNG")
        rows.append({"bytes": content.getvalue(), "path": None})
    return rows


@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_tables_of_a_hub(kind: str, tmp_path: Path) -> None:
    """Parquet and Arrow files of Hugging Face's `datasets` are read split by split, with their labels."""
    (tmp_path / "set").mkdir()
    for split, count in (("train", 9), ("validation", 3), ("test", 4)):
        table = pa.table({"image": encoded(count), "label": list(range(count))})
        if kind == "parquet":
            (tmp_path / "set" / "data").mkdir(exist_ok=True)
            parquet.write_table(table, tmp_path / "set" / "data" / f"{split}-00000-of-00001.parquet", row_group_size=2)
        else:
            (tmp_path / "set" / split).mkdir()
            file = tmp_path / "set" / split / "data-00000-of-00001.arrow"
            with pa.OSFile(str(file), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
                writer.write_table(table, max_chunksize=2)
    splits = prepared(tmp_path, "set", protocol="folders")
    assert [len(part) for part in (splits.train, splits.valid, splits.test)] == [9, 3, 4]
    assert splits.labels["train"].tolist() == list(range(9))
    assert len(rows_of(prepared(tmp_path, "set"))) == 16


def test_folders_for_the_splits(tmp_path: Path) -> None:
    """Images stay in the split of their folder; `val` is one of the names of validation."""
    for split, count in (("train", 5), ("val", 3), ("test", 4)):
        for number in range(count):
            save_image(tmp_path / "images" / split / f"{number}.png")
    splits = prepared(tmp_path, protocol="folders")
    first = np.asarray(Image.open(tmp_path / "images" / "val" / "0.png")).transpose(2, 0, 1).reshape(-1)
    assert (splits.valid[0] == first).all()
    assert [len(part) for part in (splits.train, splits.valid, splits.test)] == [5, 3, 4]


def test_folders_without_one_of_the_splits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where `valid` is missing, `train` and `test` are split anew, which is said, and are no labels."""
    for split in ("train", "test"):
        for kind in ("cat", "dog"):
            for number in range(6):
                save_image(tmp_path / "images" / split / kind / f"{number}.png")
    splits = prepared(tmp_path)
    assert set(np.concatenate(list(splits.labels.values()))) == {0, 1}
    assert "what is named train, test is split anew, together" in capsys.readouterr().err


def test_dvc_links_and_blanks(tmp_path: Path) -> None:
    """Names with blanks and other letters are read, and so are the links that DVC makes into its cache."""
    folder = folder_of(tmp_path).rename(tmp_path / "fotos ä ß")
    cached = tmp_path / "cache" / "files" / "md5" / "ab" / ("0" * 30)
    save_image(cached, format="PNG")
    (folder / "link.png").symlink_to(cached)
    assert len(rows_of(prepared(tmp_path, "fotos ä ß"))) == 13


def bomb(path: Path) -> None:
    """Write a PNG of 9,000 x 9,000 pixels in a few bytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    )


def cut(path: Path) -> None:
    """Leave out the second half of a file."""
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


Make = Callable[[Path], object]
FILE = "images/05.png"
BAD: dict[str, tuple[Make, dict[str, Any], str]] = {  # what is made in a folder with images, settings, the line
    "truncated": (lambda root: cut(root / FILE), {}, r"images/05\.png: cannot be decoded: "),
    "no image": (lambda root: (root / FILE).write_text("text"), {}, r"images/05\.png: not an image of the formats PNG"),
    "other size": (
        lambda root: save_image(root / FILE, 9, 8),
        {},
        r"images/05\.png: 9 x 8 pixels, but .* 8 x 8; allowed",
    ),
    "not the size": (
        lambda root: None,
        {"size": 16},
        r"images/00\.png: 8 x 8 pixels, but data\.size is 16 x 16; allowed",
    ),
    "16 bits": (
        lambda root: Image.fromarray(np.full((8, 8), 5000, np.uint16)).save(root / FILE),
        {},
        r"images/05\.png: an image of more than 8 bits a channel",
    ),
    "CMYK": (
        lambda root: Image.new("CMYK", (8, 8)).save(root / "images/x.jpg"),
        {},
        r"images/x\.jpg: a CMYK image; allowed: ",
    ),
    "palette": (
        lambda root: Image.new("P", (8, 8)).save(root / FILE),
        {},
        r"images/05\.png: a palette image; allowed: ",
    ),
    "alpha": (
        lambda root: Image.new("RGBA", (8, 8)).save(root / FILE),
        {},
        r"images/05\.png: an image with an alpha channel; allowed: ",
    ),
    "transparent colour": (
        lambda root: Image.new("RGB", (8, 8)).save(root / FILE, transparency=(0, 0, 0)),
        {},
        r"images/05\.png: an image with an alpha channel; allowed: ",
    ),
    "animation": (
        lambda root: Image.new("L", (8, 8)).save(
            root / FILE, save_all=True, append_images=[Image.new("L", (8, 8), 255)]
        ),
        {},
        r"images/05\.png: has 2 frames; allowed: one",
    ),
    "bomb": (lambda root: bomb(root / FILE), {}, r"images/05\.png: 9000 x 9000 pixels; allowed: \d+ pixels"),
    "link out": (
        lambda root: (root / "images/z.png").symlink_to(ROOT / "README.md"),
        {},
        r"images/z\.png: a link that leads",
    ),
    "link to a folder": (
        lambda root: (root / "images/z").symlink_to(root / "images"),
        {},
        r"images/z: a link to \S+, which is no file; allowed: ",
    ),
    "nothing": (lambda root: None, {"path": "nowhere"}, r"data\.path: 'nowhere' given; no such file or folder"),
    "empty folder": (lambda root: (root / "empty").mkdir(), {"path": "empty"}, r"empty: has no image \(\.png"),
    "another file": (
        lambda root: (root / "x.txt").touch(),
        {"path": "x.txt"},
        r"x\.txt: not a file of images; allowed: ",
    ),
    "too few": (
        lambda root: None,
        {"limit": 3},
        r"data: 12 images, of which \w+ gets [01] by protocol fractions; allowed: 2",
    ),
    "no folders": (lambda root: None, {"protocol": "folders"}, r"images: has no folder train or valid or test, which"),
    "above 1": (
        lambda root: np.save(root / "x.npy", np.full((20, 4, 4), 2.5)),
        {"path": "x.npy"},
        r"x\.npy: images of floats from 2\.5 to 2\.5; allowed: 0\.\.1",
    ),
    "NaN": (
        lambda root: np.save(root / "x.npy", np.full((20, 4, 4), np.nan)),
        {"path": "x.npy"},
        r"x\.npy: images with values that are not finite",
    ),
    "16-bit array": (
        lambda root: np.save(root / "x.npy", np.zeros((20, 4, 4), np.uint16)),
        {"path": "x.npy"},
        r"x\.npy: images of the type uint16; allowed: uint8",
    ),
    "objects": (
        lambda root: np.save(root / "x.npy", np.array([{}] * 9)),
        {"path": "x.npy"},
        r"x\.npy: has an array of Python objects; allowed: uint8",
    ),
    "cut array": (
        lambda root: (np.save(root / "x.npy", np.zeros((9, 4, 4), np.uint8)), cut(root / "x.npy")),
        {"path": "x.npy"},
        r"x\.npy: not readable as a NumPy file: ",
    ),
    "other shape": (
        lambda root: np.save(root / "x.npy", np.zeros((9, 4), np.uint8)),
        {"path": "x.npy"},
        r"x\.npy: images of the shape \[9, 4\]; allowed: \[n, h, w\]",
    ),
    "two orders": (
        lambda root: np.save(root / "x.npy", np.zeros((9, 3, 4, 3), np.uint8)),
        {"path": "x.npy"},
        r"x\.npy: .* second axis or the last; set data\.layout",
    ),
    "labels": (
        lambda root: np.savez(root / "x.npz", images=np.zeros((9, 4, 4), np.uint8), labels=np.zeros(8, int)),
        {"path": "x.npz"},
        r"x\.npz: labels of the shape \[8\] for 9 images; allowed: \[9\]",
    ),
    "no column": (
        lambda root: parquet.write_table(pa.table({"a": [1]}), root / "x.parquet"),
        {"path": "x.parquet"},
        r"x\.parquet: has no single column of encoded images; its columns: a",
    ),
    "no content": (
        lambda root: parquet.write_table(
            pa.table({"image": [{"bytes": None, "path": "a.png"}] * 2 + encoded(1)}), root / "x.parquet"
        ),
        {"path": "x.parquet"},
        r"x\.parquet: image 0: has no content; allowed: ",
    ),
    "cut table": (
        lambda root: (root / "x.parquet").write_bytes(b"PAR1"),
        {"path": "x.parquet"},
        r"x\.parquet: not readable as Parquet: ",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input_is_one_line_and_leaves_nothing(case: str, tmp_path: Path) -> None:
    """The line names the file and what is wrong with it, and no file of a split is there."""
    make, settings, line = BAD[case]
    folder_of(tmp_path)
    make(tmp_path)
    with pytest.raises(InputError, match=rf"^[^\n]*{line}[^\n]*$"):
        prepared(tmp_path, **settings)
    assert not (tmp_path / "data").exists() or list((tmp_path / "data").iterdir()) == []


def test_every_bad_input_is_in_the_documents() -> None:
    """docs/data.md has a row for each of these cases."""
    table = (ROOT / "docs" / "data.md").read_text().partition("## Bad input")[2]
    rows = re.findall(r"^\| ([^|]+?) \| `", table, re.MULTILINE)
    assert sorted(rows) == sorted(BAD)


def test_what_cannot_be_used_is_left_out_and_listed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With `data.skip` the others are split as if the unusable ones were not there, and a file lists these."""
    folder_of(tmp_path, 20)
    for name in ("02", "07"):
        cut(tmp_path / "images" / f"{name}.png")
    splits = prepared(tmp_path, skip=True)
    listed = (tmp_path / "data" / "skipped.txt").read_text().splitlines()
    assert [re.search(r"images/(\d+)\.png: cannot be decoded", line)[1] for line in listed] == ["02", "07"]  # type: ignore[index]
    for name in ("02", "07"):
        (tmp_path / "images" / f"{name}.png").unlink()
    assert prepared(tmp_path).digest == splits.digest
    assert not (tmp_path / "data" / "skipped.txt").exists()


def test_grey_images_are_binarized_by_the_published_rules(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Pixels are drawn once by their brightness under static, and in validation and test under dynamic."""
    np.save(tmp_path / "x.npy", np.repeat(np.array([0, 64, 255], np.uint8), 3000).reshape(-1, 5, 6))
    once, anew = (prepared(tmp_path, "x.npy", binarization=way) for way in ("static", "dynamic"))
    assert set(np.unique(rows_of(once))) == {0, 255}
    assert rows_of(once).mean() / 255 == pytest.approx((64 / 255 + 1) / 3, abs=0.02)
    assert set(np.unique(anew.train)) == {0, 64, 255}
    assert set(np.unique(anew.valid)) == {0, 255}
    assert (once.binary, anew.binary) == (True, True)
    assert capsys.readouterr().err.count("33% of the training pixels are grey, and data.binarization static") == 1


@pytest.mark.parametrize("binarization", ["dynamic", "none"])
def test_many_images_stay_on_the_disk(binarization: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Above a limit, splits are maps of their files, with the same digest, and a training has the same numbers."""
    np.save(tmp_path / "x.npy", RNG.integers(0, 256, (5000, 4, 4), dtype=np.uint8))
    small = prepared(tmp_path, "x.npy", binarization=binarization)
    monkeypatch.setattr("pipeline.data.storage.MAPPED", 1000)
    large = data.load(tmp_path / "data")
    assert (small.is_mapped, large.is_mapped) == (False, True)
    metrics = []
    for splits in (small, large):
        params = model_params(likelihood="bernoulli" if splits.binary else "discretized_logistic")
        model = initial_model(params, splits, seed=0)
        metrics += [record.metrics for record in fit(model, splits, train_params(epochs=1, batch_size=500), seed=0)]
    assert metrics[0] == metrics[1]
