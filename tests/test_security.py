"""Files, servers and patches of a stranger: no code of theirs runs, nothing leaves its folder, no password is shown.

What is tried elsewhere is not repeated here: servers that stall, lie or send too much (test_data_fetch.py), damaged
arrays, IDX bombs (test_data.py), broken YAML with its tags, cycles and bombs (test_params.py), damaged models
(test_checkpoint.py), runs that cannot be had again, patches with passwords (test_reproduce.py), torn logs
(test_publish.py), forms of addresses (test_errors.py).
"""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import urllib.request
import warnings
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote, quote_plus

import joblib
import numpy as np
import pytest
import sqlalchemy
import torch

from pipeline import data
from pipeline.data import DATASETS, download
from pipeline.data.formats import read_mat
from pipeline.errors import InputError
from pipeline.evaluation.saved_model import milestone_folders
from pipeline.files import read_json
from pipeline.jobs.final_models import settings
from pipeline.models import build, checkpoint
from pipeline.params import Params, read_yaml
from pipeline.processes.entry import run_main
from pipeline.redaction import one_line
from pipeline.report import inputs, table_text
from pipeline.report.milestones import milestones
from pipeline.reproduce import reproduce
from pipeline.run_folders import RunFolder, RunSpec
from pipeline.run_folders.provenance import dvc_hashes
from pipeline.stages import fetch, prepare
from pipeline.study import Study
from pipeline.tracking import Tracker
from pipeline.training import fit
from tests.small import ROOT, covering, model_params, splits, train_params
from tests.test_checkpoint import Planted
from tests.tracking_server import free_port
from tests.workshop import make_study
from tests.zygote import run

pytestmark = pytest.mark.slow

FILES = sorted((ROOT / "pipeline").rglob("*.py"))


def refusal(act: Callable[[], Any]) -> str:
    """Return the one line that an act is refused with."""
    with pytest.raises(InputError) as caught:
        act()
    message = str(caught.value)
    assert message.strip()
    assert len(message.splitlines()) == 1
    return message


@pytest.fixture(autouse=True)
def _no_store(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let no test see a store or a root of the one who runs it."""
    for name in ("MLFLOW_TRACKING_URI", "CAVE_OPTUNA_URL", "CAVE_DATA_MIRROR", "DVC_ROOT"):
        monkeypatch.delenv(name, raising=False)


# No code of a file runs.


def pickles(mark: Path) -> dict[str, bytes]:
    """Return files that write `mark` when what they hold is unpickled, by how they hold it."""
    planted = Planted(mark)
    array = np.array([planted], dtype=object)
    collected = {f"protocol {protocol}": pickle.dumps(planted, protocol) for protocol in (0, 2, 5)}
    writers: dict[str, Callable[[Any], Any]] = {
        "torch": partial(torch.save, planted),
        "old torch": lambda file: torch.save(planted, file, _use_new_zipfile_serialization=False),
        "joblib": partial(joblib.dump, planted),
        "npy": lambda file: np.save(file, array, allow_pickle=True),
        "npz": lambda file: np.savez(file, arr_0=array, train=array),
    }
    for name, write in writers.items():
        with io.BytesIO() as file:
            write(file)
            collected[name] = file.getvalue()
    header = json.dumps({"__metadata__": {"counters": collected["protocol 0"].decode("latin1")}}).encode()
    collected["safetensors"] = struct.pack("<Q", len(header)) + header
    return collected | {f"gzipped {name}": gzip.compress(collected[name], mtime=0) for name in ("protocol 5", "npy")}


def model_in(folder: Path) -> Any:
    model = build(model_params(), torch.full((16,), 0.5), (1, 4, 4))
    checkpoint.save_model(folder, model, model_params(), splits())
    return model


def prepared(folder: Path, **changes: Any) -> Study:
    """Return a study with its data."""
    study = make_study(folder, **changes)
    fetch.run(study)
    prepare.run(study)
    return study


def goes_on(folder: Path) -> None:
    model = build(model_params(), torch.full((16,), 0.5), (1, 4, 4))
    list(fit(model, splits(), train_params(), seed=0, folder=folder))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with everything that is read: data, models, the state of a training, a study's outputs."""
    root = tmp_path_factory.mktemp("project")
    study = prepared(root)
    for target_name in ("model", "model/epoch-2"):
        model_in(root / target_name)
    model = build(model_params(), torch.full((16,), 0.5), (1, 4, 4))
    training = fit(model, splits(), train_params(), seed=0, folder=root / "state")
    assert [next(training).epoch for _ in range(2)] == [1, 2]
    for target_name in ("sweep/mhvae", "report", "evaluate/vae", "train/vae/seed-0"):
        (study.out / target_name).mkdir(parents=True)
    (study.report / "table.md").touch()
    return root


def study_of(root: Path) -> Study:
    return Study.at(root)


def some(rows: list[Any]) -> list[Any]:
    """Refuse a table without rows, as of a search over nothing: it is read, and says nothing."""
    if not rows:
        raise InputError("no rows")
    return rows


# By the file's place in the project: what reads it.
READERS: dict[str, Callable[[Path], Any]] = {
    "model/model.safetensors": lambda root: checkpoint.load(root / "model"),
    "model/model.json": lambda root: checkpoint.load(root / "model"),
    "model/epoch-2/model.safetensors": lambda root: checkpoint.load(milestone_folders(root / "model")[2]),
    "model/epoch-2/model.json": lambda root: checkpoint.load(milestone_folders(root / "model")[2]),
    "state/state.safetensors": lambda root: goes_on(root / "state"),
    "state/log.jsonl": lambda root: goes_on(root / "state"),
    "params.yaml": study_of,
    "experiments/default/data/data.json": lambda root: data.load(root / "experiments/default/data"),
    "experiments/default/data/train.npy": lambda root: data.load(root / "experiments/default/data"),
    "experiments/default/data/labels_test.npy": lambda root: data.load(root / "experiments/default/data"),
    "experiments/default/data/factors_valid.npy": lambda root: data.load(root / "experiments/default/data"),
    "experiments/default/sweep/mhvae/best.json": lambda root: settings(study_of(root), "mhvae", 0),
    "experiments/default/train/vae/seed-0/curves.csv": lambda root: inputs.curves(study_of(root), "vae"),
    "experiments/default/sweep/mhvae/trials.csv": lambda root: some(inputs.trials(study_of(root), "mhvae")),
    "experiments/default/evaluate/vae/decomposition.json": lambda root: inputs.protocol(study_of(root), "vae"),
    "experiments/default/evaluate/vae/milestones.csv": lambda root: milestones(study_of(root)),
    "experiments/default/report/table.csv": lambda root: table_text(study_of(root)),
    "experiments/default/evaluate/vae/seed-0.json": lambda root: read_json(
        root / "experiments/default/evaluate/vae/seed-0.json", "final", "milestones"
    ),
    "dvc.lock": lambda root: dvc_hashes(root, root / "data"),
    "spec.json": lambda root: RunSpec.read(root / "spec.json"),
}


@pytest.mark.parametrize("target_name", READERS)
def test_a_pickle_in_the_place_of_any_file_is_refused(project: Path, target_name: str, tmp_path: Path) -> None:
    """Whatever file of a project is a pickle, in any wrapping, its reader says so in one line and does not run it."""
    mark, path = tmp_path / "mark", project / target_name
    before = path.read_bytes() if path.exists() else None
    try:
        for content in pickles(mark).values():
            path.write_bytes(content)
            refusal(lambda: READERS[target_name](project))
            assert not mark.exists()
    finally:
        if before is None:
            path.unlink()
        else:
            path.write_bytes(before)
    pickle.loads(pickles(mark)["protocol 0"])
    assert mark.read_text() == "executed"  # it would have


@pytest.mark.parametrize("name", [name for name, dataset in DATASETS.items() if dataset.remotes])
def test_a_pickle_in_the_place_of_a_published_file_is_refused(name: str, tmp_path: Path) -> None:
    """It has not the published checksum; and where it had, the format's reader refuses it by itself."""
    mark, dataset, raw = tmp_path / "mark", DATASETS[name], tmp_path / "raw"
    params = Params.read(ROOT / "params.yaml", {"data.name": name}).data
    raw.mkdir()
    for content in pickles(mark).values():
        for remote in dataset.remotes:
            (raw / remote.file).write_bytes(content)
        assert "fetch the data again" in refusal(lambda: data.prepare(params, raw, tmp_path / "data"))
        assert str(raw) in refusal(lambda: dataset.read(raw, params))
        assert not mark.exists()


def test_a_pickle_in_a_log_is_ignored(tmp_path: Path) -> None:
    """A line that is no entry is torn: it is cut off, with what stands behind it, and nothing runs."""
    mark, entry = tmp_path / "mark", b'{"type":"tags","tags":{}}\n'
    lines = [*pickles(mark).values(), b"[" * 100_000, b"9" * 100_000, b"{}", b'"type"', b'{"type":1}', b"\xff\x00"]
    for number, line in enumerate(lines):
        path = tmp_path / str(number) / "log.jsonl"
        path.parent.mkdir()
        path.write_bytes(entry + line + b"\n" + entry)
        folder = RunFolder.open(path.parent)
        assert folder.entries == [json.loads(entry)]
        assert path.read_bytes() == entry
        folder.release()
        assert not mark.exists()


DANGEROUS = """\
import pickle
from joblib import load
from torch import load as weights
import os, marshal as m
import torch; x = torch.load(p, weights_only=True)
import numpy as np; x = np.load(p)
import numpy; x = numpy.load(p, allow_pickle=True)
from ruamel.yaml import YAML
eval('1')
exec(code)
import subprocess; subprocess.run('ls', shell=True)
import os; os.system('ls')
import tarfile
import shutil; shutil.unpack_archive(a, b)
"""
ALLOWED = re.compile(r"allow_pickle=False|import YAML|import tarfile")


def lint(*words: str, code: str | None = None) -> list[int]:
    """Return the lines that the linter refuses, by the rules in pyproject.toml against running what is read."""
    command = [
        "ruff",
        "check",
        "--output-format",
        "json",
        "--select",
        "S,TID251",
        "--ignore",
        "S101,S108,S603,S606,S608",
    ]
    done = subprocess.run([*command, *words], cwd=ROOT, input=code, capture_output=True, text=True)
    return [row["location"]["row"] for row in json.loads(done.stdout)]


def test_no_module_can_run_what_it_reads() -> None:
    """Nothing is unpickled or evaluated, no shell called, no member of an archive written: the linter says so."""
    assert lint("pipeline") == []
    for line in (line for path in FILES for line in path.read_text().splitlines()):
        assert "TID251" not in line or ALLOWED.search(line), line
        assert "YAML(" not in line or re.search(r'YAML\((typ="(safe|rt)"|\))', line), (
            line
        )  # neither loader builds objects
        assert not re.search(r"(?<![.\w])(compile|__import__)\(|\.extract(all)?\(", line), line


def test_the_linter_finds_what_it_looks_for() -> None:
    """Each forbidden thing is found where it is put into a module."""
    refused = lint("--stdin-filename", "pipeline/module.py", "-", code=DANGEROUS)
    assert sorted(set(refused)) == list(range(1, DANGEROUS.count("\n") + 1))


def test_no_name_of_a_published_file_leads_elsewhere() -> None:
    """Files are published one by one, each under a plain name; members of an archive are read and never written."""
    for dataset in DATASETS.values():
        for remote in dataset.remotes:
            assert re.fullmatch(r"[\w-][\w.-]*", remote.file)
            assert re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{64}", remote.checksum)


# Sizes that are claimed are not believed.

ROOM = 2**28  # bytes of memory beyond what the process has
SECONDS = 10  # of CPU time


def bounded(act: Callable[[], Any]) -> str:
    """Return the one line that an act is refused with, in a process that gets little memory and time for it."""
    reading, writing = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of a fork where there are threads
        child = os.fork()
    if child == 0:
        os.close(reading)
        message = "nothing was refused"
        try:
            size = 2**10 * int(re.findall(r"VmData:\s+(\d+) kB", Path("/proc/self/status").read_text())[0])
            resource.setrlimit(resource.RLIMIT_DATA, (size + ROOM, size + ROOM))
            used = sum(resource.getrusage(resource.RUSAGE_SELF)[:2])
            resource.setrlimit(resource.RLIMIT_CPU, (int(used) + SECONDS, int(used) + SECONDS))
            act()
        except InputError as error:
            message = f"refused: {error}"
        except BaseException:
            message = traceback.format_exc()
        os.write(writing, message.encode()[:60_000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        message = pipe.read().decode()
    _, status = os.waitpid(child, 0)
    assert status == 0, f"ended by signal {status}"
    assert message.startswith("refused: "), message
    assert len(message.splitlines()) == 1
    return message


NESTED = b"[" * 100_000 + b"]" * 100_000
DEEP = b'{"format": 1, "trial": 1, "params": ' + b'{"a":' * 100_000 + b"1" + b"}" * 100_001
LONG = b'{"format": 1, "trial": ' + b"9" * 1_000_000 + b"}"
GIANTS = {"nested": NESTED, "deep": DEEP, "number": LONG, "sparse": None}


@covering("target_name, giant", [name for name in READERS if not name.endswith((".npy", "log.jsonl"))], list(GIANTS))
def test_a_giant_in_the_place_of_any_file_is_refused(project: Path, target_name: str, giant: str) -> None:
    """A hundred thousand brackets, a number of a million digits, and ten gigabytes are refused at once, in one line."""
    path, content = project / target_name, GIANTS[giant]
    before = path.read_bytes() if path.exists() else None
    try:
        path.write_bytes(content or b"")
        if content is None:
            os.truncate(path, 10 * 2**30)
        bounded(lambda: READERS[target_name](project))
    finally:
        path.unlink()
        if before is not None:
            path.write_bytes(before)


@pytest.mark.parametrize("line", [NESTED, DEEP, LONG], ids=["nested", "deep", "number"])
def test_a_giant_in_a_record_or_a_counter_is_refused(project: Path, line: bytes, tmp_path: Path) -> None:
    """A record, and the counters in a state's header, may be nested or long as they like: one line."""
    shutil.copytree(project / "state", tmp_path / "state")
    (tmp_path / "state" / "log.jsonl").write_bytes(line + b"\n")
    assert "not the state of this training" in bounded(lambda: goes_on(tmp_path / "state"))
    header = json.dumps({"__metadata__": {"counters": line.decode()}}).encode()
    (tmp_path / "state" / "state.safetensors").write_bytes(struct.pack("<Q", len(header)) + header)
    assert "not a safetensors file" in bounded(lambda: goes_on(tmp_path / "state"))


@pytest.mark.parametrize(
    "claim",
    [
        {"length": 2**40},
        {"length": 2**63},
        {"offsets": [0, 2**42], "shape": [2**40]},
        {"offsets": [0, 2**42], "shape": [1]},
        {"offsets": [0, 4], "shape": [2**62, 2**62]},
        {"offsets": [2**63, 2**63 + 4], "shape": [1]},
        {"offsets": [4, 0], "shape": [1]},
    ],
)
def test_a_header_that_claims_terabytes_is_refused(claim: dict[str, Any], tmp_path: Path) -> None:
    """A safetensors file holds what it says it holds, or is refused before anything is allocated."""
    entry = {"dtype": "F32", "shape": claim.get("shape", [1]), "data_offsets": claim.get("offsets", [0, 4])}
    header = json.dumps({"w": entry}).encode()
    path = tmp_path / "state.safetensors"
    path.write_bytes(struct.pack("<Q", claim.get("length", len(header))) + header + bytes(4))
    bounded(lambda: checkpoint.read_state(path))


@pytest.mark.parametrize(
    "claim",
    [
        {"units": 10**9},
        {"units": 10**30},
        {"units": -1},
        {"model.hidden": [[65536, 65536]]},
        {"model.z_dim": 65536, "model.z_ratio": 1.0, "model.depth": 64},
        {"model.prior": "mixture", "model.pseudo_inputs": 2**31 - 1},
        {"model.prior": "vamp", "model.pseudo_inputs": 2**31 - 1},
        {"model.network": "conv", "data.shape": [10**6, 10**6], "units": 10**12},
    ],
)
def test_a_description_of_a_giant_model_is_refused(claim: dict[str, Any], tmp_path: Path) -> None:
    """What `model.json` says is compared with the weights before a model of that size is made."""
    model_in(tmp_path)
    described = read_json(tmp_path / "model.json")
    for name, value in claim.items():
        section, _, key = name.rpartition(".")
        (described[section] if section else described)[key] = value
    (tmp_path / "model.json").write_text(json.dumps(described))
    assert "do not fit" in bounded(lambda: checkpoint.load(tmp_path))


def arrays() -> dict[str, bytes]:
    """Return files of arrays that claim, or unpack to, more than any memory."""
    collected = {}
    for name, shape in {"long": (10**12,), "wide": (2**40, 2**40), "negative": (-1,), "many": (1,) * 70}.items():
        with io.BytesIO() as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
            collected[name] = file.getvalue()
    with io.BytesIO() as file:
        np.savez_compressed(file, train=np.zeros(2**28, np.uint8))
        collected["bomb"] = file.getvalue()
    header = b"{'descr': '|u1', 'fortran_order': False, 'shape': " + b"(" * 60_000
    return collected | {"nested": b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header}


def test_an_array_that_claims_more_than_its_file_is_refused(project: Path, tmp_path: Path) -> None:
    """A header of terabytes, a zip that unpacks to more than there is, and a header of brackets are damage."""
    folder = tmp_path / "data"
    shutil.copytree(project / "experiments/default/data", folder)
    for content in arrays().values():
        (folder / "train.npy").write_bytes(content)
        assert "damaged" in bounded(lambda: data.load(folder))


def mat(claimed: int, true: int) -> bytes:
    """Return a MATLAB file with a packed matrix `ff` of 2 x 2, whose numbers claim, and unpack to, so many bytes."""

    def part(kind: int, content: bytes) -> bytes:
        return struct.pack("<II", kind, len(content)) + content + bytes(-len(content) % 8)

    body = (
        part(6, struct.pack("<II", 6, 0)) + part(5, struct.pack("<ii", 2, 2)) + struct.pack("<I4s", 2 << 16 | 1, b"ff")
    )
    start = struct.pack("<II", 14, len(body) + 8 + claimed) + body + struct.pack("<II", 9, claimed)
    packer = zlib.compressobj()
    packed = packer.compress(start) + b"".join(packer.compress(bytes(2**20)) for _ in range(true // 2**20))
    packed += packer.flush()
    return b"MATLAB 5.0".ljust(124) + b"\0\1IM" + struct.pack("<II", 15, len(packed)) + packed


@pytest.mark.parametrize(("claimed", "true"), [(2**29, 2**29), (32, 2**29), (2**32 - 512, 0), (2**31, 2**20)])
def test_a_matlab_bomb_is_refused(claimed: int, true: int, tmp_path: Path) -> None:
    """A matrix of four numbers that unpacks to half a gigabyte, or says so, is refused in little memory."""
    path = tmp_path / "frey_rawface.mat"
    path.write_bytes(mat(claimed, true))
    assert path.stat().st_size < 2**20
    with pytest.raises(InputError):  # its modules are loaded here, not in what is bounded
        read_mat(ROOT / "params.yaml", {"ff": (2, 2)})
    bounded(lambda: read_mat(path, {"ff": (2, 2)}))


@pytest.mark.parametrize(
    "content",
    [
        b"a: [" + b"0," * 500_000 + b"0]",
        b"a:\n" + b"- 0\n" * 250_000,
        b"".join(b"k%d: 1\n" % number for number in range(80_000)),
        b"a: " + b"x" * 2**21,
        b"# \n" * 2**20,
        b"a: &a [" + b"x, " * 9 + b"x]\n" + b"".join(b"b%d: &b%d [*a, *a]\n" % (n, n) for n in range(15_000)),
    ],
    ids=["flow", "block", "keys", "word", "comments", "anchors"],
)
def test_a_huge_params_file_is_refused_at_once(content: bytes, tmp_path: Path) -> None:
    """The parser is slow: what is longer than any parameters are is not given to it."""
    (tmp_path / "params.yaml").write_bytes(content)
    assert "params.yaml: not readable as YAML: " in bounded(lambda: read_yaml(tmp_path / "params.yaml"))


class Endless(threading.Thread):
    """A server that never ends its answer: a body that goes on, with the given headers before it."""

    def __init__(self, headers: bytes, piece: bytes) -> None:
        super().__init__(daemon=True)
        self.headers, self.piece, self.sent = headers, piece, 0
        self.listening = socket.create_server(("127.0.0.1", 0))
        self.address = f"http://127.0.0.1:{self.listening.getsockname()[1]}/file"

    def run(self) -> None:
        while True:
            try:
                near, _ = self.listening.accept()
            except OSError:
                return
            with near:
                try:
                    near.recv(65536)
                    near.sendall(b"HTTP/1.1 200 OK\r\n" + self.headers + b"\r\n")
                    while True:
                        near.sendall(self.piece)
                        self.sent += len(self.piece)
                except OSError:
                    pass


CHUNK = b"10000\r\n" + b"x" * 65536 + b"\r\n"


@pytest.mark.parametrize("length_sent", [True, False], ids=["size known", "size unknown"])
@pytest.mark.parametrize(
    ("headers", "piece"),
    [
        (b"", b"x" * 65536),
        (b"Content-Length: 1000\r\n", b"x" * 65536),
        (b"Content-Length: 99999999999999\r\n", b"x" * 65536),
        (b"Content-Length: -5\r\n", b"x" * 65536),
        (b"Transfer-Encoding: chunked\r\n", CHUNK),
        (b"Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n", CHUNK),
        (b"", b"X-A: " + b"x" * 60_000 + b"\r\n"),
    ],
    ids=["no length", "short", "long", "negative", "chunked", "packed", "headers"],
)
def test_a_server_that_never_ends_is_left(
    headers: bytes, piece: bytes, length_sent: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever length it gives, an answer without an end is cut at the file's size, and no trace of it is left."""
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.setattr(download, "RETRY_PAUSE", 0.0)
    monkeypatch.setattr(download, "MAX_BYTES", 2**20)
    if piece.startswith(b"X-A"):
        headers = piece  # which is followed by nothing but more of them
    server = Endless(headers, piece)
    server.start()
    remote = replace(
        DATASETS["frey_face"].remotes[0],
        addresses=(server.address,),
        bytes=2**20 if length_sent else None,
        sha256="0" * 64,
    )
    monkeypatch.setitem(DATASETS, "frey_face", replace(DATASETS["frey_face"], remotes=(remote,)))
    params = Params.read(ROOT / "params.yaml", {"data.name": "frey_face"}).data
    try:
        message = refusal(lambda: data.fetch(params, tmp_path / "raw", tmp_path / "cache"))
    finally:
        server.listening.close()
    assert "cannot be fetched" in message
    assert server.sent < 2**26  # what the system's buffers took
    assert [path for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


# Nothing leaves its folder.


def git(folder: Path, *words: str) -> str:
    command = ["git", "-c", "user.name=t", "-c", "user.email=t@t", *words]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def stored(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, str]:
    """Return a repository, a folder beside it, and a run in the store whose patch and settings a test may write."""
    from mlflow import MlflowClient

    top = tmp_path_factory.mktemp("stored")
    root, beside = top / "root", top / "beside"
    make_study(root)
    beside.mkdir()
    (beside / "kept.txt").write_text("kept\n")
    (root / "code.py").write_text("x = 1\n")
    (root / "away").symlink_to(beside)
    (root / "hooks").symlink_to(root / ".git" / "hooks")
    git(root, "init", "-q")
    git(root, "add", "code.py", "away", "hooks", "params.yaml")
    git(root, "commit", "-qm", "all")
    client = MlflowClient(f"sqlite:///{root / 'mlflow.db'}")
    experiment = client.create_experiment("e", (root / "mlartifacts").as_uri())
    commit = git(root, "rev-parse", "HEAD").strip()
    tags = {"stage": "train", "git_commit": commit, "patch": "whole", "variant": "vae", "study": "s", "seed": "0"}
    run = client.create_run(experiment, tags=tags).info.run_id
    client.log_metric(run, "train/elbo", 1.0, step=1)
    (root / "mlartifacts" / run / "artifacts" / "provenance").mkdir(parents=True)
    return root, beside, run


def new(path: str, content: str = "planted", mode: str = "100644") -> str:
    """Return the patch that makes a file."""
    return (
        f"diff --git a/{path} b/{path}\nnew file mode {mode}\n--- /dev/null\n+++ b/{path}\n"
        f"@@ -0,0 +1 @@\n+{content}\n" + ("\\ No newline at end of file\n" if mode == "120000" else "")
    )


def binary(root: Path) -> str:
    """Return the patch that makes the binary file `planted.bin`, as git writes it."""
    (root / "planted.bin").write_bytes(bytes(range(256)))
    git(root, "add", "planted.bin")
    patch = git(root, "diff", "--cached", "--binary")
    git(root, "rm", "-qf", "planted.bin")
    assert "GIT binary patch" in patch
    return patch


def patches(root: Path, beside: Path) -> dict[str, str]:
    """Return patches that would write outside of the worktree, by how they try to."""
    link = partial(new, mode="120000")
    out = "../" * 12 + str(beside).lstrip("/")
    return {
        "up": new("../planted"),
        "far up": new(f"{out}/planted"),
        "up inside": new("a/../../planted"),
        "dot": new("./../planted"),
        "absolute": f"--- /dev/null\n+++ b/{beside}/planted\n@@ -0,0 +1 @@\n+planted\n",
        "absolute git": new(f"{beside}/planted"),
        "hook": new(".git/hooks/post-checkout", mode="100755"),
        "configuration": new(".git/config"),
        "pointer": "--- a/.git\n+++ b/.git\n@@ -1 +1 @@\n-gitdir: x\n+planted\n",
        "hook below": new("below/.git/hooks/post-checkout"),
        "link": link("d", str(beside)) + new("d/planted"),
        "link up": link("d", out) + new("d/planted"),
        "link to hooks": link("d", str(root / ".git/hooks")) + new("d/post-checkout", mode="100755"),
        "two links": link("d", "e") + link("e", str(beside)) + new("d/planted"),
        "link that is there": new("away/planted"),
        "hooks that are there": new("hooks/post-checkout"),
        "changed through a link": "--- a/away/kept.txt\n+++ b/away/kept.txt\n@@ -1 +1 @@\n-kept\n+planted\n",
        "removed through a link": (
            "diff --git a/away/kept.txt b/away/kept.txt\ndeleted file mode 100644\n--- a/away/kept.txt\n+++ /dev/null\n"
            "@@ -1 +0,0 @@\n-kept\n"
        ),
        "moved out": (
            "diff --git a/code.py b/../planted\nsimilarity index 100%\nrename from code.py\nrename to ../planted\n"
        ),
        "moved through a link": (
            "diff --git a/code.py b/away/planted\nsimilarity index 100%\nrename from code.py\nrename to away/planted\n"
        ),
        "copied out": (
            "diff --git a/code.py b/.git/hooks/x\nsimilarity index 100%\ncopy from code.py\ncopy to .git/hooks/x\n"
        ),
        "quoted": new("planted").replace("b/planted", '"b/..\\057planted"'),
        "binary": binary(root).replace("planted.bin", "../planted.bin"),
    }


def seen(top: Path) -> dict[str, Any]:
    """Return all files in a folder but for the store's own and what git keeps of worktrees."""
    collected = {}
    for path in top.rglob("*"):
        name = str(path.relative_to(top))
        if "mlartifacts" in name or "mlflow.db" in name or "/.cache" in name or "worktrees" in name:
            continue
        collected[name] = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
    return collected


def test_a_patch_cannot_write_outside_its_worktree(
    stored: tuple[Path, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names that lead out, git's own files, and links that are written through are refused whole, in one line."""
    root, beside, run = stored
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    provenance = root / "mlartifacts" / run / "artifacts" / "provenance"
    (provenance / "spec.json").write_text('{"format": 1, "out": "."}')
    tried = patches(root, beside)
    before = seen(root.parent)
    for patch in tried.values():
        (provenance / "changes.patch").write_text(patch)
        assert "do not fit commit" in refusal(lambda: reproduce(root, run))
        assert seen(root.parent) == before
        assert list(tmp_path.iterdir()) == []
    (provenance / "changes.patch").write_bytes(b"x" * (2**20 + 1))
    assert "more than 1 MiB" in refusal(lambda: reproduce(root, run))


def test_provenance_that_is_none_is_refused(
    stored: tuple[Path, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pickles, brackets and lists in the place of what `cave reproduce` brings get one line and run nothing."""
    root, _, run = stored
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    provenance = root / "mlartifacts" / run / "artifacts" / "provenance"
    mark = tmp_path / "mark"
    for content in [*pickles(mark).values(), NESTED, LONG, b"[]", b'"out"', b"{}"]:
        (provenance / "spec.json").write_bytes(content)
        assert "spec.json: " in refusal(lambda: reproduce(root, run))
    (provenance / "spec.json").write_text('{"format": 1, "out": "."}')
    for content in [*pickles(mark).values(), NESTED, b""]:
        (provenance / "changes.patch").write_bytes(content)
        assert "do not fit commit" in refusal(lambda: reproduce(root, run))
    assert list(tmp_path.iterdir()) == []  # nor the mark


@pytest.mark.parametrize("name", ["spec.json", "changes.patch"])
@pytest.mark.parametrize("size_known", [True, False], ids=["size known", "size unknown"])
def test_large_provenance_is_not_brought(
    stored: tuple[Path, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, size_known: bool
) -> None:
    """A file larger than any that runs keep is refused unread, and one whose store lies about its size is not used."""
    from mlflow import MlflowClient
    from mlflow.entities import FileInfo

    root, _, run = stored
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    provenance = root / "mlartifacts" / run / "artifacts" / "provenance"
    (provenance / "spec.json").write_text('{"format": 1, "out": "."}')
    (provenance / "changes.patch").write_text(new("planted"))
    with (provenance / name).open("wb") as file:
        file.truncate(2**32)
    brought: list[str] = []
    real, listed = MlflowClient.download_artifacts, MlflowClient.list_artifacts

    def download(client: MlflowClient, run_id: str, path: str, folder: str) -> str:
        brought.append(path)
        return str(real(client, run_id, path, folder))

    def lying(client: MlflowClient, run_id: str, path: str) -> list[Any]:
        return [FileInfo(info.path, info.is_dir, 7) for info in listed(client, run_id, path)]

    monkeypatch.setattr(MlflowClient, "download_artifacts", download)
    if not size_known:
        with (provenance / name).open("wb") as file:
            file.truncate(2**23)
        monkeypatch.setattr(MlflowClient, "list_artifacts", lying)
    said = refusal(lambda: reproduce(root, run))
    (provenance / name).unlink()
    assert f"run {run}: its provenance/{name} is larger than 2 MiB" in said
    assert (f"provenance/{name}" in brought) != size_known
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["spec.json", "changes.patch"])
def test_a_folder_is_no_provenance(
    stored: tuple[Path, Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A folder in the place of a file, of whatever size, is not brought."""
    root, _, run = stored
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    provenance = root / "mlartifacts" / run / "artifacts" / "provenance"
    (provenance / "spec.json").write_text('{"format": 1, "out": "."}')
    (provenance / name).unlink(missing_ok=True)
    (provenance / name).mkdir()
    said = refusal(lambda: reproduce(root, run))
    (provenance / name).rmdir()
    assert f"its provenance/{name} is larger than 2 MiB" in said
    assert list(tmp_path.iterdir()) == []


def test_a_run_publishes_its_own_files_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lines that name a file outside, or do not say whose run it is, get one line, and no file is sent."""
    study = make_study(tmp_path / "project")
    secret = tmp_path / "secret.txt"
    secret.write_text("secret")
    tracker = Tracker(study).require()
    folder = study.runs / "planted"
    about = {
        "address": tracker.server.identity,
        "experiment": tracker.name,
        "note": "",
        "key": "k",
        "id": "1",
        "time": 1,
    }
    header = {"type": "run", **about, "name": "n", "tags": {"mlflow.note.content": ""}}
    start = {"type": "start", "time": 1, "address": tracker.server.identity, "origin": {}}
    result = {"type": "result", "name": "x", "digest": "1", "time": 1, "metrics": {}}
    (folder / "files").mkdir(parents=True)
    (folder / "files" / "link").symlink_to(secret)
    capsys.readouterr()

    def planted(*entries: object) -> str:
        (folder / "log.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
        assert Tracker(study).backlog.publish_all().remaining == 1
        (line,) = capsys.readouterr().err.splitlines()
        return str(line)

    for target_name in (str(secret), "../../../../secret.txt", "a/../../../../../secret.txt", "link", "../log.jsonl"):
        assert "names a file outside of it" in planted(header, start, result | {"files": [target_name]})
        assert "names a file outside of it" in planted(header | {"files": [target_name]}, start)
    for first in ({"type": "tags"}, {"type": "run"}, {**header, "experiment": []}, {**header, "other": 1}):
        assert "does not say whose run it is" in planted(first)
    (folder / "spec.json").symlink_to(secret)
    assert "names a file outside of it" in planted(header | {"files": ["provenance/spec.json"]}, start)
    assert [path for path in (study.shared_root / "mlartifacts").rglob("*") if path.is_file()] == []


# Nothing is offered to other machines.


def family(pid: int) -> set[int]:
    """Return a process and all that it has started."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(path.parent.name)] = int(path.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    collected = {pid}
    while more := {child for child, parent in parents.items() if parent in collected} - collected:
        collected |= more
    return collected


def listening(pids: set[int]) -> set[tuple[str, int]]:
    """Return the addresses, as the kernel writes them, and the ports at which processes listen."""
    inodes = set()
    for pid in pids:
        for link in Path(f"/proc/{pid}/fd").glob("*"):
            try:
                inodes |= set(re.findall(r"socket:\[(\d+)\]", os.readlink(link)))
            except OSError:
                continue
    collected = set()
    for table in ("tcp", "tcp6"):
        if (path := Path("/proc/net") / table).exists():
            for row in path.read_text().splitlines()[1:]:
                words = row.split()
                if words[3] == "0A" and words[9] in inodes:
                    address, _, port = words[1].partition(":")
                    collected.add((address, int(port, 16)))
    return collected


@pytest.mark.slow
def test_the_ui_is_served_to_this_machine_alone(tmp_path: Path) -> None:
    """All that `cave ui` and its children listen at is 127.0.0.1, whatever the environment says of a host."""
    make_study(tmp_path)
    (tmp_path / "pyproject.toml").touch()
    port = free_port()
    own = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    own |= {"PYTHONPATH": str(ROOT), "MLFLOW_HOST": "0.0.0.0", "MLFLOW_PORT": "1", "MLFLOW_UVICORN_OPTS": "--host ::"}
    own |= {"MLFLOW_GUNICORN_OPTS": "--bind 0.0.0.0:1", "HOST": "0.0.0.0"}
    with (tmp_path / "log.txt").open("wb") as log:
        words = [sys.executable, "-m", "pipeline", "ui", "--port", str(port)]
        process = subprocess.Popen(words, cwd=tmp_path, env=own, stdout=log, stderr=log, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5):
                    break
            except OSError:
                assert process.poll() is None, (tmp_path / "log.txt").read_text()
                assert time.monotonic() < deadline
                time.sleep(0.1)
        collected = listening(family(process.pid))
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    assert collected == {("0100007F", port)}


# No password is shown.

PASSWORDS = ["p@ss/w:rd", 'it\'s "quoted"', "a b  c+d", "100%25 sure?", "ünïcödé#key", "back\\slash\ttab", "x7"]


def addresses(word: str) -> dict[str, str]:
    """Return an address with this password, encoded as one does by hand, fully, or with plus signs."""
    forms = {"whole": quote(word, safe=""), "plus": quote_plus(word), "lower": quote(word, safe="").lower()}
    return {name: f"postgresql://me:{form}@127.0.0.1:9/db" for name, form in forms.items()}


def leaks(text: str, word: str) -> list[str]:
    """Return the forms of a password that stand in a text; one too short to mean anything, as an address holds it."""
    codes = {quote(word, safe=""), quote_plus(word), quote(word), quote(word, safe=" +")}
    forms = {word, repr(word)[1:-1], json.dumps(word)[1:-1]} | codes | {quote(word, safe="").lower()}
    if len(word) < 4:
        forms = {before + form + after for form in forms for before in ":=" for after in "@'\"\n&"}
    return [form for form in forms if form in text]


def fail(*shown: object) -> None:
    """Fail as libraries do: one error leads to another, the address in each, and notes beside them."""
    try:
        try:
            raise ValueError(shown[0])
        except ValueError:
            raise OSError(*map(str, shown))  # noqa: B904 (the context is to be shown)
    except OSError as error:
        error.add_note(f"while connecting to {shown[-1]}")
        group = ExceptionGroup("several", [error, RuntimeError(repr(shown))])
        raise KeyError(f"{shown!r}") from group


@pytest.mark.parametrize("name", ["CAVE_OPTUNA_URL", "MLFLOW_TRACKING_URI", "CAVE_DATA_MIRROR"])
@pytest.mark.parametrize("word", PASSWORDS)
def test_no_chain_of_errors_tells_a_password(
    word: str, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Causes, contexts, notes and groups, with the address as given, decoded or written anew, hold no password."""
    for address in addresses(word).values():
        monkeypatch.setenv(name, address)
        url = sqlalchemy.make_url(address)
        anew = url.render_as_string(hide_password=False)
        shown = [address, anew, {"password": f"={word}&"} if len(word) > 3 else url, json.dumps({"url": address})]
        with pytest.raises(SystemExit):
            run_main(partial(fail, *shown))
        message = capsys.readouterr().err
        assert "Traceback" in message
        assert leaks(message, word) == []
        assert leaks(str(InputError(f"{shown}")), word) == []
        assert leaks(one_line(f"at {anew}"), word) == []


@pytest.mark.slow
def test_no_sweep_writes_a_password(tmp_path: Path) -> None:
    """Sweeps that work and sweeps that fail leave no password in a line, a log, a tag, a database or an artifact."""
    folder = tmp_path / "project"
    small = {"sweep.trials": 1, "sweep.epochs": 1, "data.cave.images": 100, "train.seeds": [0]}
    study = prepared(folder, **small)
    store = f"sqlite:///file:{folder / 'mlflow.db'}?uri=true"
    printed: list[str] = []

    def sweep(code: int, **variables: str) -> None:
        program = run(folder, "pipeline.stages", "sweep", "vae", code=code, **variables)
        printed.append(program.stdout + program.stderr)

    for number, word in enumerate(PASSWORDS):
        if number not in (1, 6) and os.environ.get("CAVE_NIGHTLY") != "1":
            continue  # each of them is in the test above
        code = quote(word, safe="")
        secrets = {"MLFLOW_TRACKING_PASSWORD": word, "PGPASSWORD": word, "MLFLOW_TRACKING_TOKEN": word}
        own = {
            "MLFLOW_TRACKING_URI": f"{store}&password={code}",
            "CAVE_DATA_MIRROR": f"http://me:{code}@127.0.0.1:9",
        }
        for address in addresses(word).values() if number < 2 else [addresses(word)["whole"]]:
            sweep(2, **secrets, **own, CAVE_OPTUNA_URL=address)
        sweep(2, **secrets, **own, CAVE_OPTUNA_URL=f"mysql://me:{code}@127.0.0.1:9/db")
        gone = f"http://me:{code}@127.0.0.1:9/"
        sweep(2, **secrets, MLFLOW_TRACKING_URI=gone, CAVE_OPTUNA_URL=f"sqlite:///optuna-{number}.db")
        if number in (1, 6):
            sweep(0, **secrets, **own, CAVE_OPTUNA_URL=f"sqlite:///optuna-{number}.db")
    files = [path for path in folder.rglob("*") if path.is_file()]
    for name in ("mlflow.db", "optuna-1.db", "optuna-6.db", "experiments/default/sweep/vae/best.json"):
        assert folder / name in files
    assert any("mlartifacts" in str(path) for path in files)
    texts = {path: path.read_bytes().decode("utf-8", errors="replace") for path in files}
    texts[folder / "printed"] = "\n".join(printed)
    assert [(path, leak) for path, text in texts.items() for word in PASSWORDS for leak in leaks(text, word)] == []
    assert study.shared_root == folder
