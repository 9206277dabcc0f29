"""The supervisor's decisions, with attempts that only pretend: what runs when, what waits, and how it leaves."""

from __future__ import annotations

import errno
import os
import threading
import time
from collections import Counter
from datetime import timedelta

import pytest

from service.clock import HeldClock
from service.engines.bell import Bell, ring
from service.errors import RecordCorrupt
from service.execution.launcher import NotStartedError
from service.execution.supervisor import Supervisor
from service.jobs.memory_store import MemoryJobStore
from service.jobs.model import Reason
from service.jobs.retry import RetryPolicy
from service.storage.memory import MemoryStorage
from tests.jobs import NOON, finish, make_id, make_job
from tests.waiting import wait_until

LONG = 60.0  # seconds; nothing here may wait that long


class Watched(MemoryJobStore):
    """A store that counts evictions and can lose its markers."""

    def __init__(self) -> None:
        super().__init__()
        self.evicted: list[str] = []
        self.fails = 0

    def evict(self, job_id):
        self.evicted.append(job_id)
        return 1

    def pending(self):
        if self.fails:
            self.fails -= 1
            raise OSError(errno.EIO, "the disk fails")
        return super().pending()


class Rig:
    """A supervisor in a thread. ``run`` is what an attempt does; by default the job succeeds."""

    def __init__(self, tmp_path, run=None, *, slots=1, poll=0.02, drain=LONG, lifeline=None, tidy=lambda: None):
        self.store = Watched()
        self.storage = MemoryStorage()
        self.clock = HeldClock(NOON)
        self.bell = Bell(tmp_path / "bell")
        self.path = tmp_path / "bell"
        self.looked: list[str] = []
        self.act = run or self.succeed
        self.supervisor = Supervisor(
            run=self.run,
            store=self.store,
            storage=self.storage,
            bell=self.bell,
            clock=self.clock,
            slots=slots,
            poll=poll,
            drain=drain,
            tidy=tidy,
            lifeline=lifeline,
        )
        self.thread = threading.Thread(target=self.supervisor.serve)

    def add(self, *numbers):
        """Add jobs whose ids sort by these numbers, and return the ids."""
        ids = [make_id(NOON, number) for number in numbers]
        for job_id in ids:
            self.store.create(make_job(job_id))
        return ids

    def run(self, job_id, interrupt):
        self.looked.append(job_id)
        return self.act(job_id, interrupt)

    def end(self, job_id, reason, policy=None):
        """Make an attempt that ends for ``reason``."""
        _, lease = self.store.claim(job_id, lambda job: job.claimed(self.clock()))
        options = {"policy": policy} if policy else {}
        try:
            return self.store.update(job_id, lambda job: finish(job, reason, now=self.clock(), **options))
        finally:
            lease.release()

    def succeed(self, job_id, interrupt):
        return self.end(job_id, Reason.SUCCEEDED)

    def is_idle(self):
        return not MemoryJobStore.pending(self.store)

    def start(self):
        self.thread.start()

    def has_left(self):
        return not self.thread.is_alive()

    def leave(self):
        """Have the supervisor stop at once."""
        if self.thread.is_alive():
            self.supervisor.stop()
            self.supervisor.stop()
            self.thread.join(10)
        assert not self.thread.is_alive()


@pytest.fixture
def make(tmp_path):
    rigs = []

    def make(run=None, **options) -> Rig:
        rigs.append(Rig(tmp_path, run, **options))
        return rigs[-1]

    yield make
    for rig in rigs:
        if rig.thread.ident is not None:
            rig.leave()
        rig.bell.close()


# what runs when


def test_what_was_waiting_is_run_oldest_first(make):
    rig = make()
    ids = rig.add(3, 1, 2)

    rig.start()
    wait_until(rig.is_idle)

    assert rig.looked == sorted(ids)


def test_a_job_that_is_rung_for_does_not_wait_for_the_next_look(make):
    rig = make(poll=LONG)
    rig.start()
    (first,) = rig.add(1)
    ring(rig.path, first)

    assert wait_until(rig.is_idle, timeout=5)
    assert rig.looked == [first]


def test_a_job_whose_bell_was_lost_is_found_at_the_next_look(make):
    rig = make(poll=0.05)
    rig.start()
    wait_until(lambda: rig.supervisor._known == set())
    rig.add(1)

    assert wait_until(rig.is_idle)


def test_ringing_twice_is_the_same_as_once(make):
    go = threading.Event()
    rig = make(lambda job_id, _: go.wait(10) and rig.succeed(job_id, _))
    ids = rig.add(1, 2)
    rig.start()
    for _ in range(3):
        for job_id in ids:
            ring(rig.path, job_id)
    ring(rig.path, "nonsense")
    go.set()

    wait_until(rig.is_idle)
    assert rig.looked == ids


def test_no_more_run_at_once_than_there_are_slots(make):
    running, most = Counter(), []
    lock = threading.Lock()

    def run(job_id, interrupt):
        with lock:
            running["now"] += 1
            most.append(running["now"])
        time.sleep(0.01)  # long enough for the others to get in, if they could
        with lock:
            running["now"] -= 1
        return rig.succeed(job_id, interrupt)

    rig = make(run, slots=3)
    rig.add(*range(12))
    rig.start()
    wait_until(rig.is_idle)

    assert max(most) == 3


@pytest.mark.parametrize("slots", [1, 3])
def test_a_flood_of_one_owner_at_most_doubles_the_wait_of_another(make, slots):
    rig = make(slots=slots)
    flood = [make_id(NOON, number) for number in range(100)]
    few = [make_id(NOON, number) for number in range(100, 110)]
    for job_id in [*flood, *few]:
        rig.store.create(make_job(job_id, owner="flood" if job_id in flood else "few"))

    rig.start()
    wait_until(rig.is_idle)

    for alone, job_id in enumerate(few, start=1):  # by itself, it would be the alone-th
        assert (
            rig.looked.index(job_id) + 1 <= 2 * alone + 2 * slots
        )  # threads note it in the order in which they get to it


def test_a_job_that_has_to_wait_is_looked_at_when_its_time_has_come(make):
    policy = RetryPolicy(base=timedelta(seconds=30), cap=timedelta(hours=1), jitter=lambda low, high: high)

    def run(job_id, interrupt):
        if rig.looked.count(job_id) == 1 and job_id == first:
            return rig.end(job_id, Reason.ERROR, policy)
        return rig.succeed(job_id, interrupt)

    rig = make(run)
    first, second = rig.add(1, 2)
    rig.start()
    wait_until(lambda: rig.store.pending() == [first])
    rig.clock.advance(29)
    third = rig.add(3)[0]
    wait_until(lambda: rig.store.pending() == [first])
    before = list(rig.looked)
    rig.clock.advance(1)
    wait_until(rig.is_idle)

    assert before == [first, second, third]
    assert rig.looked == [first, second, third, first]


def test_a_bell_for_a_waiting_job_has_it_looked_at(make):
    """It may have been retried by hand, or canceled."""
    policy = RetryPolicy(base=timedelta(hours=1), cap=timedelta(hours=1), jitter=lambda low, high: high)

    def run(job_id, interrupt):
        return rig.end(job_id, Reason.ERROR, policy) if len(rig.looked) == 1 else rig.store.get(job_id)

    rig = make(run)
    (job_id,) = rig.add(1)
    rig.start()
    wait_until(lambda: rig.supervisor._waiting)
    rig.store.update(job_id, lambda job: job.canceled(NOON))
    ring(rig.path, job_id)

    wait_until(lambda: rig.looked == [job_id, job_id])


# what is not as it should be


def test_a_lease_held_by_nobody_known_is_freed_at_the_third_look(make):
    rig = make(lambda job_id, _: rig.store.get(job_id))
    (job_id,) = rig.add(1)
    rig.store.claim(job_id, lambda job: job.claimed(NOON))  # by a supervisor that has died, whose attempt has not

    rig.start()
    wait_until(lambda: rig.store.evicted)

    assert rig.store.evicted[0] == job_id
    assert rig.looked[:3] == [job_id] * 3
    assert len(rig.looked) - len(rig.store.evicted) in (2, 3)


def test_looks_at_a_held_lease_are_forgotten_when_it_moves_on(make):
    def run(job_id, interrupt):
        if rig.looked.count(job_id) <= 2:
            return rig.store.get(job_id)
        return rig.end(job_id, Reason.SUCCEEDED)

    rig = make(run)
    rig.add(1)
    rig.start()
    wait_until(rig.is_idle)
    wait_until(lambda: rig.supervisor._held == {})

    assert rig.store.evicted == []


def test_a_corrupt_record_is_set_aside_and_the_others_run(make):
    def run(job_id, interrupt):
        if job_id == bad:
            raise RecordCorrupt
        return rig.succeed(job_id, interrupt)

    rig = make(run)
    bad, good = rig.add(1, 2)
    rig.store.damage(bad)
    rig.start()
    wait_until(rig.is_idle)

    assert list(rig.store.quarantined()) == [bad]
    assert rig.looked == [bad, good]


def test_an_error_of_one_job_keeps_no_other_from_running(make):
    def run(job_id, interrupt):
        if job_id == bad and rig.looked.count(bad) < 3:
            raise (OSError(errno.EIO, "a bad sector") if rig.looked.count(bad) == 1 else ZeroDivisionError)
        return rig.succeed(job_id, interrupt)

    rig = make(run)
    bad, good = rig.add(1, 2)
    rig.start()
    wait_until(rig.is_idle)

    assert rig.looked[:2] == [bad, good]
    assert rig.looked.count(bad) == 3


@pytest.mark.parametrize(
    "trouble", [OSError(errno.ENOSPC, "full"), OSError(errno.EMFILE, "files"), NotStartedError("no")]
)
def test_trouble_that_all_jobs_share_makes_everybody_pause(make, trouble):
    times = []

    def run(job_id, interrupt):
        times.append(time.monotonic())
        if len(times) == 1:
            raise trouble
        return rig.succeed(job_id, interrupt)

    rig = make(run, poll=0.15)
    rig.add(1, 2, 3)
    rig.start()
    wait_until(rig.is_idle)

    assert times[1] - times[0] >= 0.14


def test_markers_that_cannot_be_read_are_read_again(make):
    rig = make()
    rig.add(1)
    rig.store.fails = 2
    rig.start()

    assert wait_until(rig.is_idle)


def test_a_marker_without_a_record_is_swept(make):
    rig = make(lambda job_id, _: None)
    (job_id,) = rig.add(1)
    rig.store.delete(job_id, lambda job: None)
    rig.storage._sources[job_id] = b"left behind"

    rig.start()
    wait_until(rig.is_idle)

    assert rig.storage._sources == {}


def test_an_upload_in_progress_is_not_swept(make):
    rig = make(lambda job_id, _: None)
    (job_id,) = rig.add(1)
    rig.store.delete(job_id, lambda job: None)
    upload = rig.storage.receive(job_id)
    upload._begin()

    rig.start()
    wait_until(lambda: len(rig.looked) > 2)

    assert rig.store.pending() == [job_id]
    assert rig.storage.is_receiving(job_id)


def test_housekeeping_is_done_at_the_start_and_its_failure_is_survived(make):
    tidied = []

    def tidy():
        tidied.append(1)
        raise ValueError("a fault of housekeeping")

    rig = make(tidy=tidy)
    rig.start()
    wait_until(lambda: tidied)
    rig.add(1)

    assert wait_until(rig.is_idle)


# leaving


def test_stopping_lets_running_attempts_finish_and_begins_no_others(make):
    go, started = threading.Event(), threading.Event()

    def run(job_id, interrupt):
        started.set()
        go.wait(10)
        assert not interrupt.is_set()
        return rig.succeed(job_id, interrupt)

    rig = make(run)
    first, second = rig.add(1, 2)
    rig.start()
    started.wait(10)
    rig.supervisor.stop()
    assert rig.supervisor.stopping
    go.set()
    wait_until(rig.has_left)

    assert rig.looked == [first]
    assert rig.store.pending() == [second]


def until_interrupted(rig):
    def run(job_id, interrupt):
        assert interrupt.wait(10)
        return rig[0].end(job_id, Reason.INTERRUPTED)

    return run


def test_attempts_that_outlast_the_drain_are_interrupted(make):
    holder = []
    rig = make(until_interrupted(holder), drain=0.05)
    holder.append(rig)
    (job_id,) = rig.add(1)
    rig.start()
    wait_until(lambda: rig.looked)
    began = time.monotonic()
    rig.supervisor.stop()
    wait_until(rig.has_left)

    assert time.monotonic() - began >= 0.05
    job = rig.store.get(job_id)
    assert (job.attempt, job.max_attempts, job.retry_at) == (1, 4, None)
    assert rig.store.pending() == [job_id]


def test_a_second_stop_interrupts_at_once(make):
    holder = []
    rig = make(until_interrupted(holder), drain=LONG)
    holder.append(rig)
    rig.add(1)
    rig.start()
    wait_until(lambda: rig.looked)
    rig.supervisor.stop()
    rig.supervisor.stop()

    assert wait_until(rig.has_left, timeout=5)


def test_a_stop_is_heard_while_there_is_nothing_to_do(make):
    rig = make(poll=LONG)
    rig.start()
    wait_until(lambda: rig.supervisor._known == set())
    rig.supervisor.stop()

    assert wait_until(rig.has_left, timeout=5)


@pytest.fixture
def lifeline():
    """Give both ends of the pipe whose end of file says that the service is gone."""
    reader, writer = os.pipe()
    ends = {"reader": reader, "writer": writer}
    yield ends
    for descriptor in ends.values():
        os.close(descriptor)


def test_a_supervisor_whose_service_is_gone_finishes_the_queue_and_leaves(lifeline, make):
    rig = make(lifeline=lifeline["reader"])
    ids = rig.add(1, 2, 3)
    os.close(lifeline.pop("writer"))
    rig.start()
    wait_until(rig.has_left)

    assert rig.looked == ids
    assert rig.is_idle()


def test_a_supervisor_whose_service_lives_stays(lifeline, make):
    rig = make(lifeline=lifeline["reader"])
    rig.start()
    rig.add(1)
    wait_until(rig.is_idle)
    late = rig.add(2)
    wait_until(lambda: rig.looked[-1:] == late)

    assert not rig.has_left()
