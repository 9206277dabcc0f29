"""Checking records that are not files, with the stores that are kept in memory."""

from __future__ import annotations

import asyncio

import pytest

from service.inspection import Inspection
from service.jobs.model import Job
from service.settings import Settings
from service.wiring import MemoryServices, build_in_memory
from tests.jobs import NOON, make_job


@pytest.fixture
def services(tmp_path):
    return build_in_memory(Settings.load(data_dir=tmp_path))


async def _receive(services: MemoryServices, job: Job, data: bytes) -> Job:
    upload = services.storage.receive(job.id)
    await upload.write(data)
    stored = await upload.digest()
    await upload.finish()
    await upload.close()
    return job.evolve(file=job.file.evolve(size=stored.size, sha256=stored.sha256))


def stored(services: MemoryServices, data: bytes = b"abc") -> Job:
    job = asyncio.run(_receive(services, make_job(), data))
    services.store.create(job)
    return job


def found(services: MemoryServices, **options: bool) -> list[tuple[str, str]]:
    return [(one.level, one.subject) for one in Inspection(services, **options).run()]


def test_all_is_well(services):
    stored(services)
    services.store.update(stored(services).id, lambda job: job.canceled(NOON))

    assert found(services, deep=True) == [("ok", "records")]


def test_what_cannot_be_read_is_named(services):
    good, bad = stored(services), stored(services)
    services.store.damage(bad.id, b"{")

    assert found(services) == [("fail", f"job {bad.id}"), ("fail", "records")]
    assert good.id not in str(found(services))


def test_bytes_that_are_gone_or_others_are_named(services):
    gone, other = stored(services), stored(services)
    services.storage.delete(gone.id)
    services.store.update(other.id, lambda job: job.evolve(file=job.file.evolve(sha256="00" * 32), version=2))

    assert found(services) == [("fail", f"job {gone.id}"), ("fail", "records")]
    assert sorted(found(services, deep=True)) == sorted(
        [("fail", f"job {gone.id}"), ("fail", f"job {other.id}"), ("fail", "records")]
    )


def test_a_job_that_would_not_run_is_put_where_it_belongs(services):
    job = stored(services)
    services.store._pending.clear()

    assert found(services) == [("fail", f"job {job.id}"), ("fail", "records")]
    assert found(services, repair=True) == [("warn", f"job {job.id}"), ("ok", "records")]
    assert services.store.pending() == [job.id]


def test_bytes_that_no_record_knows_are_named(services):
    job, unknown = stored(services), make_job()
    asyncio.run(_receive(services, unknown, b"abc"))

    (stranger, records) = found(services)

    assert stranger[0] == "fail"
    assert stranger[1].endswith(f"/{unknown.id}/")
    assert job.id not in stranger[1]
    assert records == ("fail", "records")
