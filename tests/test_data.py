"""Data sets: the registry's contract, formats, protocols, binarization, and the folder that is kept."""

import gzip
import hashlib
import io
import json
import math
import os
import re
import struct
import tarfile
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
from scipy.io import savemat

from pipeline.data import DATASETS, PROTOCOLS, Remote, Splits, binarize, check, fetch, load, prepare, readers
from pipeline.data.cave import render
from pipeline.data.dataset import Part
from pipeline.data.formats import read_amat, read_idx, read_mat
from pipeline.data.protocols import choose
from pipeline.environment import data_mirror
from pipeline.errors import InputError
from pipeline.params import CaveParams, DataParams
from tests.small import data_params

SPLITS = ("train", "valid", "test")
LOCAL = ("digits", "cave")
FILES = Path(os.environ.get("CAVE_DATA_MIRROR") or Path(__file__).resolve().parents[2] / "shared" / "data")


def params(name, protocol="auto", binarization="dynamic", seed=0, images=300, grey=False):
    cave = CaveParams(images=images, size=28, grey=grey)
    path = "images" if name == "files" else None
    return data_params(name=name, path=path, protocol=protocol, binarization=binarization, seed=seed, cave=cave)


def made(settings, folder):
    """Fetch and prepare."""
    fetch(settings, folder / "raw", folder / "cache", data_mirror())
    return prepare(settings, folder / "raw", folder / "data")


def same(one, other):
    """Assert that two `Splits` are equal in every field, types included."""
    for item in fields(Splits):
        a, b = getattr(one, item.name), getattr(other, item.name)
        assert type(a) is type(b), item.name
        pairs = [(a[k], b[k]) for k in a] if isinstance(a, dict) else [(a, b)]
        assert not isinstance(a, dict) or a.keys() == b.keys()
        for x, y in pairs:
            np.testing.assert_array_equal(x, y)
            assert np.asarray(x).dtype == np.asarray(y).dtype


# --- the registry's contract


def test_names():
    """The registry has the names that `data.name` and `data.protocol` allow, and no other."""
    assert set(DATASETS) == set(get_args(DataParams.model_fields["name"].annotation))
    assert {"auto", *PROTOCOLS} == set(get_args(DataParams.model_fields["protocol"].annotation))


@pytest.mark.parametrize("name", DATASETS)
def test_contract(name):
    """A data set names its source and known protocols; its files have a size or cap, a checksum and two addresses."""
    dataset = DATASETS[name]
    assert dataset.source
    assert dataset.protocols
    assert set(dataset.protocols) <= set(PROTOCOLS)
    assert bool(dataset.remotes) == (name not in (*LOCAL, "files"))
    for remote in dataset.remotes:
        assert re.fullmatch({"sha256": "[0-9a-f]{64}", "md5": "[0-9a-f]{32}"}[remote.checksum_type], remote.checksum)
        assert len(set(remote.addresses)) >= 2
        assert all(re.match(r"https?://", address) and address.endswith(remote.file) for address in remote.addresses)
        assert Path(remote.file).name == remote.file


@pytest.mark.parametrize("name", DATASETS)
def test_check(name):
    """Allowed protocols and 'auto' pass; any other is refused in one line, before anything is fetched or read."""
    allowed = DATASETS[name].protocols
    for protocol in ("auto", *allowed):
        check(params(name, protocol))
    wrong = next(protocol for protocol in PROTOCOLS if protocol not in allowed)
    message = rf"^data\.protocol: '{wrong}' given for {name}; allowed: auto, {', '.join(allowed)}$"
    nowhere = Path(os.devnull) / "nowhere"
    for call in (check, lambda p: fetch(p, nowhere, nowhere), lambda p: prepare(p, nowhere, nowhere)):
        with pytest.raises(InputError, match=message):
            call(params(name, wrong))


def test_check_size():
    """A rendering too large for any memory is rejected before it begins."""
    large = DataParams(**params("cave").model_dump() | {"cave": CaveParams(images=10**6, size=512, grey=True)})
    with pytest.raises(InputError, match=r"^data\.cave: 1000000 images of 512x512 pixels given; allowed: [^\n]*$"):
        check(large)


# --- digits and cave, end to end


@pytest.mark.parametrize("binarization", ["dynamic", "static", "none"])
@pytest.mark.parametrize(("name", "grey"), [("digits", False), ("cave", False), ("cave", True)])
def test_round_trip(name, grey, binarization, tmp_path):
    """What `prepare` returns is what `load` reads; shapes, types and ranges are as promised."""
    settings = params(name, binarization=binarization, grey=grey)
    splits = made(settings, tmp_path)
    same(splits, load(tmp_path / "data"))
    assert json.loads((tmp_path / "raw" / "files.json").read_text()) == []
    assert (splits.protocol, splits.binarization, splits.binary) == ("stratified", binarization, settings.binary)
    assert splits.scale == {"digits": 16, "cave": 255 if grey else 1}[name]
    assert sum(len(getattr(splits, split)) for split in SPLITS) == {"digits": 1797, "cave": 300}[name]
    for split in SPLITS:
        images = getattr(splits, split)
        assert images.dtype == np.uint8
        assert images.shape == (len(splits.labels[split]), math.prod(splits.shape))
        assert splits.labels[split].dtype == np.int64
        still_grey = binarization == "none" or (binarization == "dynamic" and split == "train")
        assert images.max() == splits.scale
        assert (set(np.unique(images)) == {0, splits.scale}) == (not still_grey or splits.scale == 1)
    assert splits.mean.shape == splits.train.shape[1:]
    assert 0 <= splits.mean.min() < splits.mean.max() <= 1
    np.testing.assert_allclose(splits.mean * splits.scale, splits.train.mean(0), atol=1e-12)


def test_cave_keeps_its_factors(tmp_path):
    """The factors kept beside the images render them again, and the solid is the label."""
    splits = made(params("cave", binarization="none", grey=True), tmp_path)
    assert splits.factor_names == ("solid", "size", "height", "lean", "roll", "x", "y", "light")
    for split in SPLITS:
        np.testing.assert_array_equal(render(splits.factors[split], 28, True), getattr(splits, split))
        np.testing.assert_array_equal(splits.factors[split][:, 0], splits.labels[split])


def test_digest(tmp_path):
    """The digest is equal for equal parameters and differs with the seed and the binarization."""
    digests = [
        made(settings, tmp_path / str(number)).digest
        for number, settings in enumerate(
            [params("digits"), params("digits"), params("digits", seed=1), params("digits", binarization="none")]
        )
    ]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    assert all(re.fullmatch("[0-9a-f]{32}", digest) for digest in digests)
    assert digests[0] == "3121e022fa5152dbcca9b7ab6f19f8e4"  # a user's results depend on it


@pytest.mark.parametrize("name", LOCAL)
def test_stratified(name, tmp_path):
    """Splits are disjoint, take every image, and hold 70/15/15 % of each label's to an image; the seed draws them."""
    parts = DATASETS[name].read(tmp_path, params(name, images=1000)).parts
    labels = parts["all"].labels
    choice = choose(params(name), parts)
    rows = np.concatenate([choice[split][1] for split in SPLITS])
    np.testing.assert_array_equal(np.sort(rows), np.arange(len(labels)))
    total = np.bincount(labels)
    for split, share in zip(SPLITS, (0.70, 0.15, 0.15), strict=True):
        assert np.abs(np.bincount(labels[choice[split][1]]) - share * total).max() <= 1
    other = choose(params(name, seed=1), parts)
    assert not np.array_equal(other["test"][1], choice["test"][1])


# --- the folder that is kept


def test_stale_arrays_go(tmp_path):
    """A folder that held another data set keeps none of its arrays."""
    made(params("cave"), tmp_path)
    splits = made(params("digits"), tmp_path)
    assert sorted(path.stem for path in (tmp_path / "data").glob("*.npy") if "factors" in path.stem) == []
    same(load(tmp_path / "data"), splits)


@pytest.mark.parametrize("damage", ["flip", "cut", "empty", "pickle", "header", "other", "json", "description", "list"])
def test_damage(damage, tmp_path):
    """Damaged content of any kind is an `InputError` in one line, never an array."""
    made(params("digits"), tmp_path)
    path = tmp_path / "data" / "test.npy"
    record = tmp_path / "data" / "data.json"
    content = path.read_bytes()
    if damage == "flip":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 16]))
    elif damage == "cut":
        path.write_bytes(content[:-100])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "pickle":
        np.save(path, np.array([{}], dtype=object), allow_pickle=True)
    elif damage == "header":
        path.write_bytes(content[:12] + b"(" * 60 + content[72:])
    elif damage == "other":
        np.save(path, np.load(path)[:-1])
    elif damage == "json":
        record.write_text(record.read_text()[:-9])
    elif damage == "description":
        record.write_text(record.read_text().replace('"dynamic"', '"static"'))
    else:
        record.write_text("[]")
    with pytest.raises(InputError, match=r"^[^\n]*(damaged|not readable as JSON)[^\n]*$"):
        load(tmp_path / "data")


@pytest.mark.parametrize("file", ["data.json", "valid.npy", "labels_train.npy"])
def test_missing(file, tmp_path):
    """A missing file is named."""
    made(params("digits"), tmp_path)
    (tmp_path / "data" / file).unlink()
    with pytest.raises(InputError, match=rf"{file}: no such file"):
        load(tmp_path / "data")


def test_unwritable(tmp_path):
    """A place where nothing can be written is an `InputError`."""
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written"):
        prepare(params("digits"), tmp_path, tmp_path / "file" / "data")
    with pytest.raises(InputError, match="cannot be written"):
        fetch(params("digits"), tmp_path / "file" / "raw", tmp_path)


# --- binarization


@pytest.mark.parametrize("scale", [1, 16, 255])
def test_binarize(scale):
    """Every intensity x becomes `scale` with frequency x / scale; 0 and `scale` never flip; one seed, one result."""
    images = np.tile(np.arange(scale + 1, dtype=np.uint8), (9000, 1))
    drawn = binarize(images, scale, np.random.default_rng([0, 3]))
    assert drawn.dtype == np.uint8
    assert set(np.unique(drawn)) == {0, scale}
    p = np.arange(scale + 1) / scale
    error = np.abs((drawn == scale).mean(0) - p)
    assert error[0] == error[-1] == 0
    assert (error <= 5 * np.sqrt(p * (1 - p) / len(images))).all()
    np.testing.assert_array_equal(binarize(images, scale, np.random.default_rng([0, 3])), drawn)


def test_the_extremes_are_safe_from_the_largest_draw():
    """A full pixel stays full even under the largest number a generator can draw."""

    class Largest(np.random.Generator):
        def random(self, shape):
            return np.full(shape, 1 - 2.0**-53)

    for scale in (1, 16, 255):
        assert binarize(np.full((1, 3), scale, np.uint8), scale, Largest(np.random.PCG64())).min() == scale


def test_one_frozen_test_set(tmp_path):
    """Validation and test images are the same under 'dynamic' and 'static', in every call; training images are not."""
    dynamic = made(params("digits"), tmp_path / "dynamic")
    static = made(params("digits", binarization="static"), tmp_path / "static")
    grey = made(params("digits", binarization="none"), tmp_path / "none")
    np.testing.assert_array_equal(dynamic.valid, static.valid)
    np.testing.assert_array_equal(dynamic.test, static.test)
    np.testing.assert_array_equal(dynamic.train, grey.train)
    assert not np.array_equal(dynamic.train, static.train)
    certain = (grey.test == 0) | (grey.test == 16)
    np.testing.assert_array_equal(dynamic.test[certain], grey.test[certain])


# --- formats


def idx(array, head=None):
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape) if head is None else head
    return gzip.compress(head + array.astype(np.uint8).tobytes(), 1, mtime=0)


def test_idx(tmp_path):
    """An IDX file gives back its array."""
    array = np.random.default_rng(0).integers(0, 256, (5, 4, 3))
    path = tmp_path / "a.gz"
    path.write_bytes(idx(array))
    np.testing.assert_array_equal(read_idx(path, (5, 4, 3), "images"), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            idx(np.zeros((5, 4, 3)), head=b"\0\0\x09\x03" + struct.pack(">III", 5, 4, 3)),
            "is not an IDX file of 5 images 4x3",
        ),
        (idx(np.zeros((5, 3, 4))), "is not an IDX file of 5 images 4x3"),
        (idx(np.zeros((6, 4, 3))), "is not an IDX file of 5 images 4x3"),
        (idx(np.zeros((4, 4, 3)), head=b"\0\0\x08\x03" + struct.pack(">III", 5, 4, 3)), "is not an IDX file"),
        (gzip.compress(bytes(10**7), mtime=0), "is not an IDX file"),
        (idx(np.zeros((5, 4, 3)))[:-9], "cannot be read as gzip"),
        (b"<html>", "cannot be read as gzip"),
        (b"", "is not an IDX file"),
    ],
)
def test_idx_rejects(content, message, tmp_path):
    """A wrong type, shape or length, a bomb, a cut file and a page are refused with the file's name."""
    path = tmp_path / "a.gz"
    path.write_bytes(content)
    with pytest.raises(InputError, match=rf"a\.gz: {message}"):
        read_idx(path, (5, 4, 3), "images")


def test_amat(tmp_path):
    """A text of digits gives back its rows; any other length, digit or blank is rejected."""
    path = tmp_path / "a.amat"
    path.write_text("0 1 1\n1 0 0\n")
    np.testing.assert_array_equal(read_amat(path, 2, 3), [[0, 1, 1], [1, 0, 0]])
    for text in ("0 1 1\n1 0 2\n", "0 1 1\n1 0 0", "0 1 1 1 0 0\n", "0,1,1\n1,0,0\n", "0 1 1\n1 0 0\n0 0 0\n", ""):
        path.write_text(text)
        with pytest.raises(InputError, match=r"a\.amat: is not a text of 2 lines of 3 digits 0 or 1"):
            read_amat(path, 2, 3)


def test_mat_rejects(tmp_path):
    """A wrong shape, type or name, values that are not finite, and what is no MATLAB file are rejected."""
    path = tmp_path / "a.mat"
    for content in ({"x": np.ones((3, 2))}, {"y": np.ones((2, 3))}, {"x": np.array([["a", "b"]], object)}):
        savemat(path, content)
        with pytest.raises(InputError, match=r"a\.mat: is not a MATLAB file with 2x3 numbers x"):
            read_mat(path, {"x": (2, 3)})
    savemat(path, {"x": np.full((2, 3), np.nan)})
    with pytest.raises(InputError, match="not finite"):
        read_mat(path, {"x": (2, 3)})
    savemat(path, {"x": np.arange(6.0).reshape(2, 3)}, do_compression=True)
    whole = path.read_bytes()
    np.testing.assert_array_equal(read_mat(path, {"x": (2, 3)})["x"], np.arange(6.0).reshape(2, 3))
    for content in (whole[:-20], whole[:40], b"", b"<html>" * 100, b"\x89HDF\r\n\x1a\n" * 40):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"^[^\n]*a\.mat: [^\n]*$"):
            read_mat(path, {"x": (2, 3)})


# --- small files of the published forms


def install(monkeypatch, folder, name, read, file, holdout=None):
    """Let the registry's entry describe a small file of the same form, and put it where `fetch` finds it."""
    content = (folder / file).read_bytes()
    remote = Remote(file, ("http://127.0.0.1:9/",), len(content), hashlib.sha256(content).hexdigest())
    monkeypatch.setitem(DATASETS, name, replace(DATASETS[name], read=read, remotes=(remote,), holdout=holdout or {}))
    (folder / "mirror" / name).mkdir(parents=True)
    (folder / file).rename(folder / "mirror" / name / file)
    monkeypatch.setenv("CAVE_DATA_MIRROR", str(folder / "mirror"))


def upright(count, rng):
    """Images that differ from their transposes: a grey frame, open at the right, and a random middle."""
    images = np.zeros((count, 28, 28))
    images[:, 0], images[:, -1], images[:, :, 0] = 0.2, 0.4, 0.6
    images[:, 5:20, 8:12] = rng.random((count, 15, 4))
    return images


@pytest.mark.parametrize("labelled", [True, False])
def test_omniglot(labelled, tmp_path, monkeypatch):
    """Columns in Fortran order become upright images; 5 are held out by seed; labels come along where they are."""
    rng = np.random.default_rng(0)
    train, test = upright(25, rng), upright(8, rng)
    content = {"data": train.transpose(2, 1, 0).reshape(784, 25), "testdata": test.transpose(2, 1, 0).reshape(784, 8)}
    alphabet = rng.integers(0, 50, 33)
    if labelled:
        hot = np.eye(50)[:, alphabet]
        content |= {"target": hot[:, :25], "testtarget": hot[:, 25:]}
    savemat(tmp_path / "chardata.mat", content)
    read = partial(readers.omniglot, train=25, test=8)
    install(monkeypatch, tmp_path, "omniglot", read, "chardata.mat", {"valid": 5})
    splits = made(params("omniglot", binarization="none"), tmp_path)
    assert [len(getattr(splits, split)) for split in SPLITS] == [20, 5, 8]
    np.testing.assert_array_equal(splits.test, np.rint(255 * test).astype(np.uint8).reshape(8, 784))
    seen = np.concatenate([splits.train, splits.valid])
    expected = np.rint(255 * train).astype(np.uint8).reshape(25, 784)
    match = [int(np.flatnonzero((expected == row).all(1))[0]) for row in seen]
    assert sorted(match) == list(range(25))
    assert match != list(range(25))
    assert bool(splits.labels) == labelled
    if labelled:
        np.testing.assert_array_equal(np.concatenate([splits.labels["train"], splits.labels["valid"]]), alphabet[match])
        np.testing.assert_array_equal(splits.labels["test"], alphabet[25:])
    again = made(params("omniglot", binarization="none", seed=1), tmp_path / "other")
    assert not np.array_equal(again.train, splits.train)


def test_caltech(tmp_path, monkeypatch):
    """Column-major rows become upright images of the published polarity; splits and labels are the published ones."""
    rng = np.random.default_rng(0)
    counts = {"train": 6, "val": 4, "test": 5}
    images = {key: (upright(count, rng) > 0.3).astype(np.uint8) for key, count in counts.items()}
    labels = {key: rng.integers(1, 102, (count, 1)).astype(np.uint8) for key, count in counts.items()}
    content = {f"{key}_data": value.transpose(0, 2, 1).reshape(-1, 784) for key, value in images.items()}
    file = "caltech101_silhouettes_28_split1.mat"
    savemat(tmp_path / file, content | {f"{key}_labels": value for key, value in labels.items()})
    read = partial(readers.caltech101, train=6, valid=4, test=5)
    install(monkeypatch, tmp_path, "caltech101_silhouettes", read, file)
    splits = made(params("caltech101_silhouettes"), tmp_path)
    assert (splits.scale, splits.binary, splits.shape) == (1, True, (1, 28, 28))
    for split, key in zip(SPLITS, counts, strict=True):
        np.testing.assert_array_equal(getattr(splits, split), images[key].reshape(-1, 784))
        np.testing.assert_array_equal(splits.labels[split], labels[key][:, 0].astype(int) - 1)


@pytest.mark.parametrize("key", ["data", "labels"])
def test_caltech_rejects(key, tmp_path):
    """A value other than 0 and 1, or a label beyond 101, is rejected."""
    content = {}
    for name in ("train", "val", "test"):
        content |= {f"{name}_data": np.zeros((2, 784)), f"{name}_labels": np.ones((2, 1))}
    content[f"val_{key}"][1, 0] = {"data": 0.5, "labels": 102}[key]
    savemat(tmp_path / "caltech101_silhouettes_28_split1.mat", content)
    with pytest.raises(InputError, match=f"val_{key} holds values"):
        readers.caltech101(tmp_path, params("caltech101_silhouettes"), train=2, valid=2, test=2)


def test_omniglot_rejects(tmp_path):
    """An intensity outside 0..1 is rejected."""
    savemat(tmp_path / "chardata.mat", {"data": np.full((784, 2), 1.5), "testdata": np.zeros((784, 2))})
    with pytest.raises(InputError, match=r"chardata\.mat: data holds values outside 0\.\.1"):
        readers.omniglot(tmp_path, params("omniglot"), train=2, test=2)


def archive(path, files):
    """Write a gzipped tar archive, its files in this order."""
    with tarfile.open(path, "w:gz") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def test_cifar10(tmp_path, monkeypatch):
    """Records of a label and three planes become images [channel, row, column] and labels, batch after batch."""
    rng = np.random.default_rng(0)
    records = rng.integers(0, 256, (3, 4, 3073), np.uint8)
    records[:, :, 0] = rng.integers(0, 10, (3, 4))
    names = [f"cifar-10-batches-bin/{name}.bin" for name in ("data_batch_2", "data_batch_1", "test_batch")]
    files = {"cifar-10-batches-bin/readme.html": b"<html>", "../data_batch_1.bin": records[2].tobytes()}
    archive(tmp_path / "cifar-10-binary.tar.gz", files | dict(zip(names, map(bytes, records), strict=True)))
    read = partial(readers.cifar10, batches=2, images=4)
    published = read(tmp_path, params("cifar10"))
    assert (published.shape, published.scale) == ((3, 32, 32), 255)
    for part, batches in {"train": [1, 0], "test": [2]}.items():
        expected = records[batches].reshape(-1, 3073)
        np.testing.assert_array_equal(published.parts[part].images, expected[:, 1:])
        np.testing.assert_array_equal(published.parts[part].labels, expected[:, 0])


@pytest.mark.parametrize("case", ["label", "short", "link", "missing", "cut", "page", "bomb"])
def test_cifar10_rejects(case, tmp_path):
    """A label beyond 9, a file of another size, a link, a missing file, a cut archive and a bomb are one line each."""
    path, record = tmp_path / "cifar-10-binary.tar.gz", bytes([10 if case == "label" else 9]) + bytes(3072)
    files = {"cifar-10-batches-bin/data_batch_1.bin": record, "cifar-10-batches-bin/test_batch.bin": record}
    if case == "missing":
        del files["cifar-10-batches-bin/test_batch.bin"]
    if case == "short":
        files["cifar-10-batches-bin/test_batch.bin"] = record[:-1]
    if case == "bomb":
        files = {"large": bytes(2**26)} | files
    archive(path, files)
    if case == "link":
        with tarfile.open(path, "w:gz") as tar:
            member = tarfile.TarInfo("cifar-10-batches-bin/data_batch_1.bin")
            member.type, member.linkname, member.size = tarfile.SYMTYPE, "/etc/passwd", 3073
            tar.addfile(member)
    if case == "cut":
        path.write_bytes(path.read_bytes()[:-30])
    if case == "page":
        path.write_bytes(b"<html>" * 100)
    with pytest.raises(InputError, match=r"^[^\n]*cifar-10-binary\.tar\.gz: [^\n]*$") as error:
        readers.cifar10(tmp_path, params("cifar10"), batches=1, images=1)
    assert {"label": "label 10", "bomb": "unpacks to more", "link": "3073 bytes"}.get(case, "") in str(error.value)
    assert [entry.name for entry in tmp_path.iterdir()] == [path.name]


def test_svhn(tmp_path):
    """Numbers [row, column, channel, image] become images [channel, row, column]; the label 10 is the digit 0."""
    rng = np.random.default_rng(0)
    images = {"train": rng.integers(0, 256, (32, 32, 3, 5), np.uint8), "test": np.zeros((32, 32, 3, 2), np.uint8)}
    for name, pixels in images.items():
        labels = np.arange(1, 1 + pixels.shape[3], dtype=np.uint8)[:, None] + (5 if name == "train" else 0)
        savemat(tmp_path / f"{name}_32x32.mat", {"X": pixels, "y": labels}, do_compression=True)
    published = readers.svhn(tmp_path, params("svhn"), train=5, test=2)
    train = published.parts["train"]
    assert (published.shape, published.scale, train.images.dtype) == ((3, 32, 32), 255, np.uint8)
    planes = train.images.reshape(5, 3, 32, 32)
    np.testing.assert_array_equal(planes[4, 1, 7], images["train"][7, :, 1, 4])
    assert train.labels.tolist() == [6, 7, 8, 9, 0]
    for wrong in ({"X": images["test"], "y": np.zeros((2, 1))}, {"X": images["test"] / 1.0, "y": np.ones((2, 1))}):
        savemat(tmp_path / "test_32x32.mat", wrong)
        with pytest.raises(InputError, match=r"^[^\n]*test_32x32\.mat: [^\n]*$"):
            readers.svhn(tmp_path, params("svhn"), train=5, test=2)


# --- protocols, and the published files where they are at hand


@pytest.mark.parametrize(
    ("name", "protocol", "counts", "sizes"),
    [
        ("mnist", "standard", {"train": 60000, "test": 10000}, (50000, 10000, 10000)),
        ("mnist", "auto", {"train": 60000, "test": 10000}, (50000, 10000, 10000)),
        ("mnist", "burda", {"train": 60000, "test": 10000}, (59600, 400, 10000)),
        ("fashion_mnist", "auto", {"train": 60000, "test": 10000}, (50000, 10000, 10000)),
        ("binarized_mnist", "auto", {"train": 50000, "valid": 10000, "test": 10000}, (50000, 10000, 10000)),
        ("omniglot", "auto", {"train": 24345, "test": 8070}, (23000, 1345, 8070)),
        ("caltech101_silhouettes", "auto", {"train": 4100, "valid": 2264, "test": 2307}, (4100, 2264, 2307)),
        ("frey_face", "auto", {"all": 1965}, (1565, 200, 200)),
        ("cifar10", "auto", {"train": 50000, "test": 10000}, (40000, 10000, 10000)),
        ("svhn", "auto", {"train": 73257, "test": 26032}, (63257, 10000, 26032)),
    ],
)
def test_sizes(name, protocol, counts, sizes):
    """Each protocol gives the published sizes, takes every image once, and shuffles only what was published unsplit."""
    parts = {part: Part(np.zeros((count, 1), np.uint8)) for part, count in counts.items()}
    choice = choose(params(name, protocol), parts)
    assert tuple(len(choice[split][1]) for split in SPLITS) == sizes
    taken = [(source, row) for source, rows in choice.values() for row in rows.tolist()]
    assert len(set(taken)) == len(taken) == sum(counts.values())
    drawn = name in ("omniglot", "frey_face")
    rows = np.concatenate([rows for source, rows in choice.values() if source in ("train", "all")])
    assert np.array_equal(rows, np.arange(len(rows))) != drawn


def real(name, tmp_path, monkeypatch, protocol="auto"):
    if not (FILES / name).is_dir():
        pytest.skip(f"no published files of {name}: CAVE_DATA_MIRROR names no folder that holds them")
    monkeypatch.setenv("CAVE_DATA_MIRROR", str(FILES))
    splits = made(params(name, protocol), tmp_path)
    same(splits, load(tmp_path / "data"))
    return splits


@pytest.mark.slow
@pytest.mark.parametrize(("protocol", "valid"), [("standard", 10000), ("burda", 400)])
def test_mnist(protocol, valid, tmp_path, monkeypatch):
    """MNIST's first training labels are 5 0 4 1 9, its first test label 7; its mean training intensity is 0.1307."""
    splits = real("mnist", tmp_path, monkeypatch, protocol)
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (60000 - valid, valid, 10000)
    assert splits.labels["train"][:5].tolist() == [5, 0, 4, 1, 9]
    assert splits.labels["test"][0] == 7
    assert splits.mean.mean() == pytest.approx(0.1307, abs=3e-4)
    assert splits.binary
    assert not splits.factors


@pytest.mark.slow
def test_fashion_mnist(tmp_path, monkeypatch):
    """Fashion-MNIST has 1,000 test images of each class; its mean training intensity is 0.286."""
    splits = real("fashion_mnist", tmp_path, monkeypatch)
    assert np.bincount(splits.labels["test"]).tolist() == [1000] * 10
    assert splits.mean.mean() == pytest.approx(0.286, abs=1e-3)


@pytest.mark.slow
def test_binarized_mnist(tmp_path, monkeypatch):
    """The published binarization is 0/1, unlabelled, and untouched by any other; about 13% of it is ink."""
    splits = real("binarized_mnist", tmp_path, monkeypatch)
    assert (len(splits.train), len(splits.valid), len(splits.test)) == (50000, 10000, 10000)
    assert (splits.scale, splits.binary, splits.labels, splits.protocol) == (1, True, {}, "static")
    published = read_amat(tmp_path / "raw" / "binarized_mnist_test.amat", 10000, 784)
    np.testing.assert_array_equal(splits.test, published)
    assert splits.mean.mean() == pytest.approx(0.13, abs=5e-3)


def test_frey_face(tmp_path, monkeypatch):
    """Frey's frames are 28x20; rows of a frame resemble their neighbours far more than rows of a wrong shape would."""
    splits = real("frey_face", tmp_path, monkeypatch)
    assert (splits.shape, len(splits.train), len(splits.valid), len(splits.test)) == ((1, 28, 20), 1565, 200, 200)
    frames = splits.train.astype(float)

    def roughness(height, width):
        return np.abs(np.diff(frames.reshape(-1, height, width), axis=1)).mean()

    assert roughness(28, 20) < 0.6 * roughness(20, 28)
