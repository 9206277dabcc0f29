"""Jobs that are looked at again: what is remembered is never older than what the store would say."""

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.durable import Disk
from service.errors import NotFound
from service.jobs.file_store import FileJobStore
from service.jobs.model import Job
from service.looks import Looks
from tests.jobs import NOON, make_job

pytestmark = pytest.mark.anyio


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FileJobStore]:
    store = FileJobStore(tmp_path, disk=Disk(sync=False))
    yield store
    store.close()


@pytest.fixture
def looks(store: FileJobStore) -> Looks:
    async def in_thread(function: Callable[..., Any], *arguments: Any) -> Any:
        return await asyncio.to_thread(function, *arguments)

    return Looks(store, in_thread)


@pytest.fixture
def job(store: FileJobStore) -> Job:
    job = make_job()
    store.create(job)
    return job


async def test_a_job_that_has_not_changed_is_not_read_again(looks: Looks, job: Job) -> None:
    first = await looks.get(job.id)
    again = await asyncio.gather(*(looks.get(job.id) for _ in range(5)))

    assert first == job
    assert all(one is first for one in again)


async def test_each_change_is_seen_at_once(looks: Looks, store: FileJobStore, job: Job) -> None:
    await looks.get(job.id)
    changed, lease = store.claim(job.id, lambda job: job.claimed(NOON))
    claimed = await looks.get(job.id)
    assert lease is not None
    store.note(lease, changed.changed(labels={}))
    noted = await looks.get(job.id)
    lease.release()

    assert claimed == changed
    assert noted.version == changed.version + 1


async def test_a_job_that_is_gone_is_gone_for_those_who_knew_it_too(
    looks: Looks, store: FileJobStore, job: Job
) -> None:
    store.update(job.id, lambda job: job.canceled(NOON))
    await looks.get(job.id)
    store.delete(job.id, lambda _: None)

    for _ in range(2):
        with pytest.raises(NotFound):
            await looks.get(job.id)


async def test_one_that_fails_among_others_fails_alone(looks: Looks, store: FileJobStore, job: Job) -> None:
    other = make_job()
    store.create(other)
    for one in (job, other):
        await looks.get(one.id)
    store.update(other.id, lambda job: job.canceled(NOON))
    store.delete(other.id, lambda _: None)

    seen = await asyncio.gather(looks.get(job.id), looks.get(other.id), return_exceptions=True)

    assert seen[0] == job
    assert isinstance(seen[1], NotFound)


async def test_what_is_no_id_is_no_job(looks: Looks) -> None:
    with pytest.raises(NotFound):
        await looks.get("../../etc/passwd")
