"""What follows an attempt: budgets that end, waits within bounds, and an end for every reason."""

from __future__ import annotations

from datetime import timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from service.jobs.model import JobStatus, Problem, Reason, StepStatus
from service.jobs.problem import job_problem
from service.jobs.retry import AttemptEnd, RetryPolicy, ended
from tests.jobs import NOON, make_job, make_step

CRASHES = [Reason.TIMEOUT, Reason.MEMORY, Reason.CRASHED]
CHARGED = [Reason.ERROR, Reason.RETRY, *CRASHES]
UNCHARGED = [Reason.LOST, Reason.INTERRUPTED]
SECOND = timedelta(seconds=1)

policies = st.builds(
    RetryPolicy,
    max_attempts=st.integers(1, 5),
    crash_attempts=st.integers(1, 5),
    lost_attempts=st.integers(1, 6),
    base=st.timedeltas(timedelta(0), timedelta(days=1000)),
    cap=st.timedeltas(timedelta(0), timedelta(days=1000)),
)


def end(reason: Reason, **members) -> AttemptEnd:
    return AttemptEnd(reason=reason, **members)


def after(*reasons: Reason, policy: RetryPolicy | None = None, **members):
    """Return a job after attempts that ended for these reasons, and how many of them were made."""
    policy = policy or RetryPolicy(jitter=lambda low, high: low)
    job = make_job(**{"max_attempts": policy.max_attempts, **members})
    for made, reason in enumerate(reasons):
        if job.done:
            return job, made
        job = ended(job.claimed(NOON), end(reason, problem=problem(job, reason)), policy, NOON)
    return job, len(reasons)


def problem(job, reason) -> Problem | None:
    return None if reason in (Reason.SUCCEEDED, Reason.CANCELED, Reason.INTERRUPTED) else job_problem(job, reason)


@pytest.mark.parametrize(
    ("reason", "status"),
    [
        (Reason.SUCCEEDED, JobStatus.SUCCEEDED),
        (Reason.REJECTED, JobStatus.FAILED),
        (Reason.LOST_INPUT, JobStatus.FAILED),
        (Reason.RETRY, JobStatus.QUEUED),
        (Reason.ERROR, JobStatus.QUEUED),
        (Reason.TIMEOUT, JobStatus.QUEUED),
        (Reason.MEMORY, JobStatus.QUEUED),
        (Reason.CRASHED, JobStatus.QUEUED),
        (Reason.LOST, JobStatus.QUEUED),
        (Reason.INTERRUPTED, JobStatus.QUEUED),
        (Reason.CANCELED, JobStatus.CANCELED),
    ],
)
def test_what_follows_a_first_attempt_by_its_reason(reason, status):
    job, _ = after(reason)

    assert job.status is status
    assert job.attempts[-1].reason is reason
    assert job.attempts[-1].ended_at == NOON


def test_every_reason_has_its_consequence():
    assert {*CHARGED, *UNCHARGED, Reason.SUCCEEDED, Reason.REJECTED, Reason.LOST_INPUT, Reason.CANCELED} == set(Reason)


@pytest.mark.parametrize("reason", CHARGED[:2])
def test_a_failing_processor_gets_its_attempts(reason):
    job, made = after(*[reason] * 9)

    assert (job.status, made) == (JobStatus.FAILED, 3)
    assert job.error.reason is reason
    assert job.finished_at == NOON


@pytest.mark.parametrize("reasons", [[Reason.TIMEOUT] * 9, [Reason.MEMORY, Reason.CRASHED, Reason.TIMEOUT]])
def test_crashes_of_all_kinds_count_against_one_small_budget(reasons):
    job, made = after(*reasons)

    assert (job.status, made) == (JobStatus.FAILED, 2)


def test_a_lost_runner_is_not_the_files_fault_and_still_ends():
    job, made = after(*[Reason.LOST] * 99)

    assert (job.status, made) == (JobStatus.FAILED, 10)
    assert job.error.code == "attempt-lost"


def test_an_interruption_costs_nothing():
    job, made = after(*[Reason.INTERRUPTED] * 50)

    assert (job.status, made, job.attempt) == (JobStatus.QUEUED, 50, 50)
    assert job.max_attempts == 53
    assert job.retry_at is None


def test_a_retry_by_hand_forgets_earlier_attempts():
    failed, _ = after(Reason.CRASHED, Reason.CRASHED)

    job = ended(failed.retried(3, NOON).claimed(NOON), end(Reason.CRASHED), RetryPolicy(), NOON)

    assert job.status is JobStatus.QUEUED
    assert job.attempt == 3


@given(policies, st.lists(st.sampled_from(CHARGED + UNCHARGED), min_size=40, max_size=40))
def test_a_job_always_ends_and_no_budget_is_overdrawn(policy, reasons):
    assume(reasons.count(Reason.INTERRUPTED) <= 8)  # each of them is an operator's doing

    job, made = after(*reasons, policy=policy)

    spent = reasons[:made]
    assert job.status is JobStatus.FAILED
    assert sum(reason in CHARGED for reason in spent) <= policy.max_attempts
    assert sum(reason in CRASHES for reason in spent) <= policy.crash_attempts
    assert spent.count(Reason.LOST) <= policy.lost_attempts


@given(policies, st.lists(st.sampled_from(CHARGED + UNCHARGED), max_size=12), st.data())
def test_interruptions_change_nothing_but_the_count(policy, reasons, data):
    plain = [reason for reason in reasons if reason is not Reason.INTERRUPTED]
    places = data.draw(st.lists(st.integers(0, len(plain)), max_size=6))
    disturbed = list(plain)
    for place in sorted(places, reverse=True):
        disturbed.insert(place, Reason.INTERRUPTED)

    calm, made = after(*plain, policy=policy)
    job, made_disturbed = after(*disturbed, policy=policy)

    assert job.status is calm.status
    assert job.max_attempts - job.attempt == calm.max_attempts - calm.attempt
    assert made_disturbed - made == disturbed[:made_disturbed].count(Reason.INTERRUPTED)


@given(policies, st.integers(1, 60), st.integers(0, 40), st.floats(0, 1))
def test_a_wait_lies_between_nothing_and_a_doubling_base_under_a_cap(policy, attempt, earlier, draw):
    policy = RetryPolicy(base=policy.base, cap=policy.cap, jitter=lambda low, high: low + (high - low) * draw)
    job = make_job(attempt=earlier + attempt, budget_from=earlier + 1)

    wait = policy.wait(job, None)

    assert timedelta(0) <= wait <= policy.cap + timedelta(milliseconds=1)
    assert wait <= policy.base * 2 ** min(attempt - 1, 10) + timedelta(milliseconds=1) or attempt > 11


@given(st.integers(1, 30))
def test_the_longest_wait_doubles_until_the_cap(attempt):
    policy = RetryPolicy(base=2 * SECOND, cap=600 * SECOND, jitter=lambda low, high: high)

    assert policy.wait(make_job(attempt=attempt), None) == min(2**attempt, 600) * SECOND


def test_no_setting_makes_a_wait_too_long_to_count():
    policy = RetryPolicy(base=timedelta(days=99_999), cap=timedelta(days=99_999), jitter=lambda low, high: high)

    assert policy.wait(make_job(attempt=5000), None) == timedelta(days=99_999)


@given(st.integers(1, 20))
def test_the_usual_jitter_stays_within_its_bounds(attempt):
    wait = RetryPolicy().wait(make_job(attempt=attempt), None)

    assert timedelta(0) <= wait <= timedelta(minutes=10)


def test_a_processor_that_says_when_is_heard():
    policy = RetryPolicy(jitter=lambda low, high: pytest.fail("it was told when"))
    job = ended(make_job().claimed(NOON), end(Reason.RETRY, retry_after=90), policy, NOON)

    assert job.retry_at == NOON + timedelta(seconds=90)


def test_a_charged_failure_waits_and_an_uncharged_does_not():
    policy = RetryPolicy(base=8 * SECOND, jitter=lambda low, high: high)
    charged, _ = after(Reason.ERROR, policy=policy)
    uncharged, _ = after(Reason.LOST, policy=policy)

    assert (charged.retry_at, uncharged.retry_at) == (NOON + 8 * SECOND, None)


def test_a_wish_to_cancel_stands_over_every_end_but_a_success():
    for reason in Reason:
        job = ended(make_job().claimed(NOON).canceled(NOON), end(reason), RetryPolicy(), NOON)
        assert job.status is (JobStatus.SUCCEEDED if reason is Reason.SUCCEEDED else JobStatus.CANCELED)


def test_a_failed_attempt_shows_its_error_until_the_job_succeeds():
    waiting, _ = after(Reason.ERROR)
    running = waiting.claimed(NOON)
    done = ended(running, end(Reason.SUCCEEDED), RetryPolicy(), NOON)

    assert waiting.error.code == running.error.code == "processor-failed"
    assert done.error is None


def test_the_next_attempt_finds_what_succeeded_and_lets_the_rest_wait():
    steps = (make_step("look", StepStatus.SUCCEEDED, facts={"a": 1}), make_step("count", StepStatus.FAILED))
    job = ended(make_job(steps=steps).claimed(NOON), end(Reason.ERROR), RetryPolicy(), NOON)

    assert job.steps == (steps[0], make_step("count"))


def test_a_job_that_failed_skips_what_had_no_turn():
    steps = (make_step("look", StepStatus.FAILED), make_step("count"))
    job = ended(make_job(steps=steps).claimed(NOON), end(Reason.REJECTED), RetryPolicy(), NOON)

    assert [step.status for step in job.steps] == [StepStatus.FAILED, StepStatus.SKIPPED]


def test_the_attempt_remembers_how_its_process_ended():
    told = end(Reason.CRASHED, exit_status=-11, max_rss=5 * 2**20, cpu_seconds=0.25, sandbox=("landlock",))

    attempt = ended(make_job().claimed(NOON), told, RetryPolicy(), NOON).attempts[-1]

    assert (attempt.exit_status, attempt.max_rss, attempt.cpu_seconds) == (-11, 5 * 2**20, 0.25)
    assert attempt.sandbox == ("landlock",)


@pytest.mark.parametrize("reason", [*CHARGED, Reason.LOST, Reason.REJECTED, Reason.LOST_INPUT])
def test_every_bad_end_has_words(reason):
    problem = job_problem(make_job(request_id="r1").claimed(NOON), reason, step="look")

    assert problem.type == f"/problems/{problem.code}"
    assert problem.title
    assert problem.detail.endswith(".")
    assert (problem.reason, problem.step, problem.attempt, problem.request_id) == (reason, "look", 1, "r1")
    assert problem.retryable is (reason not in (Reason.REJECTED, Reason.LOST_INPUT))


def test_words_of_a_processor_stand_over_the_usual_ones():
    problem = job_problem(make_job().claimed(NOON), Reason.REJECTED, code="not-a-jpeg", detail="No.", hint="Send one.")

    assert (problem.code, problem.detail, problem.hint) == ("not-a-jpeg", "No.", "Send one.")
    assert problem.title == "File rejected"
