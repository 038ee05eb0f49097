"""A PostgreSQL of the tests' own: a throw-away cluster on a port of this machine, to be ended and started at will."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import count
from pathlib import Path

import pytest

PASSWORD = "open-sesame"  # told nowhere: tests look for it in what is printed
_USERS = ("postgres", "nobody")  # PostgreSQL refuses to run as root


class Cluster:
    """A server, with a fresh database for whoever asks."""

    def __init__(self, programs: Path, folder: Path, port: int, user: Sequence[str]) -> None:
        self._programs, self._user, self._numbers = programs, user, count()
        self._folder, self.port = folder, port

    def make(self) -> None:
        """Make the cluster's files, and start it."""
        password = self._folder / "password"
        password.write_text(PASSWORD)
        if self._user:
            for path in (self._folder, password):
                shutil.chown(path, self._user[2])
        ways = ["--username=lycia", f"--pwfile={password}", "--auth=scram-sha-256", "--encoding=UTF8", "--no-locale"]
        self._run("initdb", "-D", str(self._data), "--no-sync", *ways)
        with (self._data / "postgresql.conf").open("a") as settings:
            settings.write(
                f"listen_addresses = '127.0.0.1'\nport = {self.port}\nunix_socket_directories = ''\n"
                "fsync = off\nmax_connections = 60\nshared_buffers = 16MB\n"
            )
        self.start()

    def start(self) -> None:
        """Start the server; returns when it answers."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "-t", "60", "-l", str(self._folder / "log"), "start")

    def stop(self, how: str = "fast") -> None:
        """End the server: "immediate" is as if its machine had crashed, but for what the system has not yet written."""
        self._run("pg_ctl", "-D", str(self._data), "-w", "-t", "60", "-m", how, "stop")

    def fresh(self) -> str:
        """The URL of a database with nothing in it."""
        name = f"test_{next(self._numbers)}"
        self.ask(f"CREATE DATABASE {name}")
        return self.url(name)

    def url(self, database: str) -> str:
        """The URL of a database."""
        return f"postgresql://lycia:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def ask(self, question: str, url: str | None = None) -> list[tuple[object, ...]]:
        """What another program is answered."""
        import psycopg

        with psycopg.connect(url or self.url("postgres"), autocommit=True) as connection:
            asked = connection.execute(question)
            return asked.fetchall() if asked.description else []

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._user, str(self._programs / program), *arguments]
        # Its output goes to a file: the server that pg_ctl leaves behind would keep a pipe open.
        with tempfile.TemporaryFile() as said:
            done = subprocess.run(
                command, cwd=self._folder, stdin=subprocess.DEVNULL, stdout=said, stderr=said, check=False
            )
            said.seek(0)
            assert done.returncode == 0, said.read().decode()


@contextmanager
def cluster() -> Iterator[Cluster]:
    """A server that is ended with the block; the test is skipped where there is no PostgreSQL."""
    pytest.importorskip("psycopg", reason="psycopg is not installed")
    programs, user = _programs(), _user()
    folder = Path(tempfile.mkdtemp(prefix="lycia-postgres-"))
    server = Cluster(programs, folder, _free_port(), user)
    try:
        server.make()
        yield server
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            server.stop("immediate")
        shutil.rmtree(folder, ignore_errors=True)


def _programs() -> Path:
    found = shutil.which("initdb")
    places = (
        [Path(found).resolve().parent] if found else sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    )
    for place in places:
        if (place / "initdb").exists() and (place / "pg_ctl").exists():
            return place
    pytest.skip("there is no PostgreSQL on this machine")


def _user() -> Sequence[str]:
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return ()
    import pwd

    for name in _USERS:
        try:
            pwd.getpwnam(name)
        except KeyError:
            continue
        if shutil.which("runuser"):
            return ("runuser", "-u", name, "--")
    pytest.skip("PostgreSQL does not run as root, and there is no other user to run it as")


def _free_port() -> int:
    with socket.socket() as finder:
        finder.bind(("127.0.0.1", 0))
        return int(finder.getsockname()[1])
