"""The index of jobs: never the truth, never in the way, and back by itself whatever happens to it."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
from datetime import timedelta
from functools import partial

import pytest

from service.deletion import delete_together
from service.durable import Disk, locked
from service.jobs import index as module
from service.jobs import journal
from service.jobs.file_store import FileJobStore
from service.jobs.index import JobIndex, is_damage
from service.jobs.model import JobStatus, Reason
from service.jobs.store import JobQuery
from service.maintenance import delete_expired
from service.storage.local import LocalStorage
from tests.jobs import NOON, finish, make_id, make_job
from tests.waiting import wait_until

FAILED = JobQuery(statuses=frozenset({JobStatus.FAILED}))
QUEUED = JobQuery(statuses=frozenset({JobStatus.QUEUED}))


@pytest.fixture
def root(tmp_path):
    return tmp_path / "data"


@pytest.fixture
def make_store(root):
    stores = []

    def make() -> FileJobStore:
        stores.append(FileJobStore(root, disk=Disk(sync=False)))
        return stores[-1]

    yield make
    for store in stores:
        store.close()


@pytest.fixture
def store(make_store):
    store = make_store()
    store.listing.rebuild()
    return store


@pytest.fixture
def file(root):
    return root / "engine" / "index.db"


def added(store, count=1, **members):
    jobs = [make_job(**members) for _ in range(count)]
    for job in jobs:
        store.create(job)
    return [job.id for job in jobs]


def fail(store, job_id):
    _, lease = store.claim(job_id, lambda job: job.claimed(NOON))
    store.update(job_id, lambda job: finish(job, Reason.REJECTED))
    lease.release()


def listed(store, query=None) -> list[str]:
    return [job.id for job in reversed(store.page(query or JobQuery(limit=1000)).jobs)]


def test_a_running_job_is_listed_under_the_type_that_its_attempt_has_found(store):
    (job_id,) = added(store)
    job, lease = store.claim(job_id, lambda job: job.claimed(NOON))

    store.note(lease, job.evolve(file=job.file.evolve(media_type="text/plain")))
    assert listed(store, JobQuery(media_type="text/plain")) == [job_id]

    lease.release()
    store.update(job_id, lambda job: finish(job, Reason.REJECTED).evolve(file=job.file.evolve(media_type="text/csv")))
    assert listed(store, JobQuery(media_type="text/plain")) == []
    assert listed(store, JobQuery(media_type="text/csv")) == [job_id]


def indexed(file) -> list[str]:
    """Return the ids in the index as another program sees them."""
    connection = sqlite3.connect(file)
    try:
        return [row[0] for row in connection.execute("select id from jobs order by id")]
    finally:
        connection.close()


def test_a_new_store_is_indexed_once_it_has_been_looked_through(make_store):
    store = make_store()
    before = store.listing.is_indexed()
    count = store.listing.rebuild()

    assert (before, count, store.listing.is_indexed()) == (False, 0, True)


def test_jobs_are_indexed_as_they_come_and_change(store, file):
    ids = added(store, 3)
    fail(store, ids[1])
    store.delete(ids[2], lambda job: None)

    assert indexed(file) == ids[:2]
    assert listed(store, FAILED) == [ids[1]]


def test_house_keeping_rebuilds_an_index_that_is_gone(store, file):
    ids = added(store, 3)
    store.listing.close()
    file.unlink()
    again = listed(store)
    was_indexed = store.listing.is_indexed()
    fresh = FileJobStore(store._root, disk=Disk(sync=False))

    fresh.sweep(NOON)

    assert again == ids
    assert not was_indexed
    assert wait_until(fresh.listing.is_indexed)
    assert indexed(file) == listed(fresh) == ids
    fresh.close()


def overwrite(file, start, data):
    with file.open("r+b") as handle:
        handle.seek(start)
        handle.write(data)


def zeros(file):
    overwrite(file, 0, b"\0" * file.stat().st_size)


def noise(file):
    overwrite(file, 0, random.Random(1).randbytes(file.stat().st_size))


def noise_after_the_head(file):
    overwrite(file, 100, random.Random(2).randbytes(file.stat().st_size - 100))


def cut(file):
    os.truncate(file, file.stat().st_size // 2)


def empty(file):
    os.truncate(file, 0)


def text(file):
    file.write_text("not a database\n" * 100)


def without_tables(file):
    connection = sqlite3.connect(file)
    for table in ("jobs", "labels", "gone", "meta"):
        connection.execute(f"drop table {table}")
    connection.commit()
    connection.close()


def of_another_version(file):
    connection = sqlite3.connect(file)
    connection.execute("drop table jobs")
    connection.execute("create table jobs (id integer)")
    connection.execute("pragma user_version = 99")
    connection.commit()
    connection.close()


@pytest.mark.parametrize(
    "damage", [zeros, noise, noise_after_the_head, cut, empty, text, without_tables, of_another_version]
)
@pytest.mark.parametrize("is_open", [False, True])
def test_a_damaged_index_costs_nobody_a_job(store, make_store, file, damage, is_open):
    ids = added(store, 40)
    fail(store, ids[7])
    store.listing.close()
    JobIndex(file).close()
    victim = make_store()
    if is_open:
        assert listed(victim) == ids
    for suffix in ("-wal", "-shm"):
        file.with_name(file.name + suffix).unlink(missing_ok=True)
    damage(file)

    ids += added(victim)
    shown, failed = listed(victim), listed(victim, FAILED)
    fail(victim, ids[9])
    job = victim.get(ids[0])
    victim.sweep(NOON)
    wait_until(victim.listing.is_indexed)

    assert shown == listed(victim) == indexed(file) == ids
    assert failed == [ids[7]]
    assert listed(victim, FAILED) == [ids[7], ids[9]]
    assert job.id == ids[0]


def test_after_a_reboot_the_index_is_not_believed_until_it_is_rebuilt(store, make_store, monkeypatch):
    ids = added(store, 3)
    connection = sqlite3.connect(store._root / "engine" / "index.db")
    connection.execute("delete from jobs where id = ?", (ids[1],))  # the power cut took the row
    connection.commit()
    connection.close()
    lost = listed(store)
    monkeypatch.setattr(journal, "boot", lambda: "another boot")

    walked = listed(store)
    assert store.listing.rebuild() == 3

    assert lost == [ids[0], ids[2]]
    assert walked == listed(store) == ids
    assert store.listing.is_indexed()


def test_rows_without_a_job_are_never_shown(store, file):
    ids = added(store, 4)
    for path in (store.folder(ids[0]), store.folder(ids[2])):
        shutil.rmtree(path)

    assert indexed(file) == ids
    assert listed(store) == [ids[1], ids[3]]
    assert listed(store, QUEUED) == [ids[1], ids[3]]


def test_rows_that_tell_an_old_story_are_not_believed(store, file):
    ids = added(store, 3)
    connection = sqlite3.connect(file)
    connection.execute("update jobs set status = 'failed', version = 99 where id = ?", (ids[1],))
    connection.commit()
    connection.close()

    assert listed(store, FAILED) == []
    assert listed(store) == ids


def test_an_older_row_does_not_replace_a_newer(store, file):
    (job_id,) = added(store)
    older = store.get(job_id)
    fail(store, job_id)

    store.listing.put(older)

    assert listed(store, FAILED) == [job_id]


def test_an_index_that_fails_in_the_middle_of_a_page_shows_every_job_once(store, monkeypatch):
    ids = added(store, 6)
    whole = JobIndex.ids

    def breaks(self, query):
        for number, job_id in enumerate(whole(self, query)):
            if number == 3:
                raise sqlite3.DatabaseError("malformed")
            yield job_id

    monkeypatch.setattr(JobIndex, "ids", breaks)

    assert listed(store) == ids


@pytest.fixture
def busy(store, file, monkeypatch):
    """Let another program write to the index for as long as the test needs, and nobody wait for it."""
    monkeypatch.setattr(module, "_BUSY", 0.01)
    store.listing.close()
    other = sqlite3.connect(file, isolation_level=None)
    other.execute("begin immediate")
    yield other
    other.close()


def test_a_busy_index_is_not_thrown_away(store, make_store, file, busy):
    inode = file.stat().st_ino
    store = make_store()
    ids = added(store, 2)
    shown = listed(store)
    busy.execute("rollback")

    assert file.stat().st_ino == inode
    assert shown == []  # nobody could know; their markers bring the rows
    for job_id in store.pending():
        store.settle(job_id)
    assert listed(store) == ids


def test_a_job_whose_row_could_not_be_written_keeps_its_marker(make_store, busy):
    store = make_store()
    (job_id,) = added(store)
    fail(store, job_id)
    during = store.pending()
    busy.execute("rollback")

    assert during == [job_id]
    assert store.settle(job_id)
    assert store.pending() == []
    assert listed(store, FAILED) == [job_id]


def test_two_stores_may_throw_the_index_away_under_each_other(store, make_store, file):
    other = make_store()
    ids = added(store, 2) + added(other, 2)
    for round_number in range(4):
        one, two = (store, other) if round_number % 2 else (other, store)
        one.listing._index.discard()
        ids += added(two) + added(one)
        two.sweep(NOON)
        assert wait_until(one.listing.is_indexed)
        ids += added(one) + added(two)

        assert listed(one) == listed(two) == indexed(file) == ids


def test_one_that_was_thrown_away_already_is_not_thrown_away_again(store, make_store, file):
    other = make_store()
    added(other)
    store.listing._index.discard()
    ids = added(store)
    inode = file.stat().st_ino

    other.listing._index.discard()

    assert file.stat().st_ino == inode
    assert indexed(file) == ids


def test_processes_that_write_at_once_leave_a_whole_index(store, file, tmp_path):
    ids = added(store, 60)
    store.listing.close()
    file.unlink()

    command = [sys.executable, "-m", "tests.contract.racing", store._root, "4", tmp_path / "got"]
    with subprocess.Popen(command) as racers:
        rebuilt = FileJobStore(store._root, disk=Disk(sync=False))
        rebuilt.listing.rebuild()
        ids += added(rebuilt, 20)
        assert racers.wait(60) == 0

    assert indexed(file) == ids
    assert listed(rebuilt, JobQuery(statuses=frozenset({JobStatus.SUCCEEDED}), limit=1000)) == [
        job_id for job_id in ids if rebuilt.get(job_id).done
    ]
    rebuilt.close()


def test_one_process_rebuilds_at_a_time(store, root):
    with locked(root / "engine" / "index.lock"):
        assert store.listing.rebuild() == -1


def test_a_rebuild_can_be_begun_twice_and_is_one(make_store, monkeypatch):
    store = make_store()
    added(store, 3)
    go = threading.Event()
    rebuild = store.listing.rebuild
    monkeypatch.setattr(store.listing, "rebuild", lambda: go.wait(10) and rebuild())

    first, second = store.listing.start(), store.listing.start()
    go.set()
    first.join()

    assert first is second
    assert store.listing.start() is None


def test_closing_a_store_ends_its_rebuild(make_store, monkeypatch):
    monkeypatch.setattr("service.jobs.listing._BATCH", 1)
    store = make_store()
    added(store, 5)
    reached = threading.Event()
    get = store.listing._get

    def slow(job_id):
        reached.set()
        store.listing._closed.wait(10)
        return get(job_id)

    monkeypatch.setattr(store.listing, "_get", slow)
    thread = store.listing.start()
    reached.wait(10)

    store.close()

    assert not thread.is_alive()
    assert not store.listing.is_indexed()


def test_a_data_directory_that_is_gone_is_told_as_no_jobs(store, root):
    shutil.rmtree(root)

    assert listed(store) == []
    assert store.expired(NOON, 5) == []
    assert store.listing.forget_gone(NOON) == 0
    assert not store.listing.is_gone(make_id())
    assert store.listing.rebuild() == -1


def test_stale_rows_of_expired_jobs_do_not_stand_in_the_way(store, root, monkeypatch):
    """More of them than one round looks at, and older than the job that has to go."""
    monkeypatch.setattr("service.maintenance._BATCH", 2)
    storage = LocalStorage(root, disk=Disk(sync=False))
    ids = added(store, 4)
    for number, job_id in enumerate(ids):
        at = NOON + timedelta(seconds=number)
        store.update(job_id, lambda job, at=at: job.canceled(NOON).evolve(expires_at=at))
    for job_id in ids[:3]:
        shutil.rmtree(store.folder(job_id))

    deleted = [
        delete_expired(store, partial(delete_together, store, storage), NOON + timedelta(days=1)) for _ in range(2)
    ]

    assert sum(deleted) == 1
    assert store.expired(NOON + timedelta(days=1), 10) == []


def test_what_is_damage_and_what_is_the_moment():
    def raised(sql: str) -> sqlite3.Error:
        connection = sqlite3.connect(":memory:")
        try:
            connection.execute(sql)
        except sqlite3.Error as error:
            return error
        finally:
            connection.close()
        raise AssertionError(sql)

    assert is_damage(raised("select * from jobs"))
    assert not is_damage(sqlite3.OperationalError("the folder is gone"))
