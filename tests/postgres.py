"""A real PostgreSQL of one's own: on a free port of 127.0.0.1, in a folder of its own, as an unprivileged user."""

from __future__ import annotations

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

__all__ = ["PASSWORD", "Postgres", "postgres", "programs"]

PASSWORD = "open-sesame/42"  # that must appear nowhere; in an address it is quoted


def programs() -> Path | None:
    """Return the folder with initdb and pg_ctl, or nothing where PostgreSQL's server is not installed."""
    programs_folder = shutil.which("initdb")
    folders = [Path(programs_folder).resolve().parent] if programs_folder else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if (folder / "pg_ctl").exists()), None)


class Postgres:
    """A server: started, stopped, and with a fresh database for whoever asks."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self.folder, self.programs = folder, programs
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.user: list[str] = []
        if os.getuid() == 0:  # which initdb refuses
            names = {entry.pw_name for entry in pwd.getpwall()}
            name = "postgres" if "postgres" in names else "nobody"
            shutil.chown(folder, name)
            self.user = ["runuser", "-u", name, "--"]
        secret = folder / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        where = ["--pgdata", str(folder / "data"), "--username", "cave", f"--pwfile={secret}"]
        self._run("initdb", *where, "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale", "--no-sync")

    def _run(self, program: str, *words: str) -> None:
        command = [*self.user, str(self.programs / program), *words]
        with (self.folder / "output").open("a") as log_file:
            subprocess.run(command, check=True, cwd=self.folder, stdout=log_file, stderr=log_file)

    def start(self) -> None:
        """Start the server and wait until it answers."""
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        log = str(self.folder / "log")
        self._run("pg_ctl", "start", "-w", "-D", str(self.folder / "data"), "-l", log, "-o", options)

    def stop(self) -> None:
        """Stop it at once, as a crash would."""
        self._run("pg_ctl", "stop", "-w", "-m", "immediate", "-D", str(self.folder / "data"))

    def url(self, database: str = "postgres") -> str:
        """Return the address of a database, password and all."""
        return f"postgresql://cave:{PASSWORD.replace('/', '%2F')}@127.0.0.1:{self.port}/{database}"

    def ask(self, query: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Return what a query finds."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(query.encode())
            return cursor.fetchall() if cursor.description else []

    def fresh(self) -> str:
        """Make an empty database, and return its address."""
        name = f"test_{uuid.uuid4().hex[:12]}"
        self.ask(f"create database {name}")
        return self.url(name)


@contextmanager
def serving() -> Iterator[Postgres]:
    """Start a server, and stop it whatever happens."""
    programs_folder = programs()
    if programs_folder is None:
        pytest.skip("PostgreSQL's server is not installed (Debian: apt install postgresql)")
    pytest.importorskip("psycopg", reason="psycopg is not installed (pip install 'platos-cave[postgres]')")
    folder = Path(tempfile.mkdtemp(prefix="cave-postgres-"))
    try:
        server = Postgres(folder, programs_folder)
        server.start()
        try:
            yield server
        finally:
            server.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    """Return a server for all tests of a process."""
    with serving() as server:
        yield server
