"""What every engine promises, run against each of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from service.ids import new_id
from service.intake import Intake
from service.jobs.model import Job, JobStatus
from service.settings import Settings
from service.wiring import Services, build, build_in_memory
from tests.brokers import NEEDS, Broker, running
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
CELERY = [pytest.param(kind, marks=pytest.mark.needs(*needed)) for kind, needed in NEEDS.items() if kind == "redis"]


@pytest.fixture(scope="module")
def redis() -> Iterator[Broker]:
    with running("redis") as broker:
        yield broker


@contextmanager
def celery(root: Path, broker: Broker) -> Iterator[Services]:
    """Give the parts of an API, and a worker beside it; which of the two kinds of broker it is, is no matter here."""
    broker.empty()
    members = {
        "engine": "celery",
        "broker_url": broker.url,
        "data_shared": True,
        "poll": "30s",
    }  # no reconciler meanwhile
    settings = Settings.load(data_dir=root / "data", durability="none", min_free=0, drain="2s", slots=1, **members)
    services = build(settings)
    environment = {**os.environ, **settings.environment()}
    worker = subprocess.Popen([sys.executable, "-P", "-m", "service.cli", "worker"], env=environment)
    try:
        yield services
    finally:
        worker.terminate()
        worker.wait(30)


@pytest.fixture(params=[*ENGINES, *CELERY])
async def services(request, tmp_path):
    with ExitStack() as stack:
        if request.param in ENGINES:
            services = ENGINES[request.param](tmp_path)
        else:
            services = stack.enter_context(celery(tmp_path, request.getfixturevalue("redis")))
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
    await wait_until_async(is_well, 60)
    job = await upload(services)
    await engine.notify(job.id)
    done = await wait_until_async(is_done, 60)
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
