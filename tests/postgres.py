"""A private PostgreSQL for tests, from Debian's binaries: one server for a test process, one database for whoever asks.

It listens on a free loopback port and on nothing else, in a temporary folder; started as root it runs as ``nobody``, as PostgreSQL
refuses to be root. It does not sync, which its tests do not need, and which the databases' users must ask for (INTAKE_DURABILITY).
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

import psutil

from tests.needs import need
from tests.waiting import find_free_port, wait_until

USER: Final = "intake"
PASSWORD: Final = "pg-s3cret"  #: required by the server; tests look for it where it must not be
_SETTINGS: Final = {
    "fsync": "off",
    "full_page_writes": "off",
    "max_connections": "100",
    "shared_buffers": "32MB",
    "unix_socket_directories": "",
    "listen_addresses": "127.0.0.1",
    "autovacuum": "off",
    "jit": "off",
}


class PostgresServer:
    """One server; ``settings`` are lines of its configuration over those above. Not started yet."""

    def __init__(self, folder: Path, **settings: str) -> None:
        need("postgres")
        self.folder = folder
        self.port = find_free_port()
        self.databases: set[str] = set()  #: made by ``create_database``
        self._data = folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self._as: dict[str, Any] = {}
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self._as = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            os.chown(folder, nobody.pw_uid, nobody.pw_gid)
        password = folder / "password"
        password.write_text(PASSWORD)
        password.chmod(0o644)
        self._run(
            "initdb",
            "-D",
            self._data,
            "-U",
            USER,
            "-A",
            "scram-sha-256",
            "--pwfile",
            password,
            "-N",
            "-E",
            "UTF8",
            "--locale=C",
        )
        lines = [f"{name} = '{value}'\n" for name, value in (_SETTINGS | settings | {"port": str(self.port)}).items()]
        with (self._data / "postgresql.conf").open("a") as conf:
            conf.writelines(lines)

    @property
    def pid(self) -> int:
        """The process id of the server, while it runs."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database of this server."""
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it and return once it takes connections."""
        with (self.folder / "postgres.log").open("ab") as log:
            command = [need("postgres"), "-D", str(self._data)]
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                **self._as,
            )
        ready = [_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        wait_until(
            lambda: self._process.poll() is not None or subprocess.run(ready, check=False).returncode == 0,
            60,
            "postgres",
        )
        assert self._process.poll() is None, (self.folder / "postgres.log").read_text()

    def stop(self) -> None:
        """End it as an operator does who does not wait for its clients."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """End all its processes at once (SIGKILL), as a power cut would."""
        if self._process is not None:
            with suppress(psutil.NoSuchProcess):
                for process in [
                    psutil.Process(self._process.pid),
                    *psutil.Process(self._process.pid).children(recursive=True),
                ]:
                    with suppress(psutil.NoSuchProcess):
                        process.suspend()
                        process.kill()
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Stop and start it: every connection breaks."""
        self.stop()
        self.start()

    def create_database(self, template: str = "template1", *, name: str | None = None) -> str:
        """Make a database and return its name."""
        name = name or f"t{uuid.uuid4().hex}"
        self.sql(f"create database {name} template {template}")
        self.databases.add(name)
        return name

    def sql(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """Run a statement as the server's superuser."""
        import psycopg

        with psycopg.connect(self.url(database), autocommit=True) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def _end(self, number: signal.Signals) -> None:
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.send_signal(number)
            self._process.wait(60)
            self._process = None

    def _run(self, name: str, *arguments: object) -> None:
        command = [_program(name), *map(str, arguments)]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, timeout=120, **self._as)


def _program(name: str) -> str:
    """Return the path of a program that lies beside the server's own."""
    return str(Path(need("postgres")).resolve().with_name(name))


@contextmanager
def running(**settings: str) -> Iterator[PostgresServer]:
    """Run a server of its own, in a short-lived folder that ``nobody`` can reach."""
    need("postgres")
    folder = Path(tempfile.mkdtemp(prefix="intake-pg-"))
    folder.chmod(0o755)
    server = PostgresServer(folder, **settings)
    try:
        server.start()
        yield server
    finally:
        server.kill()
        shutil.rmtree(folder, ignore_errors=True)
