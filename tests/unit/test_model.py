"""The job: the table of moves, each move, and what a move may not do."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta, timezone

import pytest
from pydantic import ValidationError

from service.errors import Conflict, StaleAttempt
from service.jobs.model import (
    ENDS,
    TRANSITIONS,
    FileInfo,
    Job,
    JobDocument,
    JobStatus,
    Progress,
    Reason,
    StepProgress,
    StepStatus,
    rewound,
    settled,
)
from service.jobs.status import CHANGED, EVENTS, PROGRESS, REMEMBERED
from tests.jobs import NOON, finish, make_artifact, make_ended, make_id, make_job, make_step

QUEUED, RUNNING, SUCCEEDED, FAILED, CANCELED = JobStatus
LATER = NOON + timedelta(hours=1)


def at(status: JobStatus, **members) -> Job:
    """Return a job in this status, come there along the ways there are."""
    if status is QUEUED:
        return make_job(**members)
    if status is RUNNING:
        return make_job(**members).claimed(NOON)
    return make_ended(status, **members)


@pytest.mark.parametrize(
    ("status", "next_ones"),
    [
        (QUEUED, {RUNNING, CANCELED}),
        (RUNNING, {SUCCEEDED, FAILED, CANCELED, QUEUED}),
        (SUCCEEDED, set()),
        (FAILED, {QUEUED}),
        (CANCELED, {QUEUED}),
    ],
)
def test_the_table_of_moves_member_by_member(status, next_ones):
    assert TRANSITIONS[status] == next_ones
    assert set(TRANSITIONS) == set(JobStatus)


@pytest.mark.parametrize("start", JobStatus)
@pytest.mark.parametrize("end", JobStatus)
def test_a_job_moves_along_the_table_and_nowhere_else(start, end):
    job = at(start)

    if end in TRANSITIONS[start]:
        moved = job.moved(end, NOON)
        assert (moved.status, moved.version) == (end, job.version + 1)
    else:
        with pytest.raises(Conflict) as caught:
            job.moved(end, NOON)
        assert caught.value.extras == {"job_status": str(start)}
        assert str(start) in caught.value.detail


@pytest.mark.parametrize("status", JobStatus)
def test_done_is_true_in_the_three_end_states(status):
    assert at(status).done is (status in (SUCCEEDED, FAILED, CANCELED)) is (status in ENDS)


def test_words_are_those_of_the_documents():
    assert [str(status) for status in JobStatus] == ["queued", "running", "succeeded", "failed", "canceled"]
    assert [str(status) for status in StepStatus] == ["waiting", "running", "succeeded", "failed", "skipped"]
    assert [str(reason) for reason in Reason] == [
        "succeeded",
        "rejected",
        "lost_input",
        "retry",
        "error",
        "timeout",
        "memory",
        "crashed",
        "lost",
        "interrupted",
        "canceled",
    ]


def test_a_job_is_frozen_and_the_next_version_is_another():
    job = make_job()

    with pytest.raises(ValidationError, match="frozen"):
        job.status = RUNNING

    after = job.changed(labels={"a": "b"})
    assert (job.version, job.labels, after.version, after.labels) == (1, {}, 2, {"a": "b"})


# claimed


def test_claiming_counts_the_attempt_before_it_runs():
    job = make_job().claimed(NOON)

    assert (job.status, job.attempt, job.started_at, job.retry_at) == (RUNNING, 1, NOON, None)
    assert [(attempt.number, attempt.started_at, attempt.reason) for attempt in job.attempts] == [(1, NOON, None)]


def test_claiming_again_keeps_the_first_start():
    job = finish(make_job().claimed(NOON), Reason.ERROR).claimed(LATER)

    assert (job.attempt, job.started_at, job.retry_at) == (2, NOON, None)
    assert [attempt.number for attempt in job.attempts] == [1, 2]


def test_the_record_remembers_the_last_twenty_attempts():
    job = make_job()
    for _ in range(25):
        job = finish(job.claimed(NOON), Reason.INTERRUPTED)

    assert [attempt.number for attempt in job.attempts] == list(range(6, 26))


@pytest.mark.parametrize("status", [RUNNING, *sorted(ENDS)])
def test_only_a_queued_job_can_be_claimed(status):
    with pytest.raises(Conflict):
        at(status).claimed(NOON)


# canceled


def test_a_queued_job_is_canceled_at_once():
    job = make_job().canceled(LATER)

    assert (job.status, job.cancel_requested_at, job.finished_at) == (CANCELED, LATER, LATER)
    assert [step.status for step in job.steps] == [StepStatus.SKIPPED, StepStatus.SKIPPED]


def test_a_running_job_notes_the_wish():
    job = at(RUNNING).canceled(LATER)

    assert (job.status, job.cancel_requested_at, job.finished_at) == (RUNNING, LATER, None)


@pytest.mark.parametrize("status", [RUNNING, CANCELED])
def test_canceling_twice_is_the_same_as_once(status):
    job = at(status).canceled(NOON)

    assert job.canceled(LATER) is job


@pytest.mark.parametrize("status", [SUCCEEDED, FAILED])
def test_what_has_ended_otherwise_cannot_be_canceled(status):
    with pytest.raises(Conflict):
        at(status).canceled(LATER)


# retried


@pytest.mark.parametrize("status", [FAILED, CANCELED])
def test_a_retry_queues_the_job_with_a_new_budget(status):
    job = at(status).expiring(timedelta(days=1))

    after = job.retried(3, NOON)

    assert (after.status, after.budget_from, after.max_attempts) == (QUEUED, job.attempt + 1, job.attempt + 3)
    assert (after.finished_at, after.expires_at, after.retry_at, after.cancel_requested_at) == (None, None, None, None)
    assert after.error is None
    assert after.version == job.version + 1
    assert after.attempts == job.attempts


def test_a_retry_keeps_what_has_succeeded():
    steps = (make_step("look", StepStatus.SUCCEEDED, facts={"a": 1}), make_step("count", StepStatus.FAILED))
    job = make_job(steps=steps).claimed(NOON)

    after = finish(job, Reason.REJECTED).retried(1, NOON)

    assert after.steps == (steps[0], make_step("count"))


@pytest.mark.parametrize("status", [QUEUED, RUNNING, SUCCEEDED])
def test_what_has_not_failed_cannot_be_retried(status):
    with pytest.raises(Conflict):
        at(status).retried(3, NOON)


# expiring


@pytest.mark.parametrize("status", sorted(ENDS))
def test_an_ended_job_expires_after_the_retention(status):
    job = at(status).expiring(timedelta(days=1))

    assert job.expires_at == NOON + timedelta(days=1)


@pytest.mark.parametrize("status", [QUEUED, RUNNING])
def test_a_job_that_goes_on_does_not_expire(status):
    job = at(status)

    assert job.expiring(timedelta(days=1)) is job


def test_without_retention_nothing_expires():
    job = at(SUCCEEDED)

    assert job.expiring(None) is job


def test_an_expiry_once_told_stays():
    job = at(SUCCEEDED).expiring(timedelta(days=1))

    assert job.expiring(timedelta(days=9)) is job


# fence


def test_the_attempt_that_runs_may_write():
    at(RUNNING).require_attempt(1)


@pytest.mark.parametrize("number", [0, 2])
def test_any_other_attempt_is_stale(number):
    with pytest.raises(StaleAttempt):
        at(RUNNING).require_attempt(number)


@pytest.mark.parametrize("status", [QUEUED, *sorted(ENDS)])
def test_every_attempt_is_stale_when_none_runs(status):
    with pytest.raises(StaleAttempt):
        at(status).require_attempt(1)


# steps


def all_statuses():
    return tuple(make_step(str(status), status, progress=StepProgress(done=1)) for status in StepStatus)


def test_rewinding_lets_everything_wait_that_has_not_succeeded():
    steps = rewound(all_statuses())

    assert [step.status for step in steps] == [
        StepStatus.WAITING,
        StepStatus.WAITING,
        StepStatus.SUCCEEDED,
        StepStatus.WAITING,
        StepStatus.WAITING,
    ]
    assert all(step.progress is None for step in steps if step.status is StepStatus.WAITING)


def test_settling_skips_what_did_not_get_its_turn():
    steps = settled(all_statuses())

    assert [step.status for step in steps] == [
        StepStatus.SKIPPED,
        StepStatus.SKIPPED,
        StepStatus.SUCCEEDED,
        StepStatus.FAILED,
        StepStatus.SKIPPED,
    ]


def test_the_progress_of_a_job_counts_the_steps_that_are_over():
    assert make_job(steps=all_statuses()).progress == Progress(done=3, total=5, step="running")
    assert make_job(steps=()).progress == Progress(done=0, total=0)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_progress_is_a_number_that_can_be_written(value):
    with pytest.raises(ValidationError):
        StepProgress(done=value)
    with pytest.raises(ValidationError):
        StepProgress(done=1, total=value)


# documents


def test_moments_are_written_in_utc_with_milliseconds():
    elsewhere = datetime(2026, 11, 22, 14, 0, 0, 123_456, tzinfo=timezone(timedelta(hours=2)))
    job = make_job(make_id(NOON)).canceled(elsewhere.astimezone(UTC))

    document = json.loads(job.document().model_dump_json())

    assert document["created_at"] == "2026-11-22T12:00:00.000Z"
    assert document["finished_at"] == "2026-11-22T12:00:00.123Z"


def test_the_document_hides_what_only_the_service_needs():
    job = make_job(key="scope", fingerprint="f", request_id="r").claimed(NOON)

    document = job.document()

    shown = json.loads(document.model_dump_json())
    assert not {"attempts", "budget_from", "key", "fingerprint", "request_id"} & set(shown)
    assert set(shown) == {*JobDocument.model_fields, "done", "progress"}
    assert (shown["status"], shown["attempt"], shown["done"]) == ("running", 1, False)


def test_a_tag_differs_with_every_version_and_attempt():
    queued = make_job()
    running = queued.claimed(NOON)
    again = finish(running, Reason.ERROR).claimed(NOON)

    assert len({job.tag for job in (queued, running, running.changed(), again)}) == 4


def test_members_of_a_newer_version_are_passed_over():
    file = FileInfo.model_validate({"name": "a", "size": 1, "sha256": "0", "colour": "red"})

    assert not hasattr(file, "colour")


@pytest.mark.parametrize("members", [{"size": -1}, {"version": 0}, {"attempt": -1}, {"max_attempts": 0}])
def test_impossible_values_are_refused(members):
    with pytest.raises(ValidationError):
        make_job(**members)


def test_an_artifact_names_its_attempt():
    with pytest.raises(ValidationError):
        make_artifact(attempt=0)


# history


def test_the_record_remembers_each_change_of_the_status_with_the_version_that_showed_it():
    job = make_job()
    job = finish(job.claimed(NOON), Reason.ERROR, now=LATER).claimed(LATER)
    job = finish(job, Reason.REJECTED, now=LATER).retried(1, LATER).canceled(LATER)

    assert [(move.version, move.status, move.attempt) for move in job.history] == [
        (1, QUEUED, 0),
        (2, RUNNING, 1),
        (3, QUEUED, 1),
        (4, RUNNING, 2),
        (5, FAILED, 2),
        (6, QUEUED, 2),
        (7, CANCELED, 2),
    ]
    assert [move.at for move in job.history] == [job.created_at, NOON, *[LATER] * 5]


def test_what_is_no_change_of_the_status_is_not_among_them():
    running = make_job().claimed(NOON)
    assert running.canceled(LATER).history == running.history
    assert running.changed(steps=()).history == running.history


def test_of_very_many_changes_the_last_are_remembered():
    job = make_job()
    for _ in range(REMEMBERED):
        job = finish(job.claimed(NOON), Reason.INTERRUPTED)
    assert len(job.moves) == REMEMBERED
    assert job.history[-1].version == job.version == 2 * REMEMBERED + 1
    assert job.history[0].version == 1


def test_every_status_has_a_name_it_is_told_under():
    assert set(EVENTS) == set(JobStatus)
    assert len({*EVENTS.values(), CHANGED, PROGRESS}) == len(JobStatus) + 2
