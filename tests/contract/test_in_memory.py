"""The whole service over its doubles in memory: uploads, attempts, retries, cancels and downloads without a process or a disk."""

from __future__ import annotations

import dataclasses
import hashlib
import logging
import threading
from datetime import timedelta

import httpx
import pytest

from processors import Options, Reject, RetryLater, processor
from processors.pipeline import Pipeline, make_step
from processors.registry import Registry, load_registry
from service.app import create_app
from service.clock import HeldClock
from service.errors import KeyReused, NotFound
from service.intake import Intake
from service.jobs.model import Job, JobStatus, Reason, StepStatus
from service.settings import Settings
from service.wiring import Catalogue, build_in_memory
from tests.jobs import NOON
from tests.waiting import wait_until_async

pytestmark = pytest.mark.anyio


class Moods(Options):
    """What the next runs of ``test.moody`` do, by the content of the file."""


gate = threading.Event()
seen: list[str] = []


@processor("test.write")
def write(ctx):
    """Write the file in capitals."""
    ctx.output("capitals.txt", media_type="text/plain").write_bytes(ctx.input.read_bytes().upper())
    return {"size": ctx.input.stat().st_size}


@processor("test.moody")
def moody(ctx):
    """Do what the file says; "twice" fails the first time."""
    text = ctx.input.read_text()
    seen.append(text)
    if text == "reject":
        raise Reject("moody-file", "This file is not to be liked.", "Send another.")
    if text == "later" and seen.count(text) == 1:
        raise RetryLater(60, "Not yet.")
    if text in ("fail", "twice") and (text == "fail" or seen.count(text) == 1):
        raise ValueError("a fault of my own")
    if text == "exit":
        raise SystemExit(3)
    if text == "wait":
        ctx.progress(1, 2)
        gate.wait(10)
        ctx.progress(2, 2)
    return {"mood": text}


@processor("test.read")
def read(ctx):
    """Count the capitals of the first step."""
    ctx.log.info("reading")
    return {"capitals": len(ctx.input.read_text())}


def catalogue() -> Catalogue:
    registry = Registry([write, moody, read])
    steps = (
        make_step(registry, "test.write"),
        make_step(registry, "test.moody"),
        make_step(registry, "test.read", input="test.write/capitals.txt"),
    )
    pipeline = Pipeline(name="moods", description="For tests.", steps=steps)
    return Catalogue(registry=registry, pipelines={"moods": pipeline}, default="moods")


@pytest.fixture
def clock():
    return HeldClock(NOON)


@pytest.fixture
def settings():
    return Settings.load(retry_base="10s", retention="1d")


@pytest.fixture
def services(clock, settings):
    gate.clear()
    seen.clear()
    services = build_in_memory(settings, catalogue=catalogue(), clock=clock)
    yield services
    gate.set()
    services.close()


@pytest.fixture
def intake(services):
    return Intake(services)


async def upload(intake: Intake, data: bytes, **options) -> Job:
    await intake.admit(len(data))
    async with intake.receiving(**options) as reception:
        reception.begin("note.txt", "text/plain")
        await reception.write(data)
        job, _ = await reception.finish()
    return job


async def submit(intake: Intake, text: str, **options) -> Job:
    job = await upload(intake, text.encode(), **options)
    await intake.services.engine.notify(job.id)
    return await intake.get(job.id)


async def artifact(intake: Intake, job: Job, step: str, name: str) -> bytes:
    blob = await intake.artifact(job.id, step, name)
    with blob.content.open() as file:
        return file.read()


async def test_an_upload_is_processed_when_it_is_notified_of(intake):
    job = await submit(intake, "happy")

    assert (job.status, job.attempt, job.finished_at) == (JobStatus.SUCCEEDED, 1, NOON)
    assert [step.facts for step in job.steps] == [{"size": 5}, {"mood": "happy"}, {"capitals": 5}]
    assert job.expires_at == NOON + timedelta(days=1)
    assert await artifact(intake, job, "test.write", "capitals.txt") == b"HAPPY"


async def test_the_source_can_be_read_where_it_is(intake):
    job = await submit(intake, "happy")

    blob = await intake.source(job.id)
    with blob.content.open(2) as file:
        data = file.read()

    assert (data, blob.size) == (b"ppy", 5)


async def test_a_rejected_file_fails_at_once(intake):
    job = await submit(intake, "reject")

    assert (job.status, job.attempt) == (JobStatus.FAILED, 1)
    assert (job.error.code, job.error.reason, job.error.step) == ("moody-file", Reason.REJECTED, "test.moody")
    assert [step.status for step in job.steps] == [StepStatus.SUCCEEDED, StepStatus.FAILED, StepStatus.SKIPPED]


async def test_a_failed_attempt_is_made_again_when_the_clock_says_so(intake, services, clock):
    waiting = await submit(intake, "twice")
    early = await services.engine.run_due()
    clock.advance(10)
    (done,) = await services.engine.run_due()

    assert (waiting.status, waiting.attempt, waiting.error.code) == (JobStatus.QUEUED, 1, "processor-failed")
    assert NOON <= waiting.retry_at <= NOON + timedelta(seconds=10)
    assert early == [waiting]
    assert (done.status, done.attempt) == (JobStatus.SUCCEEDED, 2)
    assert [step.artifacts[0].attempt for step in done.steps[:1]] == [1]
    assert await artifact(intake, done, "test.write", "capitals.txt") == b"TWICE"
    assert seen == ["twice", "twice"]


async def test_a_job_that_succeeded_in_the_end_has_no_error(intake, services, clock):
    await submit(intake, "twice")
    clock.advance(10)
    (done,) = await services.engine.run_due()

    assert done.error is None
    assert all(step.error is None for step in done.steps)


async def test_a_job_that_always_fails_ends_when_its_attempts_are_spent(intake, services, clock):
    job = await submit(intake, "fail")
    for _ in range(5):
        clock.advance(3600)
        await services.engine.run_due()
    job = await intake.get(job.id)

    assert (job.status, job.attempt, len(seen)) == (JobStatus.FAILED, 3, 3)
    assert services.store.pending() == []


async def test_a_processor_says_when_to_come_back(intake, services, clock):
    job = await submit(intake, "later")
    clock.advance(59)
    early = await services.engine.run_due()
    clock.advance(1)
    (done,) = await services.engine.run_due()

    assert job.retry_at == NOON + timedelta(seconds=60)
    assert early[0].status is JobStatus.QUEUED
    assert done.status is JobStatus.SUCCEEDED


async def test_a_processor_that_ends_its_process_ends_its_attempt(intake):
    job = await submit(intake, "exit")

    assert (job.status, job.error.reason) == (JobStatus.QUEUED, Reason.CRASHED)
    assert job.attempts[0].exit_status == 3


async def test_a_failed_job_runs_again_when_somebody_asks(intake, services):
    failed = await submit(intake, "reject")
    seen.clear()
    services.storage._sources[failed.id] = b"better"
    better = {"size": 6, "sha256": hashlib.sha256(b"better").hexdigest()}
    services.store.update(failed.id, lambda job: job.evolve(file=job.file.evolve(**better)))

    await intake.retry(failed.id)
    await services.engine.notify(failed.id)
    job = await intake.get(failed.id)

    assert (job.status, job.attempt) == (JobStatus.SUCCEEDED, 2)
    assert job.steps[0].artifacts[0].attempt == 1


async def test_lost_bytes_end_the_job(intake, services):
    job = await upload(intake, b"happy")
    services.storage.delete(job.id)

    await services.engine.notify(job.id)

    assert (await intake.get(job.id)).error.reason is Reason.LOST_INPUT


async def test_a_running_job_shows_progress_and_can_be_canceled(intake, services):
    job = await upload(intake, b"wait")
    running = threading.Thread(target=services.engine._run, args=(job.id,))
    running.start()

    async def moody_progress():
        return (await intake.get(job.id)).steps[1].progress

    progress = await wait_until_async(moody_progress)
    asked = await intake.cancel(job.id)
    running.join()
    gate.set()
    job = await intake.get(job.id)

    assert (progress.done, progress.total) == (1, 2)
    assert (asked.status, asked.cancel_requested_at) == (JobStatus.RUNNING, NOON)
    assert (job.status, job.finished_at) == (JobStatus.CANCELED, NOON)


@pytest.mark.parametrize("settings", [Settings.load()])
async def test_canceling_twice_changes_nothing_whatever_the_settings_are_by_then(intake, services):
    job = await upload(intake, b"happy")
    canceled = await intake.cancel(job.id)
    later = Intake(dataclasses.replace(services, settings=Settings.load(retention="1d")))

    again = await later.cancel(job.id)

    assert again == canceled


@pytest.mark.parametrize("settings", [Settings.load(deadline="100ms", crash_attempts=1)])
async def test_a_processor_that_hangs_is_given_up_at_its_deadline(intake, services):
    job = await submit(intake, "wait")

    assert (job.status, job.error.reason) == (JobStatus.FAILED, Reason.TIMEOUT)


async def test_a_stopping_engine_gives_the_job_back_uncharged(intake, services):
    job = await upload(intake, b"wait")
    running = threading.Thread(target=services.engine._run, args=(job.id,))
    running.start()

    async def is_running():
        return (await intake.get(job.id)).status is JobStatus.RUNNING

    await wait_until_async(is_running)
    await services.engine.stop()
    running.join()
    gate.set()
    given_back = await intake.get(job.id)
    await services.engine.notify(job.id)
    lost = await intake.get(job.id)
    await services.engine.start()
    await services.engine.notify(job.id)
    done = await intake.get(job.id)

    assert (given_back.status, given_back.max_attempts, given_back.retry_at) == (JobStatus.QUEUED, 4, None)
    assert lost == given_back
    assert (done.status, done.attempt) == (JobStatus.SUCCEEDED, 2)


async def test_the_same_key_leads_to_the_same_job(intake):
    first = await upload(intake, b"happy", key="k1")

    async with intake.receiving(key="k1") as reception:
        reception.begin("note.txt", "text/plain")
        await reception.write(b"happy")
        again, replayed = await reception.finish()

    assert (again, replayed) == (first, True)
    with pytest.raises(KeyReused):
        await upload(intake, b"other", key="k1")
    assert list(intake.services.store.walk()) == [first.id]
    assert list(intake.services.storage._sources) == [first.id]


async def test_a_deleted_job_is_gone_with_its_bytes(intake, services):
    job = await submit(intake, "happy")

    await intake.delete(job.id)

    with pytest.raises(NotFound):
        await intake.get(job.id)
    assert services.storage._sources == services.storage._artifacts == {}
    assert services.store.pending() == []


async def test_the_api_stands_on_the_doubles(services):
    app = create_app(services=services)
    transport = httpx.ASGITransport(app=app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://localhost") as http,
    ):
        ready = await http.get("/readyz")
        accepted = await http.post("/v1/jobs", files={"file": ("note.txt", b"happy", "text/plain")})
        status = await http.get(accepted.headers["location"])
        capitals = await http.get(f"{accepted.headers['location']}/artifacts/test.write/capitals.txt")
        source = await http.get(f"{accepted.headers['location']}/source", headers={"Range": "bytes=0-2"})

    assert (ready.status_code, ready.json()["status"]) == (200, "ok")
    assert accepted.status_code == 202
    assert status.json()["status"] == "succeeded"
    assert (capitals.status_code, capitals.content) == (200, b"HAPPY")
    assert (source.status_code, source.content) == (206, b"hap")
    assert list(services.storage._folder.iterdir()) == []


async def test_the_default_pipeline_runs_in_memory(caplog):
    services = build_in_memory(clock=HeldClock(NOON))
    intake = Intake(services)

    with caplog.at_level(logging.WARNING):
        job = await submit(intake, "one two three\n")

    assert job.status is JobStatus.SUCCEEDED
    assert job.file.media_type == "text/plain"
    assert set(load_registry()) >= {step.processor for step in job.steps}
