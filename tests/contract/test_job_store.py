"""What every job store promises, run against each of them."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

import pytest

from service.clock import HeldClock
from service.durable import Disk
from service.errors import Conflict, Gone, KeyInFlight, NotFound, RecordCorrupt, StaleAttempt
from service.figures import ATTEMPTS, JOB_DURATION, JOBS, QUEUE_WAIT, STAGE_DURATION, Key, Metric, Sum
from service.ids import new_id
from service.jobs.file_store import FileJobStore
from service.jobs.memory_store import MemoryJobStore
from service.jobs.model import Job, JobStatus, Reason, StepProgress, StepRun, StepStatus
from service.jobs.notices import Kind, Subscriber, Try, announced, delivering
from service.jobs.retry import AttemptEnd, RetryPolicy, ended
from service.jobs.store import JobQuery, JobStore
from tests.contract.racing import open_store
from tests.jobs import NOON, POLICY, SHA, finish, make_ended, make_id, make_job, make_step
from tests.postgres import PostgresServer
from tests.waiting import wait_until

DAY = timedelta(days=1)
TIMES = {"key_ttl": DAY, "gone_for": 7 * DAY}


@dataclass
class Rig:
    """A store under test, and what a test cannot do through its port."""

    store: JobStore
    damage: Callable[[str, bytes], object]  #: put these bytes in place of a job's record
    clock: HeldClock


def file_rig(root: Path) -> Rig:
    clock = HeldClock()
    store = FileJobStore(root, disk=Disk(sync=False), clock=clock, **TIMES)
    store.listing.rebuild()
    return Rig(store, lambda job_id, data: (store.folder(job_id) / "job.json").write_bytes(data), clock)


def walking_rig(root: Path) -> Rig:
    """The file store while its index is not complete: lists come from the folders."""
    clock = HeldClock()
    store = FileJobStore(root, disk=Disk(sync=False), clock=clock, **TIMES)
    return Rig(store, lambda job_id, data: (store.folder(job_id) / "job.json").write_bytes(data), clock)


def memory_rig(_: Path) -> Rig:
    clock = HeldClock()
    store = MemoryJobStore(clock=clock, **TIMES)
    return Rig(store, store.damage, clock)


RIGS = {
    "file": file_rig,
    "file, walking": walking_rig,
    "memory": memory_rig,
}


@dataclass
class PostgresRigs:
    """Rigs that share one store and one database, emptied before each test: that is much quicker than new ones."""

    server: PostgresServer
    clock: HeldClock = field(default_factory=HeldClock)

    def __post_init__(self) -> None:
        import psycopg

        from service.jobs.postgres_store import PostgresJobStore

        self.url = self.server.url(self.server.create_database("template"))
        self.store = PostgresJobStore(
            self.url, durable=False, lease=timedelta(seconds=3), clock=lambda: self.clock(), **TIMES
        )
        self.admin = psycopg.connect(self.url, autocommit=True)

    def next(self) -> Rig:
        self.admin.execute("truncate jobs, labels, progress, holds, keys, tallies, moves")
        self.clock = HeldClock()
        return Rig(self.store, self._damage, self.clock)

    def close(self) -> None:
        self.admin.close()
        self.store.close()

    def _damage(self, job_id: str, data: bytes) -> None:
        self.admin.execute("update jobs set record = %b where id = %s", [data, job_id])


@pytest.fixture(scope="module")
def postgres_rigs(postgres):
    rigs = PostgresRigs(postgres)
    yield rigs
    rigs.close()


@pytest.fixture(params=[*RIGS, pytest.param("postgres", marks=pytest.mark.needs("postgres"))])
def rig(request, tmp_path):
    if request.param == "postgres":
        yield request.getfixturevalue("postgres_rigs").next()
        return
    rig = RIGS[request.param](tmp_path / "data")
    yield rig
    rig.store.close()


@pytest.fixture
def store(rig):
    return rig.store


def claim(store: JobStore, job_id: str):
    return store.claim(job_id, lambda job: job.claimed(NOON))


def run(store: JobStore, job_id: str, reason: Reason = Reason.SUCCEEDED) -> Job:
    _, lease = claim(store, job_id)
    try:
        return store.update(job_id, lambda job: finish(job, reason))
    finally:
        lease.release()


def added(store: JobStore, **members) -> Job:
    job = make_job(**members)
    store.create(job)
    return job


def no_check(job: Job) -> None:
    pass


def in_thread(function: Callable[[], object]) -> threading.Thread:
    thread = threading.Thread(target=function)
    thread.start()
    return thread


# create, get


def test_a_created_job_is_there_as_it_was_given(store):
    job = added(store, labels={"source": "mail"}, request_id="r1", key="k", fingerprint="f")

    assert store.get(job.id) == job
    assert store.pending() == [job.id]


def test_a_job_with_words_of_all_the_world_is_there_as_it_was_given(store):
    job = added(store, name='naïve "日本語" \\ \U0001f600.pdf', labels={"ä": "\u2028"})

    assert store.get(job.id) == job


def test_unknown_jobs_are_not_found(store):
    job_id = new_id()

    for act in (
        lambda: store.get(job_id),
        lambda: store.update(job_id, lambda job: job),
        lambda: claim(store, job_id),
        lambda: store.delete(job_id, no_check),
    ):
        with pytest.raises(NotFound) as caught:
            act()
        assert caught.value.problem == "job-not-found"
    assert not store.settle(job_id)


@pytest.mark.parametrize("name", ["", ".", "..", "../../etc/passwd", "nonsense", "x" * 5000, "\0", "É" * 36])
def test_what_is_no_id_is_not_found(store, name):
    for act in (
        lambda: store.get(name),
        lambda: store.update(name, lambda job: job),
        lambda: claim(store, name),
        lambda: store.delete(name, no_check),
    ):
        with pytest.raises(NotFound) as caught:
            act()
        assert caught.value.problem == "job-not-found"
        assert len(caught.value.detail) < 200
    assert not store.settle(name)


def test_confirming_a_job_returns_it_as_it_is(store):
    job = added(store)
    claimed, lease = claim(store, job.id)

    assert store.confirm(job.id) == claimed
    with pytest.raises(NotFound):
        store.confirm(new_id())
    lease.release()


# update


def test_an_update_is_committed_and_returned(store):
    job = added(store)

    after = store.update(job.id, lambda job: job.changed(labels={"seen": "yes"}))

    assert after.labels == {"seen": "yes"}
    assert store.get(job.id) == after


def test_a_change_that_raises_changes_nothing(store):
    job = added(store)

    with pytest.raises(Conflict):
        store.update(job.id, lambda job: job.moved(JobStatus.SUCCEEDED, NOON))

    assert store.get(job.id) == job
    assert store.pending() == [job.id]


def test_a_change_that_returns_its_argument_changes_nothing(store):
    job = added(store)

    assert store.update(job.id, lambda job: job) == job
    assert store.get(job.id) == job


def test_updates_from_many_threads_are_made_one_after_the_other(store):
    job = added(store)

    def count(job: Job) -> Job:
        return job.changed(labels={"count": str(int(job.labels.get("count", "0")) + 1)})

    threads = [in_thread(lambda: [store.update(job.id, count) for _ in range(10)]) for _ in range(6)]
    for thread in threads:
        thread.join()

    assert store.get(job.id).labels == {"count": "60"}
    assert store.get(job.id).version == 61


def test_an_ended_job_is_not_pending_until_somebody_has_it_run_again(store):
    job = added(store)

    run(store, job.id, Reason.REJECTED)
    ended = store.pending()
    store.update(job.id, lambda job: job.retried(3, NOON))

    assert ended == []
    assert store.pending() == [job.id]


# claim, lease


def test_a_claim_gives_the_lease_and_counts_the_attempt(store):
    job = added(store)

    claimed, lease = claim(store, job.id)

    assert lease is not None
    assert lease.job == claimed == store.get(job.id)
    assert (claimed.status, claimed.attempt) == (JobStatus.RUNNING, 1)
    assert store.pending() == [job.id]
    lease.release()


def test_one_lease_is_given_at_a_time(store):
    job = added(store)
    claimed, lease = claim(store, job.id)

    found, second = claim(store, job.id)
    lease.release()

    assert second is None
    assert found == claimed


def test_a_released_lease_is_free_and_releasing_twice_frees_nobody_elses(store):
    job = added(store)
    _, first = claim(store, job.id)
    first.release()
    _, second = store.claim(job.id, lambda job: finish(job, Reason.LOST).claimed(NOON))
    first.release()

    _, third = store.claim(job.id, lambda job: pytest.fail("claimed while it is held"))

    assert second is not None
    assert third is None
    second.release()


def test_a_claim_that_does_not_lead_to_running_gives_no_lease(store):
    job = added(store)

    found, lease = store.claim(job.id, lambda job: job)
    again, second = claim(store, job.id)

    assert (found, lease) == (job, None)
    assert second is not None
    assert again.attempt == 1
    second.release()


def test_a_claim_whose_change_raises_gives_no_lease(store):
    job = added(store)

    def refuse(job: Job) -> Job:
        raise Conflict("not now")

    with pytest.raises(Conflict):
        store.claim(job.id, refuse)
    _, lease = claim(store, job.id)

    assert lease is not None
    lease.release()


def test_threads_that_race_for_jobs_get_each_once(store):
    jobs = [added(store) for _ in range(30)]
    got: list[str] = []

    def work() -> None:
        for job in jobs:
            _, lease = store.claim(job.id, lambda job: job if job.done else job.claimed(NOON))
            if lease is not None:
                got.append(job.id)
                store.update(job.id, finish)
                lease.release()

    for thread in [in_thread(work) for _ in range(6)]:
        thread.join()

    assert sorted(got) == [job.id for job in jobs]
    assert store.pending() == []


# note


def progressed(job: Job, done: int) -> Job:
    step = make_step("look", StepStatus.RUNNING, progress=StepProgress(done=done, total=9))
    return job.evolve(steps=(step, *job.steps[1:]), file=job.file.evolve(media_type="text/plain"))


def test_progress_is_shown_and_grows_the_version(store):
    job = added(store)
    claimed, lease = claim(store, job.id)

    versions = [claimed.version]
    for done in range(3):
        store.note(lease, progressed(claimed, done))
        shown = store.get(job.id)
        versions.append(shown.version)

    assert shown.steps[0].progress == StepProgress(done=2, total=9)
    assert shown.file.media_type == "text/plain"
    assert shown.progress.step == "look"
    assert versions == sorted(set(versions))
    lease.release()


def test_a_mark_differs_whenever_the_job_shows_something_newer(store):
    job, other = added(store), added(store)
    marks = [store.marks([job.id])[job.id]]
    still = store.marks([other.id])

    def look():
        marks.append(store.marks([job.id, other.id])[job.id])

    claimed, lease = claim(store, job.id)
    look()
    for done in range(3):
        store.note(lease, progressed(claimed, done))
        look()
    store.update(job.id, lambda job: finish(job, Reason.REJECTED))
    look()
    assert store.marks([job.id])[job.id] == marks[-1]
    store.delete(job.id, lambda job: None)
    look()

    assert len(set(marks)) == len(marks)
    assert store.marks([other.id]) == still
    lease.release()


def test_a_change_is_made_to_what_is_shown_and_is_newer_than_it(store):
    job = added(store)
    claimed, lease = claim(store, job.id)
    store.note(lease, progressed(claimed, 5))
    shown = store.get(job.id)

    after = store.update(job.id, lambda job: job.canceled(NOON))

    assert after.version > shown.version
    assert after.steps == shown.steps
    assert store.get(job.id) == after
    lease.release()


def test_progress_and_a_change_at_the_same_moment_have_different_versions(store):
    job = added(store)
    claimed, lease = claim(store, job.id)
    noting: list[threading.Thread] = []

    def cancel(job: Job) -> Job:
        noting.append(in_thread(lambda: store.note(lease, progressed(claimed, 5))))
        noting[0].join(0.1)  # it waits for this change, or is done before it
        return job.canceled(NOON)

    after = store.update(job.id, cancel)
    noting[0].join()
    shown = store.get(job.id)

    assert shown.cancel_requested_at == NOON
    assert (shown.steps != after.steps) == (shown.version > after.version)
    assert shown.steps[0].progress == StepProgress(done=5, total=9)
    lease.release()


def test_an_attempt_that_is_over_cannot_show_progress(store):
    job = added(store)
    claimed, first = claim(store, job.id)
    first.release()
    _, second = store.claim(job.id, lambda job: finish(job, Reason.LOST).claimed(NOON))

    with pytest.raises(StaleAttempt):
        store.note(first, progressed(claimed, 5))

    assert store.get(job.id).steps[0].status is StepStatus.WAITING
    second.release()


def test_progress_does_not_outlive_its_attempt(store):
    job = added(store)
    claimed, lease = claim(store, job.id)
    store.note(lease, progressed(claimed, 5))
    lease.release()

    ended = store.update(job.id, lambda job: finish(job, Reason.REJECTED))

    assert store.get(job.id) == ended
    with pytest.raises(StaleAttempt):
        store.note(lease, progressed(claimed, 6))
    assert store.get(job.id) == ended


def test_progress_of_an_earlier_attempt_does_not_show_in_a_later_one(store):
    job = added(store)
    claimed, lease = claim(store, job.id)
    store.note(lease, progressed(claimed, 5))
    store.update(job.id, lambda job: finish(job, Reason.ERROR))
    lease.release()

    again, lease = claim(store, job.id)

    assert store.get(job.id) == again
    assert again.steps[0].status is StepStatus.WAITING
    lease.release()


# page


@pytest.fixture
def jobs(store):
    """Six jobs a minute apart, oldest first: of each status, and with different types, pipelines, labels, digests."""
    members = [
        {"media_type": "image/png", "labels": {"source": "mail", "box": "1"}},
        {"media_type": "image/png", "labels": {"source": "mail"}, "sha256": "cd" * 32},
        {"media_type": "text/plain", "pipeline": "quick"},
        {"media_type": "text/plain", "labels": {"source": "web"}},
        {"labels": {"source": "mail", "box": "2"}},
        {"media_type": "image/png", "pipeline": "quick", "labels": {"source": "web"}},
    ]
    made = [make_job(make_id(NOON + minutes(number)), **each) for number, each in enumerate(members)]
    for job in made:
        store.create(job)
    run(store, made[0].id)
    run(store, made[1].id, Reason.REJECTED)
    store.update(made[2].id, lambda job: job.canceled(NOON))
    claim(store, made[3].id)[1].release()
    return [store.get(job.id) for job in made]


def minutes(number: float) -> timedelta:
    return timedelta(minutes=number)


def shown(store: JobStore, jobs: list[Job], **query) -> list[int]:
    page = store.page(JobQuery(**query))
    assert page.next is None
    assert [store.get(job.id) for job in page.jobs] == list(page.jobs)
    return [jobs.index(job) for job in page.jobs]


def test_a_page_shows_the_newest_first(store, jobs):
    assert shown(store, jobs) == [5, 4, 3, 2, 1, 0]


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({"statuses": frozenset({JobStatus.QUEUED})}, [5, 4]),
        ({"statuses": frozenset({JobStatus.RUNNING})}, [3]),
        ({"statuses": frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED})}, [1, 0]),
        ({"statuses": frozenset({JobStatus.CANCELED})}, [2]),
        ({"statuses": frozenset(JobStatus)}, [5, 4, 3, 2, 1, 0]),
        ({"media_type": "image/png"}, [5, 1, 0]),
        ({"media_type": "audio/ogg"}, []),
        ({"pipeline": "quick"}, [5, 2]),
        ({"sha256": "cd" * 32}, [1]),
        ({"sha256": SHA}, [5, 4, 3, 2, 0]),
        ({"labels": {"source": "mail"}}, [4, 1, 0]),
        ({"labels": {"source": "mail", "box": "2"}}, [4]),
        ({"labels": {"source": "mail", "box": "3"}}, []),
        ({"labels": {"Source": "mail"}}, []),
        ({"created_after": NOON + minutes(4)}, [5, 4]),
        ({"created_before": NOON + minutes(1)}, [0]),
        ({"created_after": NOON + minutes(1), "created_before": NOON + minutes(3)}, [2, 1]),
        ({"created_after": NOON + minutes(3) + timedelta(microseconds=1)}, [5, 4]),
        ({"created_before": NOON + minutes(1) + timedelta(microseconds=1)}, [1, 0]),
        ({"media_type": "image/png", "pipeline": "quick", "labels": {"source": "web"}}, [5]),
        ({"media_type": "image/png", "statuses": frozenset({JobStatus.FAILED})}, [1]),
        ({"before": make_id(NOON + minutes(2))}, [1, 0]),
        ({"before": make_id(NOON + minutes(9))}, [5, 4, 3, 2, 1, 0]),
        ({"before": make_id(NOON)}, []),
    ],
)
def test_filters_pass_what_they_say(store, jobs, query, expected):
    assert shown(store, jobs, **query) == expected


def test_a_page_can_show_the_jobs_of_one_owner(store):
    made = [
        make_job(make_id(NOON + minutes(number)), owner=owner, labels={"n": "1"})
        for number, owner in enumerate(["a", "b", None, "a", "b", "a"])
    ]
    for job in made:
        store.create(job)

    assert shown(store, made, owner="a") == [5, 3, 0]
    assert shown(store, made, owner="b", labels={"n": "1"}) == [4, 1]
    assert shown(store, made, owner="b", statuses=frozenset({JobStatus.FAILED})) == []
    assert shown(store, made, owner="nobody") == []
    assert shown(store, made) == [5, 4, 3, 2, 1, 0]
    first = store.page(JobQuery(owner="a", limit=2))
    assert [made.index(job) for job in store.page(JobQuery(owner="a", before=first.next)).jobs] == [0]


def test_whose_a_lost_job_was_is_remembered_for_as_long_as_it_is_told_to_be_gone(rig):
    store = rig.store
    gone, deleted, corrupt, nobodys = (added(store, owner=owner) for owner in ("a", "b", "c", None))
    store.delete(gone.id, no_check, tombstone=True)
    store.delete(deleted.id, no_check)
    rig.damage(corrupt.id, b"{")

    assert store.last_owner(gone.id) == "a"
    assert store.last_owner(deleted.id) is None
    assert store.last_owner(corrupt.id) == "c"
    assert store.last_owner(nobodys.id) is None
    store.sweep(rig.clock() + 8 * DAY)
    assert store.last_owner(gone.id) is None


def test_a_filter_follows_the_job_through_its_life(store, jobs):
    run(store, jobs[5].id, Reason.REJECTED)
    failed = shown(store, [store.get(job.id) for job in jobs], statuses=frozenset({JobStatus.FAILED}))
    store.update(jobs[5].id, lambda job: job.retried(1, NOON).evolve(file=job.file.evolve(media_type="text/csv")))
    now = [store.get(job.id) for job in jobs]

    assert failed == [5, 1]
    assert shown(store, now, statuses=frozenset({JobStatus.FAILED})) == [1]
    assert shown(store, now, media_type="text/csv", statuses=frozenset({JobStatus.QUEUED})) == [5]
    assert shown(store, now, media_type="image/png") == [1, 0]


@pytest.mark.parametrize("limit", [1, 2, 3, 5, 6, 7])
@pytest.mark.parametrize("filters", [{}, {"labels": {"source": "mail"}}, {"media_type": "image/png"}])
def test_the_cursor_leads_through_all_jobs_once(store, jobs, limit, filters):
    whole = store.page(JobQuery(**filters)).jobs
    pages = [store.page(JobQuery(limit=limit, **filters))]
    while pages[-1].next is not None:
        pages.append(store.page(JobQuery(limit=limit, before=pages[-1].next, **filters)))

    assert [job for page in pages for job in page.jobs] == list(whole)
    assert all(len(page.jobs) == limit for page in pages[:-1])
    assert pages[-1].jobs


def test_jobs_that_arrive_meanwhile_do_not_move_the_next_page(store, jobs):
    first = store.page(JobQuery(limit=2))
    store.create(make_job(make_id(NOON + minutes(9))))

    second = store.page(JobQuery(limit=2, before=first.next))

    assert [jobs.index(job) for job in second.jobs] == [3, 2]


def test_a_page_shows_progress(store):
    job = added(store)
    claimed, lease = claim(store, job.id)
    store.note(lease, progressed(claimed, 3))

    assert store.page(JobQuery(limit=1)).jobs == (store.get(job.id),)
    lease.release()


def test_deleted_jobs_are_in_no_page(store, jobs):
    store.delete(jobs[0].id, no_check)
    store.delete(jobs[1].id, no_check, tombstone=True)

    assert shown(store, jobs) == [5, 4, 3, 2]
    assert shown(store, jobs, labels={"source": "mail"}) == [4]


def test_an_empty_store_has_an_empty_page(store):
    page = store.page(JobQuery())

    assert (page.jobs, page.next) == ((), None)


def test_the_walk_gives_all_ids_newest_first(store, jobs):
    assert list(store.walk()) == [job.id for job in reversed(jobs)]


# pending, settle, corrupt records


def test_pending_jobs_are_given_oldest_first(store):
    ids = [make_id(NOON + minutes(number)) for number in (3, 1, 2)]
    for job_id in ids:
        store.create(make_job(job_id))

    assert store.pending() == sorted(ids)


def test_the_jobs_of_an_owner_that_are_not_done_are_counted(store):
    for owner in ("a", "a", "a", "b", None):
        job = added(store, owner=owner)
    done = added(store, owner="a")
    store.update(done.id, lambda job: job.canceled(NOON))
    running = added(store, owner="a")
    _, lease = claim(store, running.id)

    assert [store.active(owner) for owner in ("a", "b", "c")] == [4, 1, 0]
    store.update(job.id, lambda job: job.canceled(NOON))
    assert store.active("b") == 1
    lease.release()


def test_a_pending_id_tells_its_owner_without_its_record(rig):
    store = rig.store
    one, nobodys, again = added(store, owner="a"), added(store), added(store, owner="b")
    store.update(again.id, lambda job: job.canceled(NOON))
    store.update(again.id, lambda job: job.retried(1, NOON))
    rig.damage(one.id, b"{")

    assert [store.owner_hint(job.id) for job in (one, nobodys, again)] == ["a", "", "b"]
    assert store.owner_hint(make_id()) == ""


def test_settling_drops_what_is_done_and_nothing_else(store):
    waiting, running, done = added(store), added(store), added(store)
    _, lease = claim(store, running.id)
    store.update(done.id, lambda job: job.canceled(NOON))

    assert all(store.settle(job.id) for job in (waiting, running, done))
    assert store.pending() == [waiting.id, running.id]
    lease.release()


@pytest.mark.parametrize("record", [b"", b"{}", b"\xff\xfe\0", b"[1]", b"{" * 100_000, b'{"schema": 99}'])
def test_a_corrupt_record_is_told_set_aside_and_can_be_deleted(rig, record):
    store = rig.store
    good, bad = added(store), added(store)
    rig.damage(bad.id, record)

    with pytest.raises(RecordCorrupt):
        store.get(bad.id)
    with pytest.raises(RecordCorrupt):
        claim(store, bad.id)
    assert store.page(JobQuery()).jobs == (good,)
    assert store.settle(bad.id)
    assert store.pending() == [good.id]
    assert list(store.quarantined()) == [bad.id]

    store.delete(bad.id, lambda job: pytest.fail("there is no job to check"))

    with pytest.raises(NotFound):
        store.get(bad.id)
    assert list(store.quarantined()) == []


def test_the_record_of_another_job_is_corrupt(rig):
    one, other = added(rig.store), added(rig.store)
    rig.damage(one.id, b'{"schema":1,' + other.model_dump_json().encode()[1:])

    with pytest.raises(RecordCorrupt):
        rig.store.get(one.id)


# delete, tombstones, expiry


def test_a_deleted_job_is_not_found_and_pending_until_it_is_forgotten(store):
    job = added(store)
    run(store, job.id)

    store.delete(job.id, no_check)

    with pytest.raises(NotFound) as caught:
        store.get(job.id)
    assert not isinstance(caught.value, Gone)
    assert store.pending() == [job.id]
    assert not store.settle(job.id)
    store.forget(job.id)
    store.forget(job.id)
    assert store.pending() == []


def test_a_check_that_raises_keeps_the_job(store):
    job = added(store)

    def check(job: Job) -> None:
        raise Conflict(job.id)

    with pytest.raises(Conflict):
        store.delete(job.id, check)

    assert store.get(job.id) == job


def test_a_tombstone_says_gone_for_a_while(rig):
    store = rig.store
    job = added(store)
    store.delete(job.id, no_check, tombstone=True)

    for act in (lambda: store.get(job.id), lambda: store.update(job.id, lambda job: job), lambda: claim(store, job.id)):
        with pytest.raises(Gone) as caught:
            act()
        assert caught.value.problem == "job-expired"
    assert store.sweep(rig.clock.advance(7 * DAY)) == 0
    assert store.sweep(rig.clock.advance(2)) == 1
    with pytest.raises(NotFound) as caught:
        store.get(job.id)
    assert not isinstance(caught.value, Gone)


def test_expired_jobs_are_given_in_the_order_of_their_expiry(store):
    times = {300: "", 100: "", 200: "", 1000: ""}
    for seconds in times:
        job = added(store)
        store.update(job.id, lambda job, at=seconds: job.canceled(NOON).evolve(expires_at=NOON + timedelta(seconds=at)))
        times[seconds] = job.id
    added(store)

    assert store.expired(NOON, 10) == []
    assert store.expired(NOON + timedelta(seconds=300), 10) == [times[100], times[200], times[300]]
    assert store.expired(NOON + timedelta(seconds=300), 2) == [times[100], times[200]]
    assert store.expired(NOON + timedelta(milliseconds=99_999), 10) == []


def test_a_job_that_runs_again_does_not_expire(store):
    job = added(store)
    run(store, job.id, Reason.REJECTED)
    store.update(job.id, lambda job: job.expiring(DAY))
    expired = store.expired(NOON + 2 * DAY, 10)
    store.update(job.id, lambda job: job.retried(1, NOON))

    assert expired == [job.id]
    assert store.expired(NOON + 2 * DAY, 10) == []


# keys

SCOPE = "5c" * 32


@contextmanager
def held(store: JobStore, scope: str = SCOPE):
    with store.hold_key(scope) as hold:
        yield hold


def test_a_new_key_leads_nowhere(store):
    with held(store) as hold:
        assert hold.known is None


def test_a_bound_key_leads_to_its_job(store):
    job = make_job()
    with held(store) as hold:
        hold.bind(job.id)
        store.create(job)
    run(store, job.id)

    with held(store) as hold:
        assert hold.known == job.id
    with held(store, "6d" * 32) as hold:
        assert hold.known is None


def test_a_held_key_is_in_flight_for_everybody_else(store):
    with held(store):
        with pytest.raises(KeyInFlight) as caught, held(store):
            pass
        with held(store, "6d" * 32):
            pass
    assert caught.value.retry_after == 1
    with held(store):
        pass


def test_a_key_is_free_when_its_request_failed(store):
    def fail() -> None:
        with held(store) as hold:
            hold.bind(new_id())
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        fail()

    with held(store) as hold:
        assert hold.known is None


def test_a_key_is_free_when_its_job_was_deleted(store):
    job = make_job()
    with held(store) as hold:
        hold.bind(job.id)
        store.create(job)
    store.delete(job.id, no_check)

    with held(store) as hold:
        assert hold.known is None
        hold.bind(added(store).id)


def test_threads_that_race_for_a_key_make_one_job(store):
    made: list[str] = []
    refused: list[KeyInFlight] = []
    barrier = threading.Barrier(8)

    def upload() -> None:
        barrier.wait()
        try:
            with held(store) as hold:
                if hold.known is None:
                    job = make_job()
                    hold.bind(job.id)
                    store.create(job)
                    made.append(job.id)
        except KeyInFlight as error:
            refused.append(error)

    for thread in [in_thread(upload) for _ in range(8)]:
        thread.join()

    assert len(made) == 1
    assert store.pending() == made


def test_old_keys_of_ended_jobs_are_swept(rig):
    store, waiting, done = rig.store, make_job(), make_job()
    for scope, job in (("1a" * 32, waiting), ("2b" * 32, done)):
        with held(store, scope) as hold:
            hold.bind(job.id)
            store.create(job)
    run(store, done.id)
    later = rig.clock.advance(DAY - timedelta(minutes=1))

    assert store.sweep(later) == 0
    with held(store, "2b" * 32):
        assert store.sweep(rig.clock.advance(minutes(5))) == 0
    assert store.sweep(rig.clock()) == 1
    with held(store, "1a" * 32) as hold:
        assert hold.known == waiting.id
    with held(store, "2b" * 32) as hold:
        assert hold.known is None


# several processes: stores that more than one can see


@pytest.fixture(params=["file", pytest.param("postgres", marks=pytest.mark.needs("postgres"))])
def place(request, tmp_path):
    """Where a store is that several processes can open: a folder, or a URL."""
    return str(tmp_path / "data") if request.param == "file" else request.getfixturevalue("records_url")


@pytest.fixture
def shared(place):
    store = open_store(place)
    yield store
    store.close()


def test_processes_that_race_for_jobs_get_each_once(shared, place, tmp_path):
    ids = [added(shared).id for _ in range(240)]

    command = [sys.executable, "-m", "tests.contract.racing", place, "6", tmp_path / "got"]
    subprocess.run(command, check=True, timeout=60)

    got = [line for path in tmp_path.glob("got.*") for line in path.read_text().splitlines()]
    assert sorted(got) == ids
    assert all((job := shared.get(job_id)).attempt == 1 and job.status is JobStatus.SUCCEEDED for job_id in ids)
    assert shared.pending() == []


def test_a_lease_and_a_key_are_free_when_their_process_dies(shared, place):
    """At once where the kernel tells, and where the server's clock does, when they were not renewed for as long as a lease."""
    job = added(shared)
    code = """if True:
        import sys
        from tests.contract.racing import open_store
        from tests.jobs import NOON
        store = open_store(sys.argv[1])
        job, lease = store.claim(sys.argv[2], lambda job: job.claimed(NOON))
        with store.hold_key(sys.argv[3]) as hold:
            hold.bind(sys.argv[2])
            print(lease is not None, flush=True)
            input()
    """
    command = [sys.executable, "-c", code, place, job.id, SCOPE]

    def is_held() -> bool:
        try:
            with held(shared):
                return False
        except KeyInFlight:
            return True

    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout.readline() == b"True\n"
        until = time.monotonic() + (2.5 if "://" in place else 0)  # longer than a lease there: it is renewed
        wait_until(lambda: time.monotonic() > until or not is_held() or claim(shared, job.id)[1], 10)
        assert is_held()
        assert claim(shared, job.id) == (shared.get(job.id), None)
        holder.kill()

    lost = lambda: shared.claim(job.id, lambda job: finish(job, Reason.LOST).claimed(NOON))[1]  # noqa: E731
    lease = wait_until(lost, 10)
    wait_until(lambda: not is_held(), 10)

    assert lease.job.attempt == 2
    with held(shared) as hold:
        assert hold.known == job.id
    lease.release()


def test_a_second_store_sees_what_the_first_has_written(shared, place):
    job = added(shared)
    _, lease = claim(shared, job.id)

    with_other = open_store(place)

    assert with_other.get(job.id) == shared.get(job.id)
    assert with_other.pending() == [job.id]
    assert claim(with_other, job.id)[1] is None
    lease.release()
    with_other.close()


def test_a_second_store_is_told_what_changes_or_says_that_it_is_not(shared, place):
    other = open_store(place)
    changed: list[str] = []
    due: list[str] = []

    if other.heed(changed.append) and other.heed(due.append, due=True):
        first = added(shared)  # news may be lost until the other listens
        wait_until(lambda: first.id in due or shared.update(first.id, lambda job: job.changed()) is None, 10)
        job = added(shared)
        wait_until(lambda: job.id in due and job.id in changed)
        del changed[:], due[:]
        claimed, lease = claim(shared, job.id)
        wait_until(lambda: changed)
        del changed[:]
        shared.note(lease, progressed(claimed, 3))
        wait_until(lambda: changed)
        shared.update(job.id, lambda job: finish(job, Reason.ERROR))  # due at once, and its lease is held
        lease.release()
        wait_until(lambda: job.id in due)
        assert set(changed) == set(due) == {job.id}
    other.close()


def test_made_from_ended_jobs_too(store):
    """A store takes a job in any status: imports and tests bring ended ones."""
    for status in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED):
        job = make_ended(status)
        store.create(job)
        assert store.get(job.id).status is status
        assert store.settle(job.id)
    assert store.pending() == []


# figures


def told(store: JobStore, metric: Metric, *labels: str) -> Sum:
    """Return what a store has counted of a metric with these labels, over all buckets."""
    total = Sum()
    for key, value in store.figures(NOON).sums.items():
        if (key.metric, key.labels) == (metric.name, labels):
            total = total.plus(value)
    return total


def run_steps(store: JobStore, job_id: str, reason: Reason, *ran: StepRun, now=NOON, policy=POLICY) -> Job:
    _, lease = claim(store, job_id)
    try:
        end = AttemptEnd(reason=reason, ran=ran)
        return store.update(job_id, lambda job: ended(job, end, policy, now))
    finally:
        lease.release()


def test_jobs_that_came_to_an_end_are_counted_once_by_their_status(store):
    for reason in (Reason.SUCCEEDED, Reason.SUCCEEDED, Reason.REJECTED):
        run(store, added(store).id, reason)
    canceled = store.update(added(store).id, lambda job: job.canceled(NOON))
    for _ in range(2):
        store.settle(canceled.id)
        store.update(canceled.id, lambda job: job.changed(labels={}))

    assert [told(store, JOBS, status).total for status in ("succeeded", "failed", "canceled")] == [2, 1, 1]


def test_attempts_are_counted_once_by_their_reason_through_retries(store):
    job = added(store)
    run(store, job.id, Reason.ERROR)
    run(store, job.id, Reason.ERROR)
    run(store, job.id, Reason.SUCCEEDED)

    assert told(store, ATTEMPTS, "error").total == 2
    assert told(store, ATTEMPTS, "succeeded").total == 1
    assert told(store, JOBS, "succeeded").total == 1


def test_a_job_that_somebody_retries_ends_twice(store):
    job = added(store)
    run(store, job.id, Reason.REJECTED)
    store.update(job.id, lambda job: job.retried(3, NOON))
    run(store, job.id)

    assert told(store, JOBS, "failed").total == told(store, JOBS, "succeeded").total == 1
    assert told(store, JOB_DURATION).number == 1


def test_waits_and_durations_are_observed_in_seconds(store):
    job = added(store, job_id=make_id(NOON - timedelta(seconds=40)))
    ran = [
        StepRun(step="look", status="succeeded", started_at=NOON, seconds=0.25),
        StepRun(step="count", status="failed", started_at=NOON, seconds=7),
    ]
    run_steps(store, job.id, Reason.REJECTED, *ran, now=NOON + timedelta(seconds=2))

    assert told(store, QUEUE_WAIT) == Sum(1, 40)
    assert told(store, JOB_DURATION) == Sum(1, 42)
    assert told(store, STAGE_DURATION, "look", "succeeded") == Sum(1, 0.25)
    assert told(store, STAGE_DURATION, "count", "failed") == Sum(1, 7)
    assert Key(STAGE_DURATION.name, ("look", "succeeded"), 3) in store.figures(NOON).sums  # bounds: 0.01 0.05 0.1 0.25


def test_steps_of_an_attempt_that_is_retried_stay_counted(store):
    job = added(store)
    run_steps(store, job.id, Reason.ERROR, StepRun(step="look", status="failed", started_at=NOON, seconds=1))
    run_steps(store, job.id, Reason.SUCCEEDED, StepRun(step="look", status="succeeded", started_at=NOON, seconds=2))

    assert told(store, STAGE_DURATION, "look", "failed") == Sum(1, 1)
    assert told(store, STAGE_DURATION, "look", "succeeded") == Sum(1, 2)


def test_jobs_in_progress_are_told_by_status(store):
    jobs = [added(store) for _ in range(4)]
    claim(store, jobs[0].id)[1].release()
    run(store, jobs[1].id)

    assert store.figures(NOON).in_progress == {JobStatus.QUEUED: 2, JobStatus.RUNNING: 1}


def test_the_oldest_job_is_the_one_that_has_been_due_longest(store):
    now = NOON + timedelta(minutes=10)
    assert store.figures(now).oldest_due is None
    retried = added(store, job_id=make_id(NOON - timedelta(hours=1)))
    later = RetryPolicy(base=timedelta(minutes=20), cap=timedelta(minutes=20), jitter=lambda _, longest: longest)
    run_steps(store, retried.id, Reason.ERROR, policy=later)  # due in 20 minutes
    assert store.figures(now).oldest_due is None

    for minutes in (3, 5):
        added(store, job_id=make_id(NOON + timedelta(minutes=minutes)))
    assert store.figures(now).oldest_due == (NOON + timedelta(minutes=3)).timestamp()
    much_later = NOON + timedelta(days=2)
    assert store.figures(much_later).oldest_due == (NOON + timedelta(minutes=3)).timestamp()


def test_what_was_counted_of_a_deleted_job_stays_counted(store):
    job = run(store, added(store).id)
    store.delete(job.id, no_check)
    store.forget(job.id)

    figures = store.figures(NOON)
    assert told(store, JOBS, "succeeded").total == 1
    assert set(figures.in_progress.values()) == {0}


def test_records_set_aside_are_told(rig):
    job = added(rig.store)
    rig.damage(job.id, b"{")
    rig.store.settle(job.id)

    assert rig.store.figures(NOON).quarantined == 1


# what is to be sent

FOR = (Subscriber(to="ep_1", kind=Kind.WEBHOOK, address="https://hooks.example.org/"),)


def end_with_something_to_send(store: JobStore) -> Job:
    job = added(store)
    return store.update(job.id, lambda one: announced(one.canceled(NOON), FOR, NOON))


def now_delivered(job: Job) -> Job:
    attempt = Try(at=NOON, seconds=0.1, detail="delivered")
    return delivering(job, job.notices[0].id, "ep_1", lambda one: one.tried(attempt, "delivered", None))


def now_dead(job: Job) -> Job:
    attempt = Try(at=NOON, seconds=0.1, detail="no")
    return delivering(job, job.notices[0].id, "ep_1", lambda one: one.tried(attempt, "dead", None))


def test_a_job_is_undelivered_from_its_end_until_nothing_waits(store):
    job = end_with_something_to_send(store)
    assert store.pending() == []
    assert store.undelivered() == [job.id]
    assert (store.figures(NOON).undelivered, store.figures(NOON).dead_letters) == (1, 0)
    after = store.update(job.id, now_delivered)
    assert after.version == job.version
    assert store.undelivered() == []
    assert store.dead_letters() == []


def test_what_was_given_up_is_a_dead_letter_until_it_is_replayed(store):
    job = end_with_something_to_send(store)
    store.update(job.id, now_dead)
    assert store.undelivered() == []
    assert store.dead_letters() == [job.id]
    assert (store.figures(NOON).undelivered, store.figures(NOON).dead_letters) == (0, 1)
    store.update(job.id, lambda one: delivering(one, one.notices[0].id, "ep_1", lambda d: d.replayed(NOON)))
    assert store.undelivered() == [job.id]
    assert store.dead_letters() == []


def test_a_retried_job_is_undelivered_as_long_as_something_waits(store):
    job = end_with_something_to_send(store)
    store.update(job.id, lambda one: one.retried(3, NOON))
    assert store.undelivered() == [job.id]
    assert store.pending() == [job.id]


def test_a_deleted_job_has_nothing_to_send(store):
    job = end_with_something_to_send(store)
    store.delete(job.id, no_check)
    store.settle(job.id)
    store.forget(job.id)
    assert store.undelivered() == []
    assert store.dead_letters() == []


# the lead


def test_one_process_at_a_time_has_the_lead(rig):
    assert not rig.store.is_led()

    lead = rig.store.lead()

    assert lead is not None
    assert lead.is_held()
    assert rig.store.is_led()
    assert rig.store.lead() is None
    lead.release()
    lead.release()
    assert not lead.is_held()
    assert not rig.store.is_led()
    another = rig.store.lead()
    assert another is not None
    another.release()
