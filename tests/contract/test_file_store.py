"""What the file store does beyond the port: what it syncs and in which order, and what a failing disk leaves."""

from __future__ import annotations

import pytest

from service.errors import NotFound, OutcomeUnknown, RecordCorrupt
from service.jobs.file_store import FileJobStore
from service.jobs.model import JobStatus
from service.jobs.store import JobQuery
from tests.contract.watched import WatchedDisk
from tests.jobs import NOON, finish, make_job


@pytest.fixture
def disk(tmp_path):
    return WatchedDisk(tmp_path / "data")


@pytest.fixture
def store(disk, tmp_path):
    store = FileJobStore(tmp_path / "data", disk=disk)
    store.listing.rebuild()
    disk.syncs.clear()
    yield store
    store.close()


@pytest.fixture
def job(store, disk):
    """Give a job that is committed."""
    job = make_job()
    store.create(job)
    disk.syncs.clear()
    return job


def place(store, job) -> str:
    return str(store.folder(job.id).relative_to(store._root))


def cancel(job):
    return job.canceled(NOON)


def no_check(job):
    pass


def test_a_job_is_marked_then_given_its_place_then_committed(store, disk):
    job = make_job()
    folder = place(store, job)
    year, month, day = (folder.rsplit("/", count)[0] for count in (3, 2, 1))

    store.create(job)

    assert disk.syncs == ["pending", "jobs", year, month, day, f"{folder}/job.json.new", folder]


def test_a_change_is_synced_before_and_after_it_is_visible(store, disk, job):
    store.update(job.id, lambda job: job.changed(labels={"a": "b"}))

    assert disk.syncs == [f"{place(store, job)}/job.json.new", place(store, job)]


def test_three_changes_make_the_life_of_a_job(store, disk, job):
    _, lease = store.claim(job.id, lambda job: job.claimed(NOON))
    store.note(lease, lease.job)
    store.update(job.id, finish)
    lease.release()

    assert disk.syncs == [f"{place(store, job)}/job.json.new", place(store, job)] * 2


def test_a_job_that_runs_again_is_marked_first(store, disk, job):
    store.update(job.id, cancel)
    disk.syncs.clear()

    store.update(job.id, lambda job: job.retried(1, NOON))

    assert disk.syncs == ["pending", f"{place(store, job)}/job.json.new", place(store, job)]


@pytest.mark.parametrize("fail", ["pending", "job.json.new"])
def test_a_job_that_could_not_be_committed_leaves_no_record_and_no_marker(store, disk, fail):
    job = make_job()
    disk.fail = fail

    with pytest.raises(OSError, match="the disk fails"):
        store.create(job)

    with pytest.raises(NotFound):
        store.get(job.id)
    assert store.pending() == []


def test_a_job_that_may_be_committed_keeps_its_marker(store, disk):
    job = make_job()
    disk.fail = job.id

    with pytest.raises(OutcomeUnknown) as caught:
        store.create(job)

    assert caught.value.retry_after
    assert "Idempotency-Key" in caught.value.hint
    assert store.get(job.id) == job
    assert store.pending() == [job.id]


def test_a_change_that_could_not_be_committed_is_none(store, disk, job):
    disk.fail = "job.json.new"

    with pytest.raises(OSError, match="the disk fails"):
        store.update(job.id, cancel)

    assert store.get(job.id) == job
    assert store.pending() == [job.id]


def test_a_change_that_may_be_committed_is_visible_and_its_marker_stays(store, disk, job):
    disk.fail = job.id

    with pytest.raises(OutcomeUnknown):
        store.update(job.id, cancel)

    assert store.get(job.id).status is JobStatus.CANCELED
    assert store.pending() == [job.id]
    disk.fail = None
    assert store.settle(job.id)
    assert store.pending() == []
    assert store.page(JobQuery(statuses=frozenset({JobStatus.CANCELED}))).jobs == (store.get(job.id),)


def test_a_claim_that_could_not_be_committed_gives_no_lease(store, disk, job):
    disk.fail = "job.json.new"
    with pytest.raises(OSError, match="the disk fails"):
        store.claim(job.id, lambda job: job.claimed(NOON))
    disk.fail = None

    _, lease = store.claim(job.id, lambda job: job.claimed(NOON))

    assert lease.job.attempt == 1
    lease.release()


def test_a_delete_that_may_have_happened_is_told_and_finished_later(store, disk, job):
    store.update(job.id, cancel)
    disk.fail = job.id

    with pytest.raises(OutcomeUnknown):
        store.delete(job.id, no_check)

    assert store.pending() == [job.id]
    assert not store.settle(job.id)
    assert store.page(JobQuery()).jobs == ()


def test_confirming_syncs_what_a_dead_process_may_not_have(store, disk, job):
    assert store.confirm(job.id) == job

    assert disk.syncs == [f"{place(store, job)}/job.json", place(store, job), "pending"]


def test_confirming_what_cannot_be_synced_fails(store, disk, job):
    disk.fail = "job.json"

    with pytest.raises(OSError, match="the disk fails"):
        store.confirm(job.id)


def test_a_key_is_synced_before_its_job(store, disk):
    scope = "5c" * 32

    with store.hold_key(scope) as hold:
        disk.syncs.clear()
        hold.bind(make_job().id)

    assert disk.syncs == [f"keys/5c/{scope}", "keys/5c"]


def test_the_record_says_where_it_is(store, job):
    assert store.where(job.id) == str(store.folder(job.id) / "job.json")


def test_a_record_that_is_lost_is_told_as_corrupt_and_the_job_can_be_deleted(tmp_path):
    store = FileJobStore(tmp_path)
    job = make_job()
    store.create(job)
    (store.folder(job.id) / "job.json").unlink()
    store.set_aside(job.id)

    with pytest.raises(RecordCorrupt, match="gone"):
        store.get(job.id)
    store.delete(job.id, lambda _: None)
    with pytest.raises(NotFound):
        store.get(job.id)
    assert list(store.quarantined()) == []
    store.close()


def test_a_delete_leaves_a_sign_that_it_has_begun(tmp_path):
    store = FileJobStore(tmp_path)
    job = make_job()
    store.create(job)
    assert not store.is_deleted(job.id)

    store.delete(job.id, lambda _: None)

    assert store.is_deleted(job.id)
    store.close()
