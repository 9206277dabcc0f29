"""Reports of an attempt: what the runner of processors can say is taken, what no record could hold is refused."""

from __future__ import annotations

import json
import logging

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from processors import Limits, Options, Reject, RetryLater, processor
from processors.pipeline import make_step as pipeline_step
from processors.registry import Registry
from processors.runner import Source, run
from service.execution import live as module
from service.execution.live import LiveJob
from service.jobs.memory_store import MemoryJobStore
from service.jobs.model import Reason, StepProgress, StepStatus
from service.jobs.problem import job_problem
from service.jobs.record import decode, encode
from service.jobs.retry import AttemptEnd
from tests.jobs import NOON, SHA, make_artifact, make_job, make_step

WEEK = 7 * 86400


@pytest.fixture
def store():
    return MemoryJobStore()


@pytest.fixture
def live(store):
    job = make_job()
    store.create(job)
    claimed, lease = store.claim(job.id, lambda job: job.claimed(NOON))
    return LiveJob(claimed, store=store, lease=lease)


def step(live, name="look"):
    return next(step for step in live.job.steps if step.name == name)


def report(**members):
    return {"event": "step", "step": "look", "status": "succeeded", **members}


MADE = {"name": "out.txt", "size": 5, "media_type": "text/plain", "sha256": SHA}


# steps


def test_a_step_that_begins_runs(live):
    live.take(report(status="running"))

    assert step(live).status is StepStatus.RUNNING
    assert live.job.progress.step == "look"


def test_a_step_that_succeeds_brings_facts_and_artifacts_of_this_attempt(live):
    live.take(report(duration_ms=12, facts={"lines": 3}, artifacts=[MADE]))

    assert step(live) == make_step(
        "look", StepStatus.SUCCEEDED, duration_ms=12, facts={"lines": 3}, artifacts=(make_artifact(),)
    )


def test_a_step_that_identifies_the_file_names_its_type(live):
    live.take(report(facts={}, media_type="image/png"))

    assert live.job.file.media_type == "image/png"


def test_progress_shows_in_its_step_until_that_is_over(live):
    live.take(report(status="running"))
    live.take({"event": "progress", "step": "look", "done": 3, "total": 9, "unit": "pages"})
    during = step(live).progress
    live.take(report())

    assert during == StepProgress(done=3, total=9, unit="pages")
    assert step(live).progress is None


@pytest.mark.parametrize(
    "frame",
    [
        {},
        {"event": "nonsense"},
        {"event": ["step"]},
        {"event": "step"},
        report(step="another"),
        report(step=None),
        report(status="done"),
        report(facts=[1]),
        report(facts={"a": {1, 2}}),
        report(artifacts=[MADE | {"name": "../escape"}]),
        report(artifacts=[MADE | {"name": ".hidden"}]),
        report(artifacts=[MADE | {"name": "a/b"}]),
        report(artifacts=[MADE | {"name": "a\n"}]),
        report(artifacts=[MADE | {"name": ""}]),
        report(artifacts=[MADE | {"size": -1}]),
        report(artifacts=[MADE | {"sha256": "ab"}]),
        report(artifacts=[MADE | {"sha256": SHA.upper()}]),
        report(artifacts=[MADE] * 1001),
        report(media_type="x" * 256),
        report(media_type="\ud800"),
        {"event": "progress", "step": "another", "done": 1},
        {"event": "progress", "step": "look", "done": "many"},
        {"event": "progress", "step": "look"},
        {"event": "log", "level": "loud", "message": "x"},
        {"event": "log", "level": "info", "message": "x" * 4001},
        {"event": "confined", "level": ["magic"]},
        {"event": "outcome", "outcome": "maybe"},
        {"event": "outcome", "outcome": "failed", "reason": "succeeded"},
        {"event": "outcome", "outcome": "failed", "reason": "canceled"},
        {"event": "outcome", "outcome": "failed", "reason": "retry", "retry_after": -1},
        {"event": "outcome", "outcome": "failed", "reason": "retry", "retry_after": float("nan")},
        {"event": "outcome", "outcome": "failed", "reason": "error", "detail": "\ud800"},
    ],
)
def test_a_report_no_process_of_ours_makes_is_refused_and_changes_nothing(live, frame):
    before = live.job

    with pytest.raises(ValueError, match=r"."):
        live.take(frame)

    assert live.job is before
    assert live.outcome is None


def nested(depth: int):
    value: object = 1
    for _ in range(depth):
        value = [value]
    return value


def is_kept(live) -> bool:
    return decode(encode(live.job), live.job.id).steps[0].status is step(live).status


@pytest.mark.parametrize("facts", [{"a": "\ud800"}, {"\udc00": 1}, {"a": nested(150)}, {"a": {"b": "\udfff"}}])
def test_facts_no_record_could_hold_are_refused(live, facts):
    before = live.job

    try:
        live.take(report(facts=facts))
    except ValueError:
        assert live.job is before

    assert is_kept(live)


def test_however_deep_facts_are_nested_the_record_can_be_read_again(live):
    for depth in range(60, 260):
        try:
            live.take(report(facts={"a": nested(depth)}))
        except ValueError:
            assert depth > 64  # as deep as a processor may go
            break
        assert is_kept(live), depth


def test_numbers_json_does_not_have_leave_the_record_readable(live):
    for frame in (
        {"event": "progress", "step": "look", "done": float("nan")},
        {"event": "progress", "step": "look", "done": 1, "total": float("inf")},
        report(facts={"a": float("nan"), "b": [float("inf")]}),
    ):
        live.take(frame)
        assert is_kept(live)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(codec=None), max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)
members = [
    "step",
    "status",
    "facts",
    "artifacts",
    "done",
    "total",
    "unit",
    "level",
    "message",
    "outcome",
    "reason",
    "code",
]
frames = st.fixed_dictionaries(
    {"event": st.sampled_from(["step", "progress", "log", "confined", "outcome"])},
    optional=dict.fromkeys(members, json_values)
    | {"step": st.sampled_from(["look", "count", "x"]), "status": st.sampled_from([*map(str, StepStatus)])},
)


@given(st.lists(frames, max_size=8))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_report_makes_a_job_that_cannot_be_written_and_read(live, reports):
    for frame in reports:
        try:
            live.take(frame)
        except ValueError:
            continue
        decode(encode(live.job), live.job.id)


# what authors of processors can make the runner say


class Extremes(Options):
    """What to do."""

    do: str = ""


@processor("test.look")
def look(ctx, options: Extremes):
    """Do something at the edge of what the contract allows."""
    match options.do:
        case "reject":
            raise Reject("-".join(["long"] * 20), "é" * 10_000, "\0" * 10_000)
        case "later":
            raise RetryLater(1e9, "x" * 10_000)
        case "fail":
            raise ValueError("\ud800" * 10_000)
        case "progress":
            ctx.progress(float("nan"), float("inf"), "u" * 1000)
            ctx.progress(1, 2, "\udc80" * 1000)
        case "log":
            ctx.log.critical("x" * 10_000)
        case "outputs":
            for number in range(1200):
                ctx.output(f"{number}.txt", media_type="text/plain").write_text("x")
        case "type":
            ctx.output("a.txt", media_type="text/plain; " + "x" * 1000).write_text("x")
        case "facts":
            return {"deep": nested(60), "long": "x" * 60_000}
    return {}


@pytest.mark.parametrize(
    ("do", "expected"),
    [
        ("reject", "failed"),
        ("later", "failed"),
        ("fail", "failed"),
        ("progress", "succeeded"),
        ("log", "succeeded"),
        ("outputs", "failed"),
        ("type", "failed"),
        ("facts", "succeeded"),
    ],
)
def test_whatever_the_contract_lets_a_processor_do_can_be_reported(live, tmp_path, monkeypatch, do, expected):
    monkeypatch.setattr(logging.getLogger("processors"), "propagate", False)  # what it logs no test runner can pass on
    registry = Registry([look])
    (tmp_path / "source").write_bytes(b"x")
    told = []

    run(
        [pipeline_step(registry, "test.look", name="look", options={"do": do})],
        registry,
        source=Source(tmp_path / "source", "a.txt", None, 1),
        workdir=tmp_path,
        limits=Limits(),
        report=lambda event: told.append(json.loads(json.dumps(event))),
    )
    for frame in told:
        live.take(frame)

    assert live.outcome.outcome == expected
    assert is_kept(live)


def test_a_processor_is_waited_for_a_week_at_most(live):
    live.take({"event": "outcome", "outcome": "failed", "step": "look", "reason": "retry", "retry_after": 30 * 86400})

    assert live.outcome.retry_after == WEEK


# the end


def test_an_attempt_has_succeeded_when_it_says_so_and_every_step_is_over(live):
    said = {"event": "outcome", "outcome": "succeeded"}
    live.take(report())
    before = live.succeeded
    live.take(said)
    alone = live.succeeded
    live.take(report(step="count", status="skipped"))

    assert (before, alone, live.succeeded) == (False, False, True)


def end_of(live, reason: Reason) -> AttemptEnd:
    return AttemptEnd(reason=reason, problem=job_problem(live.job, reason))


@pytest.mark.parametrize("reason", [Reason.ERROR, Reason.TIMEOUT, Reason.CRASHED, Reason.REJECTED])
def test_the_step_at_work_has_failed_when_the_attempt_has(live, reason):
    live.take(report())
    live.take(report(step="count", status="running"))
    live.take({"event": "progress", "step": "count", "done": 1})

    first, second = live.steps_after(end_of(live, reason))

    assert first.status is StepStatus.SUCCEEDED
    assert (second.status, second.progress, second.error.reason) == (StepStatus.FAILED, None, reason)


@pytest.mark.parametrize("reason", [Reason.SUCCEEDED, Reason.CANCELED, Reason.INTERRUPTED])
def test_no_step_is_blamed_for_what_is_not_its_fault(live, reason):
    live.take(report(status="running"))

    assert live.steps_after(AttemptEnd(reason=reason)) == live.job.steps


def test_results_that_are_not_on_disk_are_dropped(live):
    kept = make_artifact(attempt=1)
    live.job = live.job.evolve(
        attempt=2, steps=(make_step("look", StepStatus.SUCCEEDED, artifacts=(kept,)), make_step("count"))
    )
    live.take(report(step="count", artifacts=[MADE], facts={"a": 1}))

    live.drop_results()

    assert step(live).artifacts == (kept,)
    assert step(live, "count") == make_step("count")


def test_an_attempt_follows_the_pipeline_of_today_and_keeps_what_succeeded(live):
    live.take(report(facts={"a": 1}))

    live.follow_steps([("new", "test.new"), ("look", "test.look")])

    assert live.job.steps == (make_step("new"), make_step("look", StepStatus.SUCCEEDED, facts={"a": 1}))


# notes and lines


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def test_progress_is_noted_four_times_a_second_at_most(live, store, clock):
    versions = []
    for _ in range(21):
        clock[0] += 0.05
        live.take({"event": "progress", "step": "look", "done": clock[0]})
        live.note()
        versions.append(store.get(live.job.id).version)

    assert 4 <= len(set(versions)) <= 5


def test_nothing_new_is_not_noted(live, store, clock):
    live.take(report(status="running"))
    live.note()
    version = store.get(live.job.id).version
    for again in ([], [report(status="running")]):
        clock[0] += 9
        for each in again:
            live.take(each)
        live.note()

    assert store.get(live.job.id).version == version


def test_a_disk_that_fails_does_not_end_the_attempt(live, store, clock, monkeypatch):
    def fail(*_):
        raise OSError("full")

    monkeypatch.setattr(store, "note", fail)
    live.take(report(status="running"))

    live.note()


def test_a_line_with_a_strange_file_name_is_no_reason_to_end(live):
    live.take({"event": "log", "level": "info", "message": "found caf\udce9.txt"})
    live.take({"event": "progress", "step": "look", "done": 1, "unit": "caf\udce9"})

    assert step(live).progress.unit == "caf?"


def test_a_flood_of_lines_is_cut_off(live, monkeypatch):
    lines = []
    monkeypatch.setattr(module, "log", logging.getLogger("test"))
    monkeypatch.setattr(module.log, "log", lambda *_, **fields: lines.append(fields["line"]), raising=False)
    for number in range(1000):
        live.take({"event": "log", "level": "info", "message": str(number)})

    assert lines == [str(number) for number in range(module.MAX_LOG_LINES)]
