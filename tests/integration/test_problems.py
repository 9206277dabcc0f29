"""Errors that need a broken disk or a broken service: made by test doubles at the ports, over the application in this process."""

from __future__ import annotations

import ast
import dataclasses
import errno
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import httpx
import pytest

import service
from service import errors, faults
from service.acceptance import Together
from service.api.problems import FRAMEWORK
from service.app import create_app
from service.clock import utc_now
from service.durable import Disk
from service.ids import new_id
from service.jobs.file_store import FileJobStore
from service.settings import Settings
from service.storage.local import LocalStorage
from service.storage.local_upload import LocalUpload
from service.wiring import Services, build
from tests.integration.api import accepted, problem

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from service.jobs.model import Job
    from service.joint import Joint

pytestmark = pytest.mark.anyio

#: Codes no client can get, and why.
UNREACHABLE = {
    "configuration-error": "the service does not start",
    "stale-attempt": "it is between two supervisors",
    "client-closed-request": "nobody is left to read it",
    "records-unavailable": "the records are files here; tests/e2e/test_postgres_records.py gets it",
    "conflict": "each conflict there is has a finer code",
    "forbidden": "each refusal there is has a finer code",
    "too-many-requests": "each quota and rate has a finer code",
    "unavailable": "each reason there is has a finer code",
    "request-refused": "the framework refuses with 404 and 405 alone",
}


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    made = build(Settings(data_dir=tmp_path / "uploads", durability="none"))
    yield made
    made.close()


@pytest.fixture
def armed() -> Iterator[Any]:
    yield faults.arm
    faults.arm("")


def over(services: Services, **parts: Any) -> httpx.AsyncClient:
    """Return a client of an application with some of its parts replaced."""
    services = dataclasses.replace(services, **parts)
    store, storage = cast("FileJobStore", services.store), cast("LocalStorage", services.storage)
    app = create_app(services=dataclasses.replace(services, together=Together(store, storage)))
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://localhost")


@pytest.fixture
async def http(services: Services) -> AsyncIterator[httpx.AsyncClient]:
    async with over(services) as client:
        yield client


def left(services: Services) -> list[str]:
    """Return what lies in the folders of uploads, markers and jobs."""
    root = services.settings.data_dir
    return [
        str(path) for name in ("incoming", "pending", "jobs") for path in (root / name).rglob("*") if path.is_file()
    ]


async def test_an_unexpected_error_is_a_500_with_its_request_id_and_nothing_else(
    services: Services, capfd: pytest.CaptureFixture[str]
):
    class Broken(FileJobStore):
        def get(self, job_id: str) -> Job:
            raise RuntimeError(f"a secret about {job_id}")

    async with over(services, store=Broken(services.settings.data_dir)) as http:
        answer = await http.get(f"/v1/jobs/{new_id(utc_now())}", headers={"X-Request-ID": "my-request"})
    found = problem(answer, 500, "internal-error")
    assert set(found) == {"type", "title", "status", "code", "detail", "hint", "request_id"}
    assert found["request_id"] == "my-request"
    assert "secret" not in answer.text


async def test_an_unexpected_error_within_an_upload_leaves_nothing(services: Services):
    class Broken(FileJobStore):
        def create_all(self, jobs: Sequence[Job], joint: Joint) -> list[Exception | None]:
            raise RuntimeError("a secret")

    async with over(services, store=Broken(services.settings.data_dir)) as http:
        problem(await http.post("/v1/jobs", content=b"one"), 500, "internal-error")
    assert left(services) == []


async def test_a_bell_that_breaks_takes_no_202_back(services: Services):
    class Broken:
        async def notify(self, job_id: str) -> None:
            raise RuntimeError("a secret")

    async with over(services, engine=Broken()) as http:
        job = accepted(await http.post("/v1/jobs", content=b"one"))
        assert (await http.get(job["links"]["self"])).status_code == 200
    assert services.store.pending() == [job["id"]]


@pytest.mark.parametrize("point", ["accept.received", "accept.stored", "accept.marked", "record.sync"])
@pytest.mark.parametrize(
    ("action", "status", "code", "patience"),
    [("fail", 507, "storage-full", "60"), ("eio", 503, "storage-unavailable", "30")],
)
async def test_a_disk_that_fails_before_the_commit_keeps_nothing(
    services: Services,
    http: httpx.AsyncClient,
    armed: Any,
    point: str,
    action: str,
    status: int,
    code: str,
    patience: str,
):
    armed(f"{point}={action}")
    headers = {"Idempotency-Key": "again"}
    answer = await http.post("/v1/jobs", content=b"one", headers=headers)
    problem(answer, status, code)
    assert answer.headers["Retry-After"] == patience
    assert left(services) == []
    armed("")
    accepted(await http.post("/v1/jobs", content=b"one", headers=headers))


async def test_a_disk_that_fails_after_the_commit_takes_nothing_back(services: Services):
    class Failing(Disk):
        armed = True

        def sync_folder(self, folder: Path) -> None:
            if self.armed and (folder / "job.json").exists():
                raise OSError(errno.EIO, "the folder cannot be synced")

    disk = Failing()
    store = FileJobStore(services.settings.data_dir, disk=disk)
    headers = {"Idempotency-Key": "again"}
    storage = LocalStorage(services.settings.data_dir, disk=disk)
    async with over(services, store=store, storage=storage) as http:
        answer = await http.post("/v1/jobs?filename=a.txt", content=b"one", headers=headers)
        found = problem(answer, 503, "outcome-unknown")
        assert answer.headers["Retry-After"] == "5"
        assert "Idempotency-Key" in found["hint"]
        disk.armed = False
        [made] = (await http.get("/v1/jobs")).json()["items"]
        again = await http.post("/v1/jobs?filename=a.txt", content=b"one", headers=headers)
        assert accepted(again, replayed=True)["id"] == made["id"]
        assert (await http.get(made["links"]["source"])).content == b"one"
    assert store.pending() == [made["id"]]
    store.close()


async def test_a_disk_that_fills_up_within_an_upload_keeps_nothing(services: Services):
    class Shrinking(LocalStorage):
        looks = 0

        def free(self) -> int:
            self.looks += 1
            return 10**9 if self.looks < 3 else 1000

    storage = Shrinking(services.settings.data_dir)
    async with over(services, storage=storage) as http:
        pieces = (bytes(2**20) for _ in range(8))
        answer = await http.post("/v1/jobs", content=_slowly(pieces))
    problem(answer, 507, "storage-full")
    assert storage.looks >= 3
    assert left(services) == []


async def _slowly(pieces: Iterator[bytes]) -> AsyncIterator[bytes]:
    for piece in pieces:
        yield piece


async def test_a_file_larger_than_the_file_system_takes_is_too_large(services: Services):
    class Upload(LocalUpload):
        async def write(self, data: bytes) -> None:
            raise OSError(errno.EFBIG, "File too large")

    class Small(LocalStorage):
        def receive(self, job_id: str) -> LocalUpload:
            return Upload(self, job_id)

    async with over(services, storage=Small(services.settings.data_dir)) as http:
        problem(await http.post("/v1/jobs", content=b"one"), 413, "file-too-large")
    assert left(services) == []


def _codes() -> set[str]:
    """Return every code that the service writes into a problem document, read from its source."""
    kinds, found = [errors.IntakeError], set(FRAMEWORK.values())
    while kinds:
        kind = kinds.pop()
        kinds += kind.__subclasses__()
        found.add(kind.code)
    root = Path(service.__file__).parent
    for path in [
        *root.glob("*.py"),
        *(path for part in ("api", "jobs", "storage") for path in (root / part).glob("*.py")),
    ]:
        found |= set(re.findall(r'\bcode="([a-z-]+)"', path.read_text(encoding="utf-8")))
        found |= set(re.findall(r'FRAMEWORK\.get\(\w+\.\w+, "([a-z-]+)"\)', path.read_text(encoding="utf-8")))
    return found


def _expected() -> set[str]:
    """Return every text that a test of this folder compares with, among them the codes."""
    found: set[str] = set()
    for path in Path(__file__).parent.glob("test_*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        kept = [
            node
            for node in tree.body
            if not (isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "UNREACHABLE")
        ]
        found |= {
            node.value
            for part in kept
            for node in ast.walk(part)
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
    return found


def test_every_code_that_a_client_can_get_is_got_by_a_test():
    codes, expected = _codes(), _expected()
    assert len(codes) > 30
    assert codes - expected - set(UNREACHABLE) == set()
    assert set(UNREACHABLE) <= codes
