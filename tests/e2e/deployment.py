"""Deployments for tests: an API and what runs its jobs, on real and private servers; and jobs wherever their records are."""

from __future__ import annotations

import json
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import psycopg
import pytest

from service.testing import Server
from tests.brokers import NEEDS, Broker
from tests.e2e.rig import ENDS, get, kill, processes, serve, supervisor, worker
from tests.postgres import PostgresServer
from tests.s3 import S3Server
from tests.waiting import wait_until

LONG: Final = 90.0  #: seconds; a broker that comes back is asked again within half a minute


@dataclass(frozen=True)
class Kind:
    """What a deployment is made of."""

    broker: str | None = None  #: the engine is celery on it, or else local
    postgres: bool = False  #: records are in it, or else in files
    s3: bool = False  #: bytes are in a bucket, or else on the disk

    @property
    def shared(self) -> bool:
        """Whether its processes share a folder."""
        return not (self.postgres and self.s3)

    def __str__(self) -> str:
        engine = f"celery on {self.broker}" if self.broker else "local"
        records = "PostgreSQL" if self.postgres else "files"
        where = "a shared folder" if self.broker and self.shared else "a folder"
        return f"{engine}, records in {records}, bytes {'on S3' if self.s3 else f'in {where}'}"

    @property
    def needs(self) -> list[str]:
        """The programs of ``tests.needs`` that it takes."""
        return [*NEEDS.get(self.broker or "", ()), *(["postgres"] if self.postgres else [])]


class Deployment:
    """One service of a kind. With celery its worker is a process of its own, with a folder of its own where nothing is shared."""

    def __init__(self, kind: Kind, server: Server, stack: ExitStack, bucket: tuple[S3Server, str] | None) -> None:
        self.kind = kind
        self.server = server
        self.folders = [server.data_dir]
        self._stack = stack
        self._bucket = bucket
        self._own: dict[str, Any] = {}
        if kind.broker:
            if not kind.shared:
                self.folders.append(server.folder / "worker")
                self._own = {"data_dir": self.folders[1]}
            self._start_worker()
            wait_until(lambda: state(server) == "ok", LONG, "a worker")

    def _start_worker(self) -> None:
        self._worker = self._stack.enter_context(worker(self.server, **self._own))

    def kill_runner(self) -> None:
        """Kill what runs attempts, and have another in its place."""
        if self.kind.broker:
            kill(*processes(self.server).zygotes, self._worker.pid)
            self._worker.wait()
            self._start_worker()
        else:
            first = supervisor(self.server)
            kill(first)
            supervisor(self.server, other_than=first)

    def kept(self, job_id: str) -> list[str]:
        """Return the names of all that is kept of a job's bytes, wherever they are; without the record's own files."""
        folder = self.server.job_dir(job_id).relative_to(self.server.data_dir)
        if self._bucket:
            s3, name = self._bucket
            found = [key.partition(f"{folder.as_posix()}/")[2] for key in s3.keys(name) if job_id in key]
            assert not [path for one in self.folders for path in (one / folder).rglob("source")]
            return sorted(found)
        paths = [path for one in self.folders for path in (one / folder).rglob("*") if path.is_file()]
        return sorted(path.name if path.name == "source" else path.parent.name + "/" + path.name for path in paths)


def launch(
    kind: Kind,
    folder: Path,
    stack: ExitStack,
    *,
    broker: Broker | None = None,
    postgres: PostgresServer | None = None,
    s3: S3Server | None = None,
) -> Deployment:
    """Start a deployment of this kind; it ends with ``stack``."""
    settings: dict[str, Any] = {"durability": "none"}
    bucket = None
    if postgres:
        settings |= {"records": postgres.url(postgres.create_database("template")), "lease": "3s"}
    if s3:
        bucket = (s3, s3.create_bucket())
        settings |= {"storage": f"s3://{bucket[1]}/files?endpoint={s3.url}", "timeout": LONG}
    if broker:
        broker.empty()
        server = api(broker, folder, data_shared=kind.shared, **settings)
    else:
        server = serve(folder, **settings)
    return Deployment(kind, stack.enter_context(server), stack, bucket)


def on(kind: str) -> pytest.MarkDecorator:
    """Have a test run with one kind of broker alone."""
    return pytest.mark.parametrize("broker", [pytest.param(kind, marks=pytest.mark.needs(*NEEDS[kind]))], indirect=True)


def api(broker: Broker, folder: Path, **settings: Any) -> Server:
    """Return an API that is not started yet, with records in files that its workers share."""
    secret = folder / "broker"
    secret.write_text(f"{broker.url}\n")
    return serve(
        folder, engine="celery", broker_url_file=secret, **{"data_shared": True, "durability": "none"} | settings
    )


def document(server: Server, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = get(server, f"/v1/jobs/{job_id}").json()
    return found


def ended(server: Server, job_id: str, timeout: float = LONG) -> dict[str, Any]:
    """Wait for the end of a job and return its document, wherever its record is."""

    def look() -> dict[str, Any] | None:
        found = document(server, job_id)
        return found if found.get("status") in ENDS else None

    return wait_until(look, timeout, f"the end of {job_id}")


def state(server: Server) -> str:
    return str(get(server, "/readyz").json()["status"])


def succeeded(server: Server, *ids: str) -> None:
    """Wait until each of these jobs has succeeded, in one attempt."""
    for job_id in ids:
        found = ended(server, job_id)
        assert (found["status"], found["attempt"]) == ("succeeded", 1), found


def artifact_of(document: dict[str, Any]) -> str:
    """Return the address of the first artifact of a job."""
    return str(next(made["href"] for step in document["steps"] for made in step["artifacts"]))


def records(url: str) -> dict[str, dict[str, Any]]:
    """Return all records of a database by their ids."""
    with psycopg.connect(url) as connection:
        return {
            job_id: json.loads(record) for job_id, record in connection.execute("select id::text, record from jobs")
        }


def once(record: dict[str, Any]) -> None:
    """See that a job has succeeded once, and that no attempt was charged but that one: others have ended with their runner."""
    ends = Counter(attempt["reason"] for attempt in record["attempts"])
    assert record["status"] == "succeeded", record
    assert ends.pop("succeeded") == 1, record
    assert set(ends) <= {"lost", "interrupted"}, record
    assert record["max_attempts"] - record["attempt"] == 2, record
