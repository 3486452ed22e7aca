"""Files are whole or absent, and a lock holds against other processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipeline.errors import InputError
from pipeline.files import file_lock, read_csv, read_json, sha256, write_bytes, write_csv, write_json, write_text
from tests.small import ROOT


def test_a_file_holds_what_was_written(tmp_path: Path) -> None:
    """Folders are made, the content is there to the byte, others may read it, and nothing else lies beside it."""
    path = tmp_path / "a" / "b" / "file"
    for content in (b"\x00\r\n\xff", b"", b"new"):
        write_bytes(path, content)
        assert path.read_bytes() == content
    assert path.stat().st_mode & 0o777 == 0o644
    assert os.listdir(path.parent) == ["file"]
    write_text(path, "Höhle\n")
    assert path.read_bytes() == "Höhle\n".encode()


@pytest.mark.parametrize("step", ["fsync", "chmod", "replace"])
@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt(), MemoryError()])
def test_an_error_in_the_middle_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, error: BaseException
) -> None:
    """Whatever step fails, and of what, the old file is whole and no temporary one is left."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    path = tmp_path / "file"
    write_bytes(path, b"old")
    with monkeypatch.context() as patch:
        patch.setattr(os, step, fail)
        expected: type[BaseException] = InputError if isinstance(error, OSError) else type(error)
        with pytest.raises(expected) as caught:
            write_bytes(path, b"new")
    if expected is InputError:
        assert str(caught.value) == f"{path}: cannot be written: No space left on device"
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_folder_that_cannot_be_is_told_in_one_line(tmp_path: Path) -> None:
    """Where a file stands in the way of the folder, the error is an `InputError` that names the path."""
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(InputError, match="cannot be written"):
        write_bytes(tmp_path / "file" / "below", b"new")


def test_a_path_that_is_a_folder_is_told_in_one_line(tmp_path: Path) -> None:
    """A folder is not replaced by a file, and no temporary file is left beside it."""
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="cannot be written"):
        write_bytes(tmp_path / "folder", b"new")
    assert os.listdir(tmp_path) == ["folder"]


def test_json_comes_back(tmp_path: Path) -> None:
    """What JSON can say is read as it was written; a tuple is a list."""
    write_json(tmp_path / "file.json", {"a": [1, 0.1, None, True, "ü"], "b": (1, 2)})
    assert read_json(tmp_path / "file.json") == {"a": [1, 0.1, None, True, "ü"], "b": [1, 2]}
    assert (tmp_path / "file.json").read_text().endswith("}\n")


@pytest.mark.parametrize("content", [b"{", b"", b"\xff\xfe", b"{'a': 1}"])
def test_broken_json_is_told_in_one_line(tmp_path: Path, content: bytes) -> None:
    """A file that is not JSON is an `InputError` of one line with its path."""
    (tmp_path / "file.json").write_bytes(content)
    with pytest.raises(InputError) as error:
        read_json(tmp_path / "file.json")
    assert str(error.value).startswith(f"{tmp_path / 'file.json'}: not readable as JSON")
    assert "\n" not in str(error.value)


def test_a_missing_file_is_told_in_one_line(tmp_path: Path) -> None:
    """A path that leads nowhere is an `InputError`, for JSON as for CSV."""
    for read in (read_json, read_csv):
        with pytest.raises(InputError, match=r"none: no such file$"):
            read(tmp_path / "none")


def test_columns_are_all_keys_in_the_order_of_their_first_use(tmp_path: Path) -> None:
    """A row without a key leaves its cell empty, cells with commas and breaks are quoted, rows come back."""
    write_csv(tmp_path / "file.csv", [{"b": 1, "a": 0.5}, {"c": "x,\ny", "a": None}])
    assert (tmp_path / "file.csv").read_bytes() == b'b,a,c\n1,0.5,\n,,"x,\ny"\n'
    assert read_csv(tmp_path / "file.csv") == [{"b": "1", "a": "0.5", "c": ""}, {"b": "", "a": "", "c": "x,\ny"}]


def test_numbers_survive_csv(tmp_path: Path) -> None:
    """A float read back from CSV is the same float."""
    values = [0.1 + 0.2, -1e-300, 123456789.123456789]
    write_csv(tmp_path / "file.csv", [{"value": value} for value in values])
    assert [float(row["value"]) for row in read_csv(tmp_path / "file.csv")] == values


def test_the_digest_is_of_the_parts_end_to_end() -> None:
    """How content is cut into parts does not change its sha256."""
    digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"  # of abc, FIPS 180-2
    assert sha256([b"abc"]) == sha256([b"a", b"", b"bc"]) == digest


TRY = """
import sys
from pathlib import Path
from pipeline.files import file_lock
try:
    with file_lock(Path(sys.argv[1]), 0.0):
        print("free")
except BlockingIOError:
    print("held")
"""
HOLD = """
import sys
from pathlib import Path
from pipeline.files import file_lock
with file_lock(Path(sys.argv[1])):
    print("mine", flush=True)
    sys.stdin.read()
"""


def elsewhere(path: Path) -> str:
    """Say what another process finds: the lock free or held."""
    command = [sys.executable, "-c", TRY, str(path)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout.strip()


def test_a_lock_keeps_another_process_out_until_it_is_given_back(tmp_path: Path) -> None:
    """Held here it is held there; after the block, also one left by an error, it is free."""
    path = tmp_path / "deep" / "lock"
    with file_lock(path):
        assert elsewhere(path) == "held"
    assert elsewhere(path) == "free"
    with pytest.raises(ValueError, match="out"), file_lock(path):
        raise ValueError("out")
    assert elsewhere(path) == "free"


def test_the_lock_of_a_killed_process_is_free(tmp_path: Path) -> None:
    """While a process holds the lock none other gets it; killed without warning, it leaves the lock free."""
    path = tmp_path / "lock"
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "mine\n"
        with pytest.raises(BlockingIOError), file_lock(path, 0.0):
            pass
        holder.kill()
        holder.wait()
    with file_lock(path, 0.0):
        assert elsewhere(path) == "held"


def test_a_value_that_json_cannot_say_writes_nothing(tmp_path: Path) -> None:
    """What cannot be written as JSON raises before the file is touched."""
    write_json(tmp_path / "file.json", [1])
    with pytest.raises(TypeError):
        write_json(tmp_path / "file.json", {"a": 3j})
    assert json.loads((tmp_path / "file.json").read_text()) == [1]
