"""Row 27 of the failure table: the clock jumps. Leases use no clock and deadlines a monotonic one; a retry comes early or late.

No server here, whose clock could not be set: the store, the storage and the runner of attempts, with real processes.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from service.clock import utc_now
from service.durable import is_locked
from service.execution.attempt import AttemptRunner
from service.ids import created_at, new_id
from service.jobs.model import FileInfo, Job, JobStatus, Reason, Step
from service.jobs.store import JobStore
from service.settings import Settings
from service.wiring import Services, build, build_runner
from tests.e2e.rig import SETTINGS
from tests.waiting import wait_until

DAY = timedelta(days=1)
JUMPS = [timedelta(seconds=30), timedelta(seconds=-30), 365 * DAY, -365 * DAY]


class Clock:
    """A clock that can be put forward and back while time goes on."""

    def __init__(self) -> None:
        self.ahead = timedelta(0)

    def __call__(self) -> datetime:
        return utc_now() + self.ahead


class Machine:
    """A data directory, and what runs its jobs under a clock of its own."""

    def __init__(self, folder: Path, clock: Clock, deadline: str) -> None:
        limits = {"deadline": deadline, "crash_attempts": 1, "retry_base": "1h"}
        settings = Settings.load(data_dir=folder, **SETTINGS | limits)
        self.clock = clock
        self.services: Services = build(settings, clock=clock)
        self.store: JobStore = self.services.store
        self.runner: AttemptRunner
        self.runner, self.launcher = build_runner(settings, self.services)

    def submit(self, orders: str) -> str:
        job_id = new_id()
        folder = self.services.store.folder(job_id)
        folder.mkdir(parents=True, exist_ok=True)
        source = orders.replace("; ", "\n").encode()
        (folder / "source").write_bytes(source)
        file = FileInfo(name="orders.txt", size=len(source), sha256=hashlib.sha256(source).hexdigest())
        steps = (Step(name="obey", processor="obey"),)
        self.store.create(Job(id=job_id, created_at=created_at(job_id), file=file, pipeline="obey", steps=steps))
        return job_id

    def run(self, job_id: str) -> Job:
        job = self.runner.run(job_id, threading.Event())
        assert job is not None
        return job


@pytest.fixture
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path / "uploads", Clock(), getattr(request, "param", "60s"))
    yield machine
    machine.launcher.stop()
    machine.services.close()


@pytest.mark.parametrize("jump", JUMPS)
def test_27_an_attempt_and_its_lease_outlast_a_jump_of_the_clock(
    machine: Machine, tmp_path: Path, jump: timedelta
) -> None:
    go = tmp_path / "go"
    job_id = machine.submit(f"wait {go}")
    with ThreadPoolExecutor(1) as pool:
        attempt = pool.submit(machine.run, job_id)
        wait_until(lambda: machine.store.get(job_id).status is JobStatus.RUNNING)
        machine.clock.ahead += jump
        assert machine.run(job_id).status is JobStatus.RUNNING, "nobody else can take it"
        assert is_locked(machine.services.store.folder(job_id) / "lease")
        go.touch()
        job = attempt.result(10)

    assert job.status is JobStatus.SUCCEEDED
    assert [attempt.reason for attempt in job.attempts] == [Reason.SUCCEEDED]
    assert job.finished_at is not None
    assert job.started_at is not None
    expected = max(jump, timedelta(0))  # no moment of a record is before an earlier one
    assert timedelta(0) <= job.finished_at - job.started_at - expected < timedelta(seconds=10)


@pytest.mark.parametrize("machine", ["1s"], indirect=True)
@pytest.mark.parametrize("jump", JUMPS[2:])
def test_27_a_deadline_does_not_move_with_the_clock(machine: Machine, jump: timedelta) -> None:
    job_id = machine.submit("hang")
    with ThreadPoolExecutor(1) as pool:
        attempt = pool.submit(machine.run, job_id)
        wait_until(lambda: machine.store.get(job_id).status is JobStatus.RUNNING)
        machine.clock.ahead += jump
        job = attempt.result(10)

    assert job.status is JobStatus.FAILED
    assert [attempt.reason for attempt in job.attempts] == [Reason.TIMEOUT]


def test_27_a_retry_comes_early_when_the_clock_is_put_forward(machine: Machine) -> None:
    job_id = machine.submit("later 3600")
    job = machine.run(job_id)
    assert (job.status, job.attempt) == (JobStatus.QUEUED, 1)
    assert machine.run(job_id).attempt == 1, "it is not due"

    machine.clock.ahead += DAY
    assert machine.run(job_id).attempt == 2


def test_27_a_retry_does_not_wait_for_a_clock_that_was_put_back(machine: Machine) -> None:
    job_id = machine.submit("later 10")
    assert machine.run(job_id).status is JobStatus.QUEUED
    assert machine.run(job_id).attempt == 1, "it is not due"
    machine.clock.ahead -= DAY
    assert machine.run(job_id).attempt == 2
    machine.clock.ahead += DAY
    assert machine.run(job_id).attempt == 2, "it waits again"
