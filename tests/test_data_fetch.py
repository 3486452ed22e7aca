"""Downloads: over HTTP on this machine, from a folder, and everything that goes wrong on the way."""

import errno
import gzip
import hashlib
import json
import os
import re
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pytest

from pipeline.data import DATASETS, Remote, download, fetch, prepare, transport
from pipeline.errors import InputError
from tests.small import data_params

CONTENT = np.random.default_rng(0).bytes(700_000)
FILE = "frey_rawface.mat"
PARAMS = data_params(name="frey_face")


class Handler(BaseHTTPRequestHandler):
    """Answer each path as the server's `answers` say: a list of (status, headers, body), the last one for good."""

    def do_GET(self):
        self.server.asked.append(self.path)
        answers = self.server.answers.get(self.path.split("?")[0], [(404, {}, b"none")])
        status, headers, body = answers.pop(0) if len(answers) > 1 else answers[0]
        self.send_response(status)
        for key, value in ({"Content-Length": str(len(body))} | headers).items():
            if value is not None:
                self.send_header(key, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words):
        pass


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setenv("NO_PROXY", "*")
    monkeypatch.delenv("CAVE_DATA_MIRROR", raising=False)
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.answers, server.asked = {}, []
        server.address = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def pauses(monkeypatch):
    """No test waits: what would be slept is listed."""
    slept = []
    monkeypatch.setattr(download.time, "sleep", slept.append)
    return slept


def publish(monkeypatch, addresses, content=CONTENT, size=True, kind="sha256", file=FILE):
    """Let the registry say that `content` is published at `addresses`."""
    checksum = {kind: hashlib.new(kind, content).hexdigest()}
    remote = Remote(file, tuple(addresses), len(content) if size else None, **checksum)
    monkeypatch.setitem(DATASETS, "frey_face", replace(DATASETS["frey_face"], remotes=(remote,)))
    return remote


def scene(folder):
    """Return the folder and the cache that fetches go to; the folder holds an old file."""
    raw = folder / "raw"
    raw.mkdir()
    (raw / FILE).write_bytes(b"old")
    return raw, folder / "cache"


def whole(raw, cache, remote):
    """Assert that the file is in both places, listed, and alone."""
    assert (raw / FILE).read_bytes() == CONTENT
    assert sorted(path.name for path in raw.iterdir()) == ["files.json", FILE]
    checksum = f"{remote.checksum_type}:{remote.checksum}"
    row = {"name": "frey_face", "file": FILE, "bytes": len(CONTENT), "checksum": checksum}
    assert json.loads((raw / "files.json").read_text()) == [row]
    cached = cache / "downloads" / remote.checksum
    assert [path.name for path in cached.iterdir()] == [FILE]
    assert (cached / FILE).samefile(raw / FILE)


def untouched(raw, cache):
    """Assert that the old file is there, and nothing else but locks."""
    assert [path.name for path in raw.iterdir()] == [FILE]
    assert (raw / FILE).read_bytes() == b"old"
    assert [path.name for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"] == []


def fails(raw, cache, *words, mirror=""):
    """Assert that the fetch fails in one line with these words, and leaves no trace."""
    with pytest.raises(InputError) as caught:
        fetch(PARAMS, raw, cache, mirror)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert re.search(word, message), message
    untouched(raw, cache)


@pytest.mark.parametrize(("size", "kind"), [(True, "sha256"), (False, "md5")])
def test_fetch(size, kind, server, tmp_path, monkeypatch, capfd):
    """A file comes over HTTP, takes the old one's place, is listed, and is not asked for again; one line says so."""
    server.answers["/a"] = [(200, {}, CONTENT)]
    remote = publish(monkeypatch, [server.address + "/a"], size=size, kind=kind)
    raw, cache = scene(tmp_path)
    (raw / "stale.gz").write_bytes(b"of another data set")
    fetch(PARAMS, raw, cache)
    whole(raw, cache, remote)
    assert capfd.readouterr().err == f"fetching frey_face/{FILE} from {server.address}/a\n"
    fetch(PARAMS, raw, cache)
    fetch(PARAMS, tmp_path / "other", cache)
    assert server.asked == ["/a"]
    whole(tmp_path / "other", cache, remote)
    assert capfd.readouterr().err == ""


def test_bar(server, tmp_path, monkeypatch, capfd):
    """On a terminal a bar names the file."""
    monkeypatch.setattr(transport.sys.stderr, "isatty", lambda: True)
    server.answers["/a"] = [(200, {}, CONTENT)]
    remote = publish(monkeypatch, [server.address + "/a"])
    raw, cache = scene(tmp_path)
    fetch(PARAMS, raw, cache)
    whole(raw, cache, remote)
    assert FILE in capfd.readouterr().err


@pytest.mark.parametrize(
    ("answer", "reason", "asked"),
    [
        ((404, {}, b"none"), "HTTP 404", 1),
        ((403, {}, b"no"), "HTTP 403", 1),
        ((503, {}, b"later"), "HTTP 503", 3),
        ((429, {}, b"later"), "HTTP 429", 3),
        ((200, {"Content-Length": "700000"}, CONTENT[:300_000]), "broke off", 3),
        ((200, {"Content-Length": None}, CONTENT[:300_000]), "300000 bytes instead of 700000", 3),
        ((200, {}, CONTENT[:-1] + bytes([CONTENT[-1] ^ 1])), "sha256 [0-9a-f]{64} instead of", 1),
        ((200, {"Content-Type": "text/html; charset=utf-8"}, b"sign in"), "an HTML page instead of the file", 1),
        ((200, {}, b"\n <!DOCTYPE html><title>sign in</title>"), "an HTML page instead of the file", 1),
        ((200, {}, CONTENT + b"more"), "more than 700000 bytes", 1),
        ((302, {"Location": "/b"}, b""), "not usable \\(TooManyRedirects\\)", None),
    ],
)
def test_fault_then_next_address(answer, reason, asked, server, tmp_path, monkeypatch, pauses):
    """Faults are reported for each address and leave no trace; what may pass is tried again; the next may do."""
    server.answers["/a"] = server.answers["/b"] = [answer]
    publish(monkeypatch, [server.address + "/a", server.address + "/b"])
    raw, cache = scene(tmp_path)
    fails(raw, cache, f"^frey_face: {FILE} cannot be fetched: http://[^ ]*/a: {reason}.*; http://[^ ]*/b: {reason}")
    if asked is not None:
        assert server.asked == ["/a"] * asked + ["/b"] * asked
        assert pauses == [1.0, 2.0][: asked - 1] * 2
    server.answers["/b"] = [(200, {}, CONTENT)]
    remote = publish(monkeypatch, [server.address + "/a", server.address + "/b"])
    fetch(PARAMS, raw, cache)
    whole(raw, cache, remote)


def test_retry(server, tmp_path, monkeypatch, pauses):
    """A server that is busy once is asked a second time."""
    server.answers["/a"] = [(503, {}, b"later"), (200, {}, CONTENT)]
    remote = publish(monkeypatch, [server.address + "/a"])
    raw, cache = scene(tmp_path)
    fetch(PARAMS, raw, cache)
    whole(raw, cache, remote)
    assert server.asked == ["/a", "/a"]
    assert pauses == [1.0]


def test_no_server(server, tmp_path, monkeypatch):
    """An address where nothing answers, and one that is none, are reported as such."""
    publish(monkeypatch, ["http://127.0.0.1:9/a", "http://[/a", "http:///a"])
    fails(*scene(tmp_path), "127.0.0.1:9/a: no connection; .*not usable.*not usable")


def test_timeout(server, tmp_path, monkeypatch, pauses):
    """A server that falls silent is left after the time-out."""
    monkeypatch.setattr(transport, "READ_TIMEOUT", 0.05)
    server.answers["/a"] = [(200, {}, b"")]
    done = threading.Event()
    finish = Handler.end_headers

    def silent(self):
        finish(self)
        self.wfile.flush()
        done.wait(10)

    monkeypatch.setattr(Handler, "end_headers", silent)
    server.answers["/a"] = [(200, {"Content-Length": "700000"}, b"")]
    publish(monkeypatch, [server.address + "/a"])
    try:
        fails(*scene(tmp_path), "/a: timed out")
    finally:
        done.set()
    assert pauses == [1.0, 2.0]


def test_unknown_size_is_capped(server, tmp_path, monkeypatch):
    """A file of unknown size may not exceed the absolute cap."""
    monkeypatch.setattr(download, "MAX_BYTES", 500_000)
    server.answers["/a"] = [(200, {}, CONTENT)]
    publish(monkeypatch, [server.address + "/a"], size=False)
    fails(*scene(tmp_path), "/a: more than 500000 bytes")


def test_interrupt(server, tmp_path, monkeypatch):
    """Ctrl-C in the middle of a download passes through, and leaves no trace."""
    server.answers["/a"] = [(200, {}, CONTENT)]
    publish(monkeypatch, [server.address + "/a"])
    raw, cache = scene(tmp_path)
    through = download.read_chunks

    def interrupted(address, most):
        yield next(through(address, most))
        raise KeyboardInterrupt

    monkeypatch.setattr(download, "read_chunks", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fetch(PARAMS, raw, cache)
    untouched(raw, cache)


@pytest.mark.parametrize("where", ["write", "fsync", "link"])
def test_full_disk(where, server, tmp_path, monkeypatch):
    """A full disk is reported as such, whatever the addresses; the old file stays."""
    server.answers["/a"] = [(200, {}, CONTENT)]
    publish(monkeypatch, [server.address + "/a", server.address + "/b"])
    raw, cache = scene(tmp_path)
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(*words):
        raise full

    if where == "write":
        opened = os.fdopen

        class Full:
            def __init__(self, handle, mode):
                self.file = opened(handle, mode)

            def __enter__(self):
                return self

            def __exit__(self, *error):
                self.file.close()

            write = fail

        monkeypatch.setattr("pipeline.files.os.fdopen", Full)
    elif where == "fsync":
        monkeypatch.setattr(download.os, "fsync", fail)
    else:
        monkeypatch.setattr(download.os, "link", fail)
        monkeypatch.setattr(download.shutil, "copyfile", fail)
    with pytest.raises(InputError, match=r"^[^\n]*: cannot be written: No space left on device$"):
        fetch(PARAMS, raw, cache)
    assert server.asked == ["/a"]
    assert [path.name for path in raw.iterdir()] == [FILE]
    assert (raw / FILE).read_bytes() == b"old"
    assert where == "link" or not list(cache.rglob("*frey*"))


def test_no_hard_links(server, tmp_path, monkeypatch):
    """Where the file system has no hard links the file is copied."""

    def fail(*words):
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))

    monkeypatch.setattr(download.os, "link", fail)
    server.answers["/a"] = [(200, {}, CONTENT)]
    publish(monkeypatch, [server.address + "/a"])
    raw, cache = scene(tmp_path)
    fetch(PARAMS, raw, cache)
    assert (raw / FILE).read_bytes() == CONTENT
    assert sorted(path.name for path in raw.iterdir()) == ["files.json", FILE]


def test_damaged_cache_is_mended(server, tmp_path, monkeypatch):
    """A file that was changed in the cache, and what a killed process left there, are replaced at the next fetch."""
    server.answers["/a"] = [(200, {}, CONTENT)]
    remote = publish(monkeypatch, [server.address + "/a"])
    raw, cache = scene(tmp_path)
    fetch(PARAMS, raw, cache)
    cached = cache / "downloads" / remote.checksum
    (cached / FILE).write_bytes(CONTENT[::-1])
    (cached / f".{FILE}.left").write_bytes(b"part")
    fetch(PARAMS, raw, cache)
    whole(raw, cache, remote)
    assert server.asked == ["/a", "/a"]


def test_prepare_verifies(server, tmp_path, monkeypatch):
    """`prepare` names a missing file, and one that is not the published one."""
    publish(monkeypatch, [])
    with pytest.raises(InputError, match=f"{FILE}: no such file or directory; fetch the data again"):
        prepare(PARAMS, tmp_path, tmp_path / "data")
    (tmp_path / FILE).write_bytes(CONTENT[:-1])
    with pytest.raises(InputError, match=f"{FILE}: is not the published file .699999 bytes instead of 700000."):
        prepare(PARAMS, tmp_path, tmp_path / "data")
    assert not (tmp_path / "data").exists()


# --- mirrors


def packed(level=9):
    return gzip.compress(CONTENT, level, mtime=0)


@pytest.mark.parametrize("web", [True, False])
@pytest.mark.parametrize("zipped", [True, False])
def test_mirror(web, zipped, server, tmp_path, monkeypatch):
    """A mirror, on the web or in a folder, is asked in place of the addresses; there a file may lie gzipped."""
    name, body = (f"{FILE}.gz", packed()) if zipped else (FILE, CONTENT)
    remote = publish(monkeypatch, [server.address + "/published"])
    if web:
        server.answers[f"/m/frey_face/{name}"] = [(200, {}, body)]
    else:
        (tmp_path / "mirror" / "frey_face").mkdir(parents=True)
        (tmp_path / "mirror" / "frey_face" / name).write_bytes(body)
    mirror = server.address + "/m/" if web else str(tmp_path / "mirror")
    raw, cache = scene(tmp_path)
    fetch(PARAMS, raw, cache, mirror)
    whole(raw, cache, remote)
    assert "/published" not in server.asked


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (gzip.compress(bytes(10**7), mtime=0), "unpacks to more than 700000 bytes"),
        (packed()[:-50_000], "a gzip file cut short"),
        (b"no gzip" * 100, "not a gzip file"),
        (gzip.compress(CONTENT[::-1], mtime=0), "sha256 .* instead of"),
        (packed() + bytes(100_000), "more than 765536 bytes"),
    ],
)
def test_gzipped_faults(body, reason, server, tmp_path, monkeypatch):
    """A bomb, a cut file, another format, other content and a long tail are no published file."""
    server.answers[f"/frey_face/{FILE}.gz"] = [(200, {}, body)]
    publish(monkeypatch, [server.address + "/published"])
    fails(*scene(tmp_path), f"{FILE}: HTTP 404; .*{FILE}.gz: {reason}", mirror=server.address)


def test_empty_mirror(server, tmp_path, monkeypatch):
    """A folder without the file is named, and no other address is asked."""
    publish(monkeypatch, [server.address + "/published"])
    reason = f"nowhere/frey_face/{FILE}: no such file or directory; .*{FILE}.gz: no such file"
    fails(*scene(tmp_path), reason, mirror=str(tmp_path / "nowhere"))
    assert server.asked == []


def test_secrets(server, tmp_path, monkeypatch, capfd):
    """User, password and query of an address are sent, and never shown."""
    address = server.address.replace("//", "//anna:geheim@") + "/a?token=geheim"
    publish(monkeypatch, [address, "http://anna:geheim@127.0.0.1:9/a?token=geheim#geheim"])
    raw, cache = scene(tmp_path)
    with pytest.raises(InputError) as caught:
        fetch(PARAMS, raw, cache)
    shown = str(caught.value) + "".join(capfd.readouterr())
    assert server.asked == ["/a?token=geheim"]
    assert "geheim" not in shown
    assert "anna" not in shown
    assert transport.without_secrets("https://anna:ge/he?im#geheim@host/a/b?token=geheim") == "https://host/a/b"


def test_local_sets_need_no_files(tmp_path, monkeypatch):
    """An embedded set only lists that it has no files, and clears away another's."""
    raw, cache = scene(tmp_path)
    fetch(PARAMS.model_copy(update={"name": "digits"}), raw, cache)
    assert [path.name for path in raw.iterdir()] == ["files.json"]
    assert json.loads((raw / "files.json").read_text()) == []
    assert not cache.exists()
