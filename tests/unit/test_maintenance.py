"""Housekeeping: what goes and what stays, in which order, and what is found wrong."""

from __future__ import annotations

import errno
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest

from service import maintenance
from service.clock import HeldClock
from service.deletion import delete_job
from service.durable import locked
from service.errors import Gone, NotFound, OutcomeUnknown
from service.jobs.notices import Kind, Subscriber, Try, announced, delivering
from service.maintenance import collect, delete_expired, sweep_job, sweep_uploads
from service.wiring import build_in_memory
from tests.jobs import NOON, make_job

DAY = timedelta(days=1)


@pytest.fixture
def clock():
    return HeldClock(NOON)


@pytest.fixture
def services(clock):
    return build_in_memory(clock=clock)


@pytest.fixture
def store(services):
    return services.store


@pytest.fixture
def storage(services):
    return services.storage


def added(services, expires_in=None, **members):
    """Add a job with bytes; with ``expires_in`` it is canceled and will expire after that."""
    job = make_job(**members)
    services.store.create(job)
    services.storage._sources[job.id] = b"one"
    if expires_in is not None:
        services.store.update(job.id, lambda job: job.canceled(NOON).expiring(expires_in))
    return job.id


def no_check(job):
    pass


def test_what_has_expired_goes_with_its_bytes_and_leaves_a_tombstone(services, store, storage, clock):
    expired, fresh, waiting = added(services, DAY), added(services, 2 * DAY), added(services)
    clock.advance(DAY)

    collected = collect(services)

    assert (collected.expired, collected.swept) == (1, 0)
    with pytest.raises(Gone):
        store.get(expired)
    assert set(storage._sources) == {fresh, waiting} == set(store.walk())
    assert store.pending() == [waiting]


def test_a_dry_run_counts_and_touches_nothing(services, store, clock):
    ids = [added(services, DAY) for _ in range(3)]
    clock.advance(DAY)

    collected = collect(services, dry_run=True)

    assert (collected.expired, collected.swept, collected.bytes) == (3, 0, 0)
    assert all(store.get(job_id) for job_id in ids)


def test_tombstones_are_kept_for_their_time(services, store, clock):
    expired = added(services, DAY)
    clock.advance(DAY)
    collect(services)
    clock.advance(6 * DAY)
    early = collect(services)
    clock.advance(2 * DAY)
    late = collect(services)

    assert (early.swept, late.swept) == (0, 1)
    with pytest.raises(NotFound) as caught:
        store.get(expired)
    assert not isinstance(caught.value, Gone)


def test_more_than_one_round_of_expired_jobs_goes_in_one_collection(services, clock, monkeypatch):
    monkeypatch.setattr(maintenance, "_BATCH", 2)
    for _ in range(7):
        added(services, DAY)
    clock.advance(DAY)

    assert collect(services).expired == 7


def test_a_collection_that_is_told_to_stop_stops(services, store, storage, monkeypatch):
    monkeypatch.setattr(maintenance, "_BATCH", 1)
    for _ in range(4):
        added(services, DAY)

    assert delete_expired(store, services.delete_all, NOON + DAY, stopped=lambda: len(list(store.walk())) <= 2) == 2
    assert delete_expired(store, services.delete_all, NOON + DAY, stopped=lambda: True) == 0
    assert len(list(store.walk())) == 2


def test_one_process_collects_at_a_time_and_another_waits_until_it_may_or_is_stopped(services, clock, tmp_path):
    services = replace(services, collecting=tmp_path / "collect.lock")
    added(services, DAY)
    clock.advance(DAY)
    with ThreadPoolExecutor(1) as threads:
        with locked(services.collecting):
            looks = iter([False, True])
            assert collect(services, stopped=lambda: next(looks)).expired == 0
            waiting = threads.submit(collect, services)
            with pytest.raises(TimeoutError):
                waiting.result(timeout=0.1)
        assert waiting.result(timeout=30).expired == 1


def test_a_job_stays_while_something_of_it_waits_to_be_sent_and_keeps_no_other(services, store, monkeypatch):
    monkeypatch.setattr(maintenance, "_BATCH", 1)
    to = Subscriber(to="ep_1", kind=Kind.WEBHOOK, address="https://hooks.example.org/")
    telling, other = added(services, DAY), added(services, 2 * DAY)
    store.update(telling, lambda job: announced(job, [to], NOON))
    assert delete_expired(store, services.delete_all, NOON + 2 * DAY) == 1
    assert store.get(telling).id == telling
    with pytest.raises(Gone):
        store.get(other)
    given_up = Try(at=NOON, seconds=0, detail="no")
    name = store.get(telling).notices[0].id
    store.update(telling, lambda job: delivering(job, name, "ep_1", lambda one: one.tried(given_up, "dead", None)))
    assert delete_expired(store, services.delete_all, NOON + 2 * DAY) == 1


def test_a_job_that_was_retried_meanwhile_stays(services, store, storage, monkeypatch):
    job_id = added(services, DAY)
    stale = store.expired(NOON + DAY, 10)
    store.update(job_id, lambda job: job.retried(1, NOON))
    monkeypatch.setattr(store, "expired", lambda now, limit: stale)

    assert delete_expired(store, services.delete_all, NOON + DAY) == 0
    assert store.pending() == [job_id]
    assert storage._sources


@pytest.mark.parametrize("trouble", [OSError(errno.EIO, "a bad sector"), OutcomeUnknown()])
def test_one_job_that_cannot_be_deleted_keeps_no_other(services, store, storage, monkeypatch, trouble):
    bad, *good = [added(services, DAY) for _ in range(3)]
    delete = store.delete

    def fail(job_id, check, **options):
        if job_id == bad:
            raise trouble
        delete(job_id, check, **options)

    monkeypatch.setattr(store, "delete", fail)

    assert delete_expired(store, services.delete_all, NOON + DAY) == 2
    assert list(store.walk()) == [bad]
    assert set(storage._sources).isdisjoint(good)


def test_one_leftover_that_cannot_be_removed_keeps_no_other(services, store, storage, monkeypatch):
    dead = [abandoned(storage, make_job().id) for _ in range(3)]
    delete = storage.delete

    def fail(job_id):
        if job_id == dead[0]:
            raise OSError(errno.EIO, "a bad sector")
        delete(job_id)

    monkeypatch.setattr(storage, "delete", fail)

    assert sweep_uploads(store, storage) == 2
    assert list(storage.leftovers()) == dead[:1]


# in which order


def test_a_delete_removes_the_record_then_the_bytes_then_the_marker(services, store, storage, monkeypatch):
    job_id = added(services, DAY)

    def fail(job_id):
        raise OSError(errno.EIO, "the process dies here")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "delete", fail)
        with pytest.raises(OSError, match="dies here"):
            delete_job(store, storage, job_id, no_check)

    with pytest.raises(NotFound):
        store.get(job_id)
    assert store.pending() == [job_id]
    assert storage._sources
    assert sweep_job(store, storage, job_id)
    assert store.pending() == []
    assert storage._sources == {}


# leftovers


def abandoned(storage, job_id):
    """Leave an upload as the death of its process does."""
    upload = storage.receive(job_id)
    upload._begin()
    del upload
    return job_id


def test_an_upload_whose_process_died_is_swept(services, store, storage):
    job_id = abandoned(storage, make_job().id)
    storage._sources[job_id] = b"had got as far as this"

    assert sweep_uploads(store, storage) == 1
    assert storage._sources == {}
    assert list(storage.leftovers()) == []


def test_an_upload_that_was_committed_is_tidied_and_kept(services, store, storage):
    job_id = added(services)
    abandoned(storage, job_id)

    assert sweep_uploads(store, storage) == 0
    assert list(storage.leftovers()) == []
    assert storage._sources == {job_id: b"one"}
    assert store.pending() == [job_id]


def test_an_upload_in_progress_is_let_alone(services, store, storage):
    job_id = make_job().id
    upload = storage.receive(job_id)
    upload._begin()

    assert not sweep_job(store, storage, job_id)
    assert storage.is_receiving(job_id)


def test_an_upload_with_a_corrupt_record_is_kept_for_whoever_looks_at_it(services, store, storage):
    job_id = added(services)
    store.damage(job_id)
    abandoned(storage, job_id)

    assert sweep_uploads(store, storage) == 0
    assert storage._sources == {job_id: b"one"}
    assert list(store.quarantined()) == [job_id]


def test_a_file_whose_record_is_lost_is_kept_and_set_aside(services, store, storage):
    job_id = added(services)
    del store._records[job_id]

    assert not sweep_job(store, storage, job_id)
    assert storage._sources == {job_id: b"one"}
    assert (list(store.quarantined()), store.pending()) == ([job_id], [])


def test_a_job_comes_back_once_its_record_can_be_read_again(services, store):
    job_id = added(services)
    record = store._records[job_id]
    store.damage(job_id)
    assert store.settle(job_id)
    collect(services)
    assert list(store.quarantined()) == [job_id], "not yet"
    store.damage(job_id, record)

    collect(services)

    assert (list(store.quarantined()), store.pending()) == ([], [job_id])
