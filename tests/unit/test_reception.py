"""Ends of an upload that no client sees: cancelled in its commit, closed on a failing disk, replayed from an unsure record."""

import asyncio
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from service.durable import Disk
from service.intake import Intake
from service.jobs.file_store import FileJobStore
from service.jobs.model import Job
from service.joint import Joint
from service.settings import Settings
from service.storage.local_upload import LocalUpload
from service.wiring import Services, build

pytestmark = pytest.mark.anyio


@pytest.fixture
def services(tmp_path: Path) -> Iterator[Services]:
    services = build(Settings.load(data_dir=tmp_path / "uploads", min_free="0"))
    yield services
    services.close()


async def upload(intake: Intake, key: str | None = None) -> Job:
    async with intake.receiving(key=key) as reception:
        reception.begin("a.txt", "text/plain")
        await reception.write(b"content")
        return (await reception.finish())[0]


async def test_an_upload_cancelled_in_its_commit_is_committed_whole(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    create_all = FileJobStore.create_all

    def slow(store: FileJobStore, jobs: Sequence[Job], joint: Joint) -> list[Exception | None]:
        loop.call_soon_threadsafe(began.set)
        asyncio.run_coroutine_threadsafe(go_on.wait(), loop).result(10)
        return create_all(store, jobs, joint)

    monkeypatch.setattr(FileJobStore, "create_all", slow)
    task = asyncio.create_task(upload(Intake(services)))
    await began.wait()

    task.cancel()
    await asyncio.sleep(0)
    go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await task

    (job_id,) = services.store.pending()
    with services.storage.source(services.store.get(job_id).id) as path:
        assert path.read_bytes() == b"content"
    assert not services.storage.is_receiving(job_id)
    assert list(services.storage.leftovers()) == []


async def test_a_job_that_is_committed_is_answered_even_if_its_upload_cannot_be_closed(
    services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    close = LocalUpload.close

    async def fail(self: LocalUpload) -> None:
        await close(self)
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(LocalUpload, "close", fail)

    job = await upload(Intake(services))

    assert services.store.get(job.id) == job


async def test_a_replay_is_as_durable_as_the_first_answer(services: Services, monkeypatch: pytest.MonkeyPatch) -> None:
    intake = Intake(services)
    job = await upload(intake, key="k")
    synced: list[Path] = []
    monkeypatch.setattr(Disk, "sync_folder", lambda self, folder: synced.append(folder))

    assert await upload(intake, key="k") == job

    assert services.store.folder(job.id) in synced


async def test_a_key_whose_job_was_deleted_is_free_again(services: Services) -> None:
    intake = Intake(services)
    job = await upload(intake, key="k")
    await intake.cancel(job.id)
    await intake.delete(job.id)

    again = await upload(intake, key="k")

    assert again.id != job.id
    assert services.store.pending() == [again.id]
