"""Many who wait for one job: they are woken in waves, each once, and are sent what was made for the first of them."""

from __future__ import annotations

import asyncio

from service.api.reply import job_bytes, job_reply
from service.clock import HeldClock
from service.jobs.memory_store import MemoryJobStore
from service.jobs.model import Job
from service.watch import Watch
from tests.jobs import NOON, make_job

MANY = 1000


class Rig:
    """Many who follow a job in memory."""

    def __init__(self) -> None:
        self.store = MemoryJobStore()
        self.job = make_job()
        self.store.create(self.job)
        self.watch = Watch(self.store, self.in_thread, waiters=MANY, streams=1)
        self.told: list[tuple[int, Job]] = []  #: in which turn of the loop, and what
        self.cleared: list[tuple[int, int]] = []  #: in which turn, and how many had been told by then
        self.turn = 0

    async def in_thread(self, function, *arguments):
        return function(*arguments)

    async def wait(self) -> None:
        with self.watch.follow(self.job) as follower:
            job = await follower.next()
            assert job is not None
            self.told.append((self.turn, job))
        await self.watch.all_told()
        self.cleared.append((self.turn, len(self.told)))

    async def count_turns(self) -> None:
        while len(self.cleared) < MANY:
            self.turn += 1
            await asyncio.sleep(0)


def test_many_are_woken_in_waves_and_given_the_same_job():
    async def scenario() -> Rig:
        rig = Rig()
        waiting = [asyncio.create_task(rig.wait()) for _ in range(MANY)]
        await asyncio.sleep(0)
        rig.store.update(rig.job.id, lambda job: job.canceled(NOON))
        await asyncio.wait_for(asyncio.gather(rig.count_turns(), *waiting), 20)
        return rig

    rig = asyncio.run(scenario())
    assert len(rig.told) == MANY
    assert len({id(job) for _, job in rig.told}) == 1
    assert {told for _, told in rig.cleared} == {MANY}, "all have their answer before anybody clears up"
    for turns in ([turn for turn, _ in rig.told], [turn for turn, _ in rig.cleared]):
        assert max(turns.count(turn) for turn in set(turns)) <= 256, "a wave, and not all of them"


def test_who_begins_to_wait_while_others_are_woken_is_told_at_once():
    async def scenario() -> Rig:
        rig = Rig()
        waiting = [asyncio.create_task(rig.wait()) for _ in range(MANY - 1)]
        await asyncio.sleep(0)
        rig.store.update(rig.job.id, lambda job: job.canceled(NOON))
        while not rig.told:  # noqa: ASYNC110 - the first wave has been told
            await asyncio.sleep(0)
        assert len(rig.told) < MANY - 1
        await asyncio.wait_for(asyncio.gather(rig.wait(), *waiting), 20)
        return rig

    assert len(asyncio.run(scenario()).told) == MANY


def test_nobody_waits_for_others_when_nobody_is_being_told():
    async def scenario() -> None:
        await asyncio.wait_for(Rig().watch.all_told(), 20)

    asyncio.run(scenario())


def test_all_are_let_go_when_the_process_stops():
    async def scenario() -> list[Job | None]:
        rig = Rig()

        async def wait() -> Job | None:
            with rig.watch.follow(rig.job) as follower:
                return await follower.next()

        waiting = [asyncio.create_task(wait()) for _ in range(MANY)]
        await asyncio.sleep(0)
        rig.watch.end()
        return await asyncio.wait_for(asyncio.gather(*waiting), 20)

    assert asyncio.run(scenario()) == [None] * MANY


def test_a_reply_is_made_once_and_each_has_fields_of_its_own():
    job = make_job()
    first, second = (job_reply(job, "", headers={"Vary": "Prefer"}, clock=HeldClock(NOON)) for _ in range(2))
    assert first.body is second.body is job_bytes(job, "")
    assert first.raw_headers == second.raw_headers
    first.headers["X-One"] = "1"
    assert "X-One" not in second.headers
    assert job_reply(job, "/below", clock=HeldClock(NOON)).body != first.body
    assert job_reply(job.canceled(NOON), "", clock=HeldClock(NOON)).body != first.body
    assert "Retry-After" not in job_reply(job.canceled(NOON), "").headers
