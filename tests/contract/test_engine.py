"""What every engine promises, run against each of them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from service.ids import new_id
from service.intake import Intake
from service.jobs.model import Job, JobStatus
from service.settings import Settings
from service.wiring import Services, build, build_in_memory
from tests.waiting import wait_until_async

pytestmark = pytest.mark.anyio


def local(root: Path) -> Services:
    return build(Settings.load(data_dir=root / "data", durability="none", min_free=0, drain="2s", slots=1))


def immediate(_: Path) -> Services:
    return build_in_memory()


ENGINES: dict[str, Callable[[Path], Services]] = {
    "local": local,
    "immediate": immediate,
}


@pytest.fixture(params=ENGINES)
async def services(request, tmp_path):
    services = ENGINES[request.param](tmp_path)
    yield services
    await services.engine.stop()
    services.close()


async def upload(services: Services) -> Job:
    async with Intake(services).receiving() as reception:
        reception.begin("note.txt", "text/plain")
        await reception.write(b"one two three\n")
        job, _ = await reception.finish()
    return job


async def test_a_started_engine_runs_what_it_is_notified_of_until_it_is_stopped(services):
    engine = services.engine

    async def is_well():
        return (await engine.health()).ok

    async def is_done():
        found = services.store.get(job.id)
        return found.done and found

    await engine.start()
    await wait_until_async(is_well)
    job = await upload(services)
    await engine.notify(job.id)
    done = await wait_until_async(is_done)
    await engine.stop()
    stopped = await engine.health()
    late = await upload(services)
    await engine.notify(late.id)

    assert (done.status, done.attempt) == (JobStatus.SUCCEEDED, 1)
    assert not stopped.ok
    assert stopped.detail
    assert services.store.get(late.id) == late
    assert services.store.pending() == [late.id]


async def test_notifying_never_raises(services):
    await services.engine.notify(new_id())
    await services.engine.notify("nonsense")
    await services.engine.stop()
    await services.engine.notify(new_id())


async def test_notifying_of_a_job_that_is_done_changes_nothing(services):
    job = await upload(services)
    canceled = await Intake(services).cancel(job.id)

    await services.engine.notify(job.id)

    assert services.store.get(job.id) == canceled
