"""A private PostgreSQL for tests, from Debian's binaries: one server for a test process, one database for whoever asks.

It listens on a free loopback port and on nothing else, in a temporary folder; started as root it runs as ``nobody``, as PostgreSQL
refuses to be root. It does not sync, which its tests do not need, and which the databases' users must ask for (INTAKE_DURABILITY).
"""

from __future__ import annotations

import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from tests.needs import need
from tests.private import PrivateServer, short_lived
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


class PostgresServer(PrivateServer):
    """One server; ``settings`` are lines of its configuration over those above. Not started yet."""

    def __init__(self, folder: Path, **settings: str) -> None:
        super().__init__(folder)
        self.port = find_free_port()
        self.databases: set[str] = set()  #: made by ``create_database``
        self._data = folder / "data"
        self.give_to_nobody()
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
        assert self.process is not None, "it does not run"
        return self.process.pid

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database of this server."""
        return f"postgresql://{USER}:{PASSWORD}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start it and return once it takes connections."""
        self.process = self.spawn([need("postgres"), "-D", str(self._data)])
        ready = [_program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        wait_until(
            lambda: self.process.poll() is not None or subprocess.run(ready, check=False).returncode == 0,
            60,
            "postgres",
        )
        assert self.process.poll() is None, self.log

    def stop(self) -> None:
        """End it as an operator does who does not wait for its clients."""
        if self.process is not None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(60)
            self.process = None

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

    def _run(self, name: str, *arguments: object) -> None:
        command = [_program(name), *map(str, arguments)]
        subprocess.run(command, check=True, capture_output=True, cwd=self.folder, timeout=120, **self.as_nobody)


def _program(name: str) -> str:
    """Return the path of a program that lies beside the server's own."""
    return str(Path(need("postgres")).resolve().with_name(name))


@contextmanager
def running(**settings: str) -> Iterator[PostgresServer]:
    """Run a server of its own, in a short-lived folder that ``nobody`` can reach."""
    need("postgres")
    with short_lived("pg") as folder:
        server = PostgresServer(folder, **settings)
        try:
            server.start()
            yield server
        finally:
            server.kill()
