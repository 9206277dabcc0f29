"""What every store tells of the changes of all jobs, and what the journal of the file store makes of crashes and lost files."""

from __future__ import annotations

import random
import threading
from typing import TYPE_CHECKING

import pytest

from service.durable import Disk
from service.jobs import journal
from service.jobs.file_store import FileJobStore
from service.jobs.model import Job, JobStatus, Reason
from service.jobs.store import Position
from tests.contract.test_job_store import added, claim, run
from tests.contract.test_job_store import postgres_rigs as postgres_rigs
from tests.contract.test_job_store import rig as rig
from tests.jobs import NOON, finish, make_job

if TYPE_CHECKING:
    from pathlib import Path

    from service.jobs.store import JobStore


@pytest.fixture
def store(rig):
    return rig.store


@pytest.fixture
def files(tmp_path: Path):
    store = FileJobStore(tmp_path, disk=Disk(sync=False))
    store.listing.rebuild()
    yield store
    store.close()


def told(store: JobStore, after: Position | None, limit: int = 1000) -> list[tuple[str, int]]:
    found = store.moves(after, limit)
    assert not found.lost
    return [(job_id, version) for _, job_id, version in found.moves]


def test_every_change_of_a_status_is_told_once_and_in_order(store):
    start = store.moves(None, 10).position
    one, other = added(store), added(store)
    run(store, one.id, Reason.ERROR)
    run(store, one.id)
    store.update(other.id, lambda job: job.canceled(NOON))
    run_moves = [(one.id, 2), (one.id, 3), (one.id, 4), (one.id, 5)]
    assert told(store, start) == [(one.id, 1), (other.id, 1), *run_moves, (other.id, 2)]


def test_what_comes_next_begins_where_the_last_answer_ended(store):
    start = store.moves(None, 10).position
    jobs = [added(store) for _ in range(7)]
    heard, position = [], start
    while (found := store.moves(position, 3)).moves:
        heard += [job_id for _, job_id, _ in found.moves]
        position = found.position
        assert found.moves[-1][0] == position
    assert heard == [job.id for job in jobs]
    assert told(store, position) == []
    assert position == store.moves(None, 10).position


def test_what_is_no_change_of_a_status_is_not_told(store):
    job = added(store)
    claimed, lease = claim(store, job.id)
    start = store.moves(None, 10).position
    store.note(lease, claimed.evolve(file=claimed.file.evolve(media_type="text/plain")))
    store.update(job.id, lambda job: job.canceled(NOON))  # asked for, while it runs
    store.settle(job.id)
    assert told(store, start) == []
    store.update(job.id, finish)
    store.settle(job.id)
    store.restore(job.id)
    assert told(store, start) == [(job.id, 5 if store.get(job.id).version == 5 else 4)]
    lease.release()


@pytest.mark.parametrize("number", [-1, 10**6])
def test_a_position_that_is_none_is_lost(store, number: int):
    added(store)
    here = store.moves(None, 10).position
    for wrong in (Position("other", here.number), Position(here.journal, number)):
        found = store.moves(wrong, 10)
        assert (found.lost, found.moves, found.position) == (True, (), here)


def test_many_writers_at_once_are_told_once_each(store):
    start = store.moves(None, 10).position
    jobs = [make_job() for _ in range(12)]

    def live(job: Job) -> None:
        store.create(job)
        run(store, job.id)

    threads = [threading.Thread(target=live, args=(job,)) for job in jobs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    heard = told(store, start)
    assert sorted(heard) == sorted((job.id, version) for job in jobs for version in (1, 2, 3))
    assert all([v for job_id, v in heard if job_id == job.id] == [1, 2, 3] for job in jobs)


@pytest.mark.parametrize("text", ["", "a", "a-", "-1", "a-x", "a--1", "a-1.5", "a-" + "9" * 30, "ä b-1"])
def test_a_text_that_is_no_position(text: str):
    assert Position.parse(text) is None


def test_a_position_is_written_and_read():
    assert Position.parse(str(Position("3fa9", 12))) == Position("3fa9", 12)


# the file store's


def test_what_a_crash_between_record_and_row_has_swallowed_is_told_by_recovery(files):
    job = added(files)
    start = files.moves(None, 10).position
    put, files.listing.put = files.listing.put, lambda job, **_: False
    run(files, job.id)
    files.listing.put = put
    assert told(files, start) == []

    files.settle(job.id)

    assert told(files, start) == [(job.id, 2), (job.id, 3)]


def test_the_first_row_may_be_that_of_a_later_version(files):
    start = files.moves(None, 10).position
    put, files.listing.put = files.listing.put, lambda job, **_: False
    job = added(files)
    files.listing.put = put
    run(files, job.id)
    files.listing.put(job, since=0)  # the upload's process comes to it at last
    assert told(files, start) == [(job.id, 1), (job.id, 2), (job.id, 3)]


def test_a_journal_that_began_anew_tells_nothing_old_and_everything_new(files):
    jobs = [added(files) for _ in range(3)]
    run(files, jobs[0].id)
    before = files.moves(None, 10).position
    files.listing._index.discard()

    assert files.moves(before, 10).lost
    start = files.moves(None, 10).position
    files.listing.rebuild()
    assert told(files, start) == []
    run(files, jobs[1].id)
    job = added(files)
    assert told(files, start) == [(jobs[1].id, 2), (jobs[1].id, 3), (job.id, 1)]


def test_a_row_that_a_rebuild_wrote_first_hides_no_change(files):
    job = added(files)
    files.listing._index.discard()
    start = files.moves(None, 10).position
    put = files.listing.put

    def late(job: Job, **more) -> bool:
        files.listing.rebuild()  # comes between record and row
        return put(job, **more)

    files.listing.put = late
    run(files, job.id)
    assert told(files, start) == [(job.id, 2), (job.id, 3)]


def test_the_oldest_changes_are_forgotten_and_that_is_told(files, monkeypatch):
    monkeypatch.setattr(journal, "_KEPT", 5)
    start = files.moves(None, 10).position
    for _ in range(5):
        added(files)
    assert len(told(files, start)) == 5
    added(files)
    assert files.moves(start, 10).lost
    assert len(told(files, Position(start.journal, start.number + 1))) == 5


def test_after_a_reboot_the_journal_is_another(files, monkeypatch):
    added(files)
    before = files.moves(None, 10).position
    monkeypatch.setattr(journal, "boot", lambda: "another")
    assert files.moves(before, 10).lost


def test_a_journal_that_cannot_be_read_tells_nothing_for_now(files, monkeypatch):
    start = files.moves(None, 10).position
    job = added(files)
    with monkeypatch.context() as patched:
        patched.setattr(journal, "read", _busy)
        assert told(files, start) == []
        assert files.moves(None, 10).lost
    assert told(files, start) == [(job.id, 1)]


def _busy(*_: object) -> None:
    import sqlite3

    raise sqlite3.OperationalError("database is locked")


def test_whatever_the_order_of_writers_each_change_is_told_once(files):
    chance = random.Random(7)
    start = files.moves(None, 10).position
    job = make_job()
    versions = [job]
    for reason in (Reason.ERROR, Reason.SUCCEEDED):
        versions.append(versions[-1].claimed(NOON))
        versions.append(finish(versions[-1], reason))
    for _ in range(20):
        files.listing.put(chance.choice(versions), since=chance.choice((None, 0, 1, 2, 3)))
    files.listing.put(versions[-1])
    heard = [version for job_id, version in told(files, start)]
    assert heard == [1, 2, 3, 4, 5]
    assert versions[-1].status is JobStatus.SUCCEEDED
