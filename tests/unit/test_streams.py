"""What a stream tells of a job: each change of the status once and in order, and what else there is at a pace."""

from __future__ import annotations

import asyncio
import random

import pytest

from service import streams
from service.jobs.memory_store import MemoryJobStore
from service.jobs.model import Job, JobStatus, Reason, StepProgress, StepStatus
from service.jobs.status import CHANGED, PROGRESS
from service.streams import Account, Event, events_of, is_over
from service.watch import Watch
from tests.jobs import NOON, finish, make_job, make_step


def told(account: Account, job: Job) -> list[Event]:
    """Have an account tell a job."""
    events = account.news(job)
    account.told(job)
    return events


def names(events: list[Event]) -> list[str]:
    return [event.name for event in events]


def shown(job: Job, **members: object) -> Job:
    """Return the job with its first step like this, as progress shows it."""
    first, *rest = job.steps
    changed: Job = job.evolve(version=job.version + 1, steps=(first.evolve(**members), *rest))
    return changed


def long_life() -> list[Job]:
    """Return the versions of a job that was tried, retried, given up, retried by hand and succeeded."""
    versions = [make_job()]
    for reason in (Reason.ERROR, Reason.INTERRUPTED, Reason.REJECTED):
        versions.append(versions[-1].claimed(NOON))
        versions.append(shown(versions[-1], status=StepStatus.RUNNING))
        versions.append(finish(versions[-1], reason))
    versions.append(versions[-1].retried(1, NOON))
    versions.append(versions[-1].claimed(NOON))
    versions.append(finish(versions[-1]))
    return versions


def test_at_first_it_is_told_where_the_job_stands():
    for job in long_life():
        events = told(Account(job), job)
        assert [(event.move.status, event.move.version) for event in events if event.move] == [
            (job.status, job.history[-1].version)
        ]
        assert not events[0].passed


def test_a_status_that_has_passed_is_told_before_the_one_that_holds():
    first, *_, last = long_life()
    account = Account(first)
    told(account, first)

    events = told(account, last)

    assert names(events) == [
        "job.started",
        "job.queued",
        "job.started",
        "job.queued",
        "job.started",
        "job.failed",
        "job.queued",
        "job.started",
        "job.succeeded",
    ]
    assert [event.passed for event in events] == [True] * 8 + [False]


def test_steps_and_progress_are_told_under_names_of_their_own():
    job = make_job()
    account = Account(job)
    told(account, job)
    running = job.claimed(NOON)
    begun = shown(running, status=StepStatus.RUNNING)
    further = shown(begun, progress=StepProgress(done=1, total=3))
    asked = further.canceled(NOON)

    assert [names(told(account, each)) for each in (running, begun, further, further, asked)] == [
        ["job.started"],
        [CHANGED],
        [PROGRESS],
        [],
        [CHANGED],
    ]


def test_who_resumes_after_the_last_change_is_told_where_the_job_stands_without_that_change():
    running = make_job().claimed(NOON)
    [event] = told(Account(running, last=2), running)
    assert (event.name, event.move) == (CHANGED, None)


@pytest.mark.parametrize("last", [3, 99])
def test_an_id_that_the_job_never_had_is_none(last: int):
    running = make_job().claimed(NOON)
    assert names(told(Account(running, last=last), running)) == ["job.started"]


def test_a_job_is_over_for_who_has_been_told_its_end():
    job = make_job().claimed(NOON)
    done = finish(job)
    assert is_over(done, 3)
    assert not is_over(done, 2)
    assert not is_over(done, None)
    assert not is_over(job, 2)


def test_a_record_from_before_there_was_a_history_has_one_that_goes_on():
    old = make_job(status=JobStatus.RUNNING, version=7, attempt=2)
    account = Account(old)
    assert [event.move.version for event in told(account, old) if event.move] == [2]
    assert names(told(account, shown(old, progress=StepProgress(done=1)))) == [PROGRESS]
    after = finish(old.evolve(attempts=(make_job().claimed(NOON).attempts)), Reason.ERROR)
    assert names(told(account, after)) == ["job.queued"]
    assert [move.version for move in after.history] == [1, 2, 8]


@pytest.mark.parametrize("seed", range(50))
def test_cut_anywhere_and_resumed_every_change_is_told_once_and_in_order(seed: int):
    chance, versions = random.Random(seed), long_life()
    heard: list[int] = []
    account = Account(versions[0])
    for job in versions:
        if chance.random() < 0.3:  # not looked at
            continue
        events = account.news(job)
        if chance.random() < 0.5:  # cut within what was to be told
            for event in events[: chance.randrange(len(events) + 1)]:
                heard.extend([event.move.version] if event.move else [])
            account = Account(job, last=heard[-1] if heard else None)
            continue
        heard.extend(event.move.version for event in events if event.move)
        account.told(job)
    heard.extend(event.move.version for event in account.news(versions[-1]) if event.move)

    whole = [move.version for move in versions[-1].history]
    assert heard == whole[whole.index(heard[0]) :]


# at a pace


class Rig:
    """A job in memory that is followed."""

    def __init__(self) -> None:
        self.store = MemoryJobStore()
        self.job = make_job(steps=(make_step("look"),))
        self.store.create(self.job)
        self.watch = Watch(self.store, self.in_thread, waiters=1, streams=1)

    async def in_thread(self, function, *arguments):
        return function(*arguments)

    def update(self, change) -> Job:
        return self.store.update(self.job.id, change)

    async def collect(self, *, last: int | None = None, seconds: float = 30) -> list[Event]:
        with self.watch.follow(self.store.get(self.job.id)) as follower:
            told = [event async for event in events_of(follower, last=last, seconds=seconds)]
            return [event for event in told if event is not None]


def test_progress_is_told_at_a_pace_and_the_end_at_once():
    async def scenario() -> list[Event]:
        rig = Rig()
        task = asyncio.create_task(rig.collect())
        _, lease = rig.store.claim(rig.job.id, lambda job: job.claimed(NOON))
        for done in range(200):
            rig.store.note(lease, shown(rig.store.get(rig.job.id), progress=StepProgress(done=done)))
            await asyncio.sleep(0.005)
        rig.update(lambda job: finish(job))
        return await task

    events = asyncio.run(scenario())
    assert names(events)[0] in ("job.queued", "job.started")
    assert names(events)[-1] == "job.succeeded"
    assert 1 <= names(events).count(PROGRESS) <= 10  # of 200 within a second, or a few on a busy machine
    assert len([event for event in events if event.move]) <= 3


def test_a_stream_ends_after_its_time_when_the_job_is_deleted_and_when_all_are_let_go():
    async def scenario() -> None:
        rig = Rig()
        assert names(await rig.collect(seconds=0.05)) == ["job.queued"]

        task = asyncio.create_task(rig.collect())
        await asyncio.sleep(0)
        rig.update(lambda job: job.canceled(NOON))
        rig.store.delete(rig.job.id, lambda job: None)
        assert names(await asyncio.wait_for(task, 20)) == ["job.queued"]

        rig = Rig()
        task = asyncio.create_task(rig.collect())
        await asyncio.sleep(0)
        rig.watch.end()
        assert names(await asyncio.wait_for(task, 20)) == ["job.queued"]

    asyncio.run(scenario())


def test_a_silent_stream_shows_that_it_is_alive_until_its_time_is_over(monkeypatch):
    monkeypatch.setattr(streams, "PULSE", 0.02)

    async def scenario() -> list[Event | None]:
        rig = Rig()
        with rig.watch.follow(rig.job) as follower:
            return [event async for event in events_of(follower, last=None, seconds=0.5)]

    first, *rest = asyncio.run(scenario())
    assert first is not None
    assert rest
    assert set(rest) == {None}


def test_a_change_between_a_look_and_following_is_not_missed():
    async def scenario() -> None:
        rig = Rig()
        before = rig.store.get(rig.job.id)
        with rig.watch.follow(before) as first:
            rig.update(lambda job: job.canceled(NOON))
            assert (await asyncio.wait_for(first.next(), 20)).done
            with rig.watch.follow(before) as second:  # it knows the job as it was, and nothing will change any more
                assert (await asyncio.wait_for(second.next(), 20)).done

    asyncio.run(scenario())
