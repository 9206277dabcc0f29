"""The reconciler: whatever a broker loses, every job is told of again, and a broker that loses nothing hears little."""

from __future__ import annotations

from datetime import timedelta

import pytest

from service.clock import HeldClock
from service.engines.dispatch import BrokerAway
from service.errors import RecordCorrupt
from service.execution.reconcile import Reconciler
from service.execution.upkeep import Upkeep
from service.jobs.memory_store import MemoryJobStore
from service.jobs.model import Job, JobStatus, Reason
from service.jobs.retry import RetryPolicy
from service.storage.memory import MemoryStorage
from tests.jobs import NOON, finish, make_id, make_job
from tests.waiting import wait_until

PATIENCE = 10.0


class Rig:
    """A reconciler over a store in memory; ``messages`` are those that wait at the broker."""

    def __init__(self) -> None:
        self.clock = HeldClock(NOON)
        self.store = MemoryJobStore(clock=self.clock)
        self.messages: list[str] = []
        self.published: list[str] = []
        self.judged: list[str] = []
        self.told: list[str] = []
        self.away = False
        self.now = 0.0
        self.reconciler = self.another()

    def another(self) -> Reconciler:
        return Reconciler(
            store=self.store,
            storage=MemoryStorage(),
            publish=self.publish,
            waiting=self.waiting,
            judge=self.judge,
            clock=self.clock,
            told=self.told.append,
            patience=PATIENCE,
            monotonic=lambda: self.now,
        )

    def publish(self, job: Job) -> None:
        if self.away:
            raise BrokerAway("nobody there")
        self.messages.append(job.id)
        self.published.append(job.id)

    def waiting(self) -> int:
        if self.away:
            raise BrokerAway("nobody there")
        return len(self.messages)

    def judge(self, job_id: str) -> Job | None:
        self.judged.append(job_id)
        return self.store.claim(
            job_id, lambda job: finish(job, Reason.LOST) if job.status is JobStatus.RUNNING else job
        )[0]

    def add(self, number: int, *, announced: bool = True) -> str:
        job = make_job(make_id(NOON, number))
        self.store.create(job)
        if announced:
            self.messages.append(job.id)
        return job.id

    def round(self, seconds: float = 2.0) -> list[str]:
        """Let time pass, look, and return what was published."""
        self.now += seconds
        self.clock.advance(timedelta(seconds=seconds))
        before = len(self.published)
        self.reconciler.round()
        return self.published[before:]

    def claim(self, job_id: str) -> Job:
        job, lease = self.store.claim(job_id, lambda job: job.claimed(self.clock()))
        assert lease is not None
        self.lease = lease
        self.messages = [message for message in self.messages if message != job_id]
        return job

    def end(self, job_id: str, reason: Reason, *, policy: RetryPolicy | None = None) -> None:
        policy = policy or RetryPolicy(base=timedelta(0), cap=timedelta(0))
        self.store.update(job_id, lambda job: finish(job, reason, now=self.clock(), policy=policy))
        self.lease.release()


@pytest.fixture
def rig():
    return Rig()


def test_a_job_whose_message_waits_is_not_told_of_again_however_long_that_takes(rig):
    for number in range(3):
        rig.add(number)
    assert [rig.round(seconds) for seconds in (0, 2, PATIENCE, 3600, 86400)] == [[]] * 5


def test_a_job_that_was_never_told_of_is_when_patience_is_over(rig):
    job_id = rig.add(1, announced=False)
    assert rig.round() == []
    assert rig.round(PATIENCE - 3) == []
    assert rig.round(3) == [job_id]
    assert rig.round(PATIENCE) == []


def test_after_a_purge_all_jobs_are_told_of_once(rig):
    ids = [rig.add(number) for number in range(5)]
    rig.round()
    rig.messages.clear()
    assert sorted(rig.round(PATIENCE)) == ids
    assert rig.round() == []
    assert rig.round(PATIENCE) == []


def test_as_many_are_told_of_as_are_missing_the_oldest_first(rig):
    first = rig.add(1, announced=False)
    rig.round()
    rig.add(2)
    rig.round(2)
    assert rig.round(PATIENCE) == [first]


def test_a_job_whose_attempt_ended_without_it_is_told_of_at_once(rig):
    job_id = rig.add(1)
    rig.round()
    rig.claim(job_id)
    rig.round()
    rig.end(job_id, Reason.INTERRUPTED)
    assert rig.round() == [job_id]
    assert rig.round() == []


def test_a_job_that_waits_for_its_retry_is_told_of_when_that_is_due(rig):
    job_id = rig.add(1)
    rig.round()
    rig.claim(job_id)
    policy = RetryPolicy(base=timedelta(minutes=5), jitter=lambda _, longest: longest)
    rig.end(job_id, Reason.ERROR, policy=policy)
    assert rig.round() == []
    assert rig.round(200) == []
    assert rig.round(100) == [job_id]


def test_a_job_whose_runner_is_gone_runs_again(rig):
    job_id = rig.add(1)
    rig.round()
    rig.claim(job_id)
    assert rig.round() == []
    assert rig.store.get(job_id).status is JobStatus.RUNNING, "its lease is held"
    rig.lease.release()
    assert rig.round() == [job_id]
    assert rig.store.get(job_id).attempts[-1].reason is Reason.LOST


def test_while_the_broker_is_away_nothing_is_lost_nor_forgotten(rig):
    ids = [rig.add(number, announced=False) for number in range(3)]
    rig.round()
    rig.away = True
    assert rig.round(PATIENCE) == []
    assert rig.round(PATIENCE) == []
    rig.away = False
    assert sorted(rig.round()) == ids


def test_another_reconciler_finds_what_the_last_one_knew(rig):
    rig.add(1)
    lost, orphan = rig.add(2, announced=False), rig.add(3)
    rig.claim(orphan)
    rig.lease.release()
    rig.reconciler = rig.another()
    assert rig.round() == [orphan]
    assert rig.store.get(orphan).status is JobStatus.QUEUED
    assert len(rig.round(PATIENCE)) == 1, "as many as are missing"
    assert rig.round(PATIENCE) == []
    assert lost in rig.store.pending()


def test_a_job_that_is_done_is_no_business_of_the_broker(rig):
    job_id = rig.add(1, announced=False)
    rig.round()
    rig.claim(job_id)
    rig.end(job_id, Reason.SUCCEEDED)
    assert rig.round(PATIENCE) == []
    assert rig.store.pending() == []


def test_a_corrupt_record_is_set_aside_and_holds_nobody_up(rig):
    broken, good = rig.add(1, announced=False), rig.add(2, announced=False)
    rig.store.damage(broken, b"{")
    rig.round()
    assert rig.round(PATIENCE) == [good]
    with pytest.raises(RecordCorrupt):
        rig.store.get(broken)
    assert rig.store.pending() == [good]


class Boxes:
    """An outbox that sends nothing."""

    def hint(self, job_id: str) -> None:
        raise AssertionError

    async def run(self) -> None:
        return

    def stop(self) -> None:
        return


def test_one_upkeep_acts_and_the_next_follows(rig):
    begun, tidied = [], []

    def upkeep(name):
        def make(told):
            begun.append(name)
            return rig.another()

        return Upkeep(store=rig.store, reconciler=make, outbox=Boxes, tidy=lambda over: tidied.append(name), poll=0.01)

    first, second = upkeep("first"), upkeep("second")
    first.start()
    wait_until(lambda: tidied == ["first"])
    second.start()
    first.stop()
    wait_until(lambda: begun == ["first", "second"])
    second.stop()
    assert not rig.store.is_led()
