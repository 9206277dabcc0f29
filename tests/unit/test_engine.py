"""The local engine and its bell, without a supervisor: what is rung, lost, and told."""

from __future__ import annotations

import asyncio
import os
import subprocess

import pytest

from service import faults
from service.durable import locked
from service.engines.bell import Bell, ring
from service.engines.local import LocalEngine
from service.ids import new_id
from tests.waiting import wait_until_async

pytestmark = pytest.mark.anyio


@pytest.fixture
def root(tmp_path):
    (tmp_path / "engine").mkdir()
    return tmp_path


@pytest.fixture
def bell(root):
    bell = Bell(root / "engine" / "bell")
    yield bell
    bell.close()


@pytest.fixture
def engine(root):
    return LocalEngine(root, environment={}, drain=1)


@pytest.fixture
def started(monkeypatch):
    """Replace the start of a supervisor by a process that leaves at once, and give the commands that would have run."""
    commands = []
    popen = subprocess.Popen

    def start(command, **options):
        commands.append(command)
        return popen(["true"], stdin=subprocess.DEVNULL)

    monkeypatch.setattr(subprocess, "Popen", start)
    return commands


def test_what_is_rung_is_heard(bell, root):
    ids = [new_id() for _ in range(3)]

    assert all(ring(root / "engine" / "bell", job_id) for job_id in ids)
    assert bell.heard() == ids
    assert bell.heard() == []


def test_a_bell_nobody_listens_to_says_so(root):
    assert not ring(root / "engine" / "bell", new_id())


def test_a_bell_whose_listener_died_says_so(bell, root):
    path = root / "engine" / "bell"
    (root / "spare").write_bytes(b"")
    os.close(bell.fileno())

    assert not ring(path, new_id())

    descriptor = os.open(root / "spare", os.O_RDONLY)
    assert descriptor == bell.fileno()  # so that the fixture has something to close


def test_a_full_bell_loses_the_id_and_does_not_wait(bell, root):
    rung = 0
    while rung < 5000:
        assert ring(root / "engine" / "bell", new_id())
        rung += 1
    heard = 0
    while ids := bell.heard():
        heard += len(ids)

    assert 0 < heard < rung


def test_waking_is_heard_as_nothing(bell):
    bell.wake()

    assert bell.heard() == []


def test_a_bell_takes_the_place_of_a_dead_ones(root):
    first = Bell(root / "engine" / "bell")
    ring(root / "engine" / "bell", new_id())

    second = Bell(root / "engine" / "bell")

    assert second.heard() == []
    job_id = new_id()
    ring(root / "engine" / "bell", job_id)
    assert second.heard() == [job_id]
    first.close()
    os.close(second.fileno())


def test_words_that_are_no_ids_are_handed_on_for_the_listener_to_judge(bell, root):
    ring(root / "engine" / "bell", "x")
    with (root / "engine" / "bell").open("wb", buffering=0) as pipe:
        pipe.write(b"\xff\xfe\n")

    assert len(bell.heard()) == 2


async def test_a_notification_rings_the_bell(engine, bell):
    job_id = new_id()

    await engine.notify(job_id)

    assert bell.heard() == [job_id]


async def test_a_failing_bell_is_no_error(engine, bell):
    faults.arm("bell.ring=fail")
    try:
        await engine.notify(new_id())
    finally:
        faults.arm("")

    assert bell.heard() == []


async def test_the_engine_is_well_while_somebody_holds_the_supervisors_lock(engine, root):
    alone = await engine.health()
    with locked(root / "engine" / "supervisor.lock"):
        watched = await engine.health()

    assert (alone.ok, watched.ok) == (False, True)
    assert "no supervisor" in alone.detail


async def test_a_supervisor_is_started_when_there_is_none(engine, started):
    await engine.start()
    await wait_until_async(lambda: asyncio.sleep(0, started))
    await engine.stop()

    assert started[0][1:3] == ["-m", "service.execution.supervisor"]


async def test_no_supervisor_is_started_where_one_runs(engine, started, root):
    with locked(root / "engine" / "supervisor.lock"):
        await engine.start()
        await asyncio.to_thread(engine._ensure)
        await engine.stop()

    assert started == []


async def test_a_bell_that_nobody_hears_has_a_supervisor_started_soon(engine, started):
    await engine.start()

    async def was_started_again():
        await engine.notify(new_id())
        return len(started) > 1

    await wait_until_async(was_started_again, timeout=4)
    await engine.stop()


async def test_a_supervisor_that_cannot_be_started_is_tried_again(engine, monkeypatch):
    tries = []

    def fail(*_, **__):
        tries.append(1)
        raise OSError("no memory")

    monkeypatch.setattr(subprocess, "Popen", fail)
    await engine.start()

    async def was_tried_again():
        await engine.notify(new_id())
        return len(tries) > 1

    await wait_until_async(was_tried_again, timeout=4)
    await engine.stop()


async def test_stopping_at_the_moment_of_a_missed_bell_does_not_hang(engine, started):
    await engine.start()
    await wait_until_async(lambda: asyncio.sleep(0, engine._missed._waiters))
    await engine.notify(new_id())

    await asyncio.wait_for(engine.stop(), 5)


async def test_stopping_what_was_never_started_is_fine(engine):
    await engine.stop()
