"""Running steps: what is reported, what is left on disk, and what each kind of failure becomes."""

import errno
import hashlib
import json
import logging
import random

import pytest

from processors import Limits, Options, Reject, RetryLater, processor
from processors.pipeline import Step
from processors.registry import Registry
from processors.runner import Finished, Progress, Source, run


class SayOptions(Options):
    word: str = "hello"


@processor("say")
def say(ctx, options: SayOptions):
    """Say a word into a file."""
    ctx.output("said.txt", media_type="text/plain").write_text(options.word)
    return {"word": options.word, "type": ctx.media_type, "name": ctx.filename, "declared": ctx.declared_type}


@processor("identify", identifies=True)
def identify(ctx):
    """Tell that it is a picture."""
    return {"media_type": "image/x-test"}


@processor("look", accepts=("image/*",))
def look(ctx):
    """Look at a picture."""
    return {"type": ctx.media_type, "before": dict(ctx.facts_of("identify"))}


@processor("read")
def read(ctx):
    """Read what came."""
    return {"text": ctx.input.read_text(), "type": ctx.media_type, "name": ctx.filename, "declared": ctx.declared_type}


class Attempt:
    """One attempt over a small source, and what it reported."""

    def __init__(self, tmp_path, **limits):
        self.workdir = tmp_path / "attempt-1"
        self.path = tmp_path / "source"
        self.path.write_text("content")
        self.source = Source(self.path, "name.txt", "text/x-declared", 7)
        self.limits = Limits(**limits)
        self.events = []

    def run(self, *steps, finished=None):
        """Run each (processor, options, input) under the processor's name, or a ready step."""
        self.events = []
        made = [step if isinstance(step, tuple) else (step, None) for step in steps]
        registry = Registry({p.name: p for p, _ in made}.values())
        run(
            [s or Step(p.name, p.name, p.options().model_dump(mode="json")) for p, s in made],
            registry,
            source=self.source,
            workdir=self.workdir,
            limits=self.limits,
            report=lambda event: self.events.append(json.loads(json.dumps(event, allow_nan=False))),
            **({"finished": finished} if finished else {}),
        )
        return self.events

    def outcome(self, *steps, **more):
        *_, outcome = self.run(*steps, **more)
        assert outcome["event"] == "outcome"
        assert [event["event"] for event in self.events].count("outcome") == 1
        return outcome

    def succeeded(self, step):
        (event,) = [e for e in self.events if e.get("step") == step and e.get("status") == "succeeded"]
        return event

    def statuses(self):
        return [(event["step"], event["status"]) for event in self.events if event["event"] == "step"]

    def left(self):
        return (
            sorted(str(p.relative_to(self.workdir)) for p in self.workdir.rglob("*")) if self.workdir.exists() else []
        )


@pytest.fixture
def attempt(tmp_path):
    return Attempt(tmp_path)


def test_a_step_is_reported_with_facts_and_artifacts(attempt):
    running, succeeded, outcome = attempt.run(say)
    assert running == {"event": "step", "step": "say", "status": "running"}
    assert succeeded.pop("duration_ms") >= 0
    assert succeeded == {
        "event": "step",
        "step": "say",
        "status": "succeeded",
        "facts": {"word": "hello", "type": "text/x-declared", "name": "name.txt", "declared": "text/x-declared"},
        "artifacts": [
            {"name": "said.txt", "size": 5, "media_type": "text/plain", "sha256": hashlib.sha256(b"hello").hexdigest()}
        ],
    }
    assert outcome == {"event": "outcome", "outcome": "succeeded"}
    assert attempt.left() == ["say", "say/said.txt"]


def test_options_reach_the_processor(attempt):
    attempt.run((say, Step("loud", "say", {"word": "HELLO"})))
    assert (attempt.workdir / "loud" / "said.txt").read_text() == "HELLO"


def test_without_a_declared_type_the_type_is_unknown(attempt):
    attempt.source = Source(attempt.path, "x", None, 7)
    attempt.run(read)
    assert attempt.succeeded("read")["facts"]["type"] == "application/octet-stream"


def test_an_identified_type_counts_for_later_steps(attempt):
    attempt.run(look, identify, (look, Step("again", "look", {})))
    assert attempt.statuses() == [
        ("look", "skipped"),
        *(("identify", "running"), ("identify", "succeeded")),
        *(("again", "running"), ("again", "succeeded")),
    ]
    assert attempt.succeeded("identify")["media_type"] == "image/x-test"
    assert "media_type" not in attempt.succeeded("again")
    assert attempt.succeeded("again")["facts"] == {"type": "image/x-test", "before": {"media_type": "image/x-test"}}


def test_a_step_may_read_an_artifact(attempt):
    attempt.run(say, (read, Step("read", "read", {}, "say/said.txt")))
    assert attempt.succeeded("read")["facts"] == {
        "text": "hello",
        "type": "text/plain",
        "name": "said.txt",
        "declared": None,
    }


def test_identifying_an_artifact_says_nothing_of_the_source(attempt):
    attempt.run(say, (identify, Step("identify", "identify", {}, "say/said.txt")), read)
    assert "media_type" not in attempt.succeeded("identify")
    assert attempt.succeeded("read")["facts"]["type"] == "text/x-declared"


def test_a_step_without_its_artifact_is_skipped(attempt):
    skipped = Step("a", "read", {}, "say/other.txt")
    of_skipped = Step("b", "read", {}, "a/x")
    assert attempt.outcome(say, (read, skipped), (read, of_skipped))["outcome"] == "succeeded"
    assert attempt.statuses()[-2:] == [("a", "skipped"), ("b", "skipped")]


def test_finished_steps_are_not_run_again_but_count(attempt, tmp_path):
    kept = tmp_path / "kept.txt"
    kept.write_text("kept")
    finished = {
        "identify": Finished({"media_type": "image/x-test"}, {}),
        "say": Finished({}, {"said.txt": (kept, "text/plain"), "gone.txt": (tmp_path / "gone", "text/plain")}),
    }
    attempt.run(identify, say, look, (read, Step("read", "read", {}, "say/said.txt")), finished=finished)
    assert attempt.statuses() == [(name, status) for name in ("look", "read") for status in ("running", "succeeded")]
    assert attempt.succeeded("read")["facts"]["text"] == "kept"
    assert attempt.succeeded("look")["facts"]["type"] == "image/x-test"


def test_what_was_identified_of_something_lost_does_not_matter(attempt):
    finished = {"identify": Finished({"media_type": "image/x-test"}, {})}
    lost = Step("identify", "identify", {}, "say/said.txt")
    assert attempt.outcome((identify, lost), look, finished=finished)["outcome"] == "succeeded"
    assert attempt.statuses() == [("look", "skipped")]


def test_leftovers_of_a_killed_attempt_are_replaced(attempt):
    for leftover in ("say", "say.partial"):
        (attempt.workdir / leftover / "deep").mkdir(parents=True)
        (attempt.workdir / leftover / "deep" / "x").write_text("x")
    attempt.run(say)
    assert attempt.left() == ["say", "say/said.txt"]


def raising(error, *, writes=True):
    @processor("raise")
    def raises(ctx):
        """Write something, and raise."""
        if writes:
            ctx.output("half", media_type="text/plain").write_text("half")
        ctx.progress(1, 2, "things")
        raise error

    return raises


def test_a_reject_fails_the_job_for_good(attempt):
    outcome = attempt.outcome(raising(Reject("too-odd", "It is\x1b[31m odd.\n", "Make it\teven.")), say)
    assert outcome == {
        "event": "outcome",
        "outcome": "failed",
        "step": "raise",
        "reason": "rejected",
        "code": "too-odd",
        "detail": "It is[31m odd.",
        "hint": "Make it even.",
        "retry_after": None,
    }
    assert attempt.left() == []
    running, progress, failed, _ = attempt.events
    assert running["status"] == "running"
    assert progress["done"] == 1
    assert failed.pop("duration_ms") >= 0
    assert failed == {"event": "step", "step": "raise", "status": "failed"}


def test_a_reject_needs_no_hint(attempt):
    assert attempt.outcome(raising(Reject("too-odd", "It is odd.")))["hint"] is None


def test_retry_later_says_when(attempt):
    outcome = attempt.outcome(raising(RetryLater(30)))
    assert (outcome["reason"], outcome["code"], outcome["retry_after"]) == ("retry", "retry-later", 30.0)


def wrapped(error):
    try:
        try:
            raise error
        except type(error):
            raise ValueError("a library's own words")  # noqa: B904
    except ValueError as outer:
        return outer


@pytest.mark.parametrize("error", [MemoryError(), wrapped(MemoryError()), OSError(errno.ENOMEM, "no memory")])
def test_running_out_of_memory_is_a_reason_of_its_own(attempt, error):
    outcome = attempt.outcome(raising(error))
    assert (outcome["reason"], outcome["code"]) == ("memory", "out-of-memory")
    assert "INTAKE_ATTEMPT_MEMORY" in outcome["hint"]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (OSError(errno.EFBIG, "File too large"), "output-too-large"),
        (OSError(errno.ENOSPC, "No space left"), "disk-full"),
        (OSError(errno.EDQUOT, "Quota exceeded"), "disk-full"),
        (wrapped(OSError(errno.ENOSPC, "No space left")), "disk-full"),
        (OSError(errno.EIO, "Input/output error"), "processor-failed"),
        (FileNotFoundError(errno.ENOENT, "No such file", "/elsewhere"), "processor-failed"),
    ],
)
def test_errors_of_the_disk_have_codes(attempt, error, code):
    outcome = attempt.outcome(raising(error))
    assert (outcome["reason"], outcome["code"]) == ("error", code)


def test_a_missing_input_is_lost(attempt):
    attempt.path.unlink()
    outcome = attempt.outcome(read)
    assert (outcome["reason"], outcome["code"]) == ("error", "lost-input")
    assert attempt.statuses() == [("read", "running"), ("read", "failed")]


def test_an_input_that_vanishes_meanwhile_is_lost(attempt):
    @processor("lose")
    def lose(ctx):
        """Lose the input and look for it."""
        ctx.input.unlink()
        return {"text": ctx.input.read_text()}

    assert attempt.outcome(lose)["code"] == "lost-input"


def test_any_other_exception_is_one_sentence_and_a_traceback_in_the_log(attempt, caplog):
    with caplog.at_level(logging.ERROR):
        outcome = attempt.outcome(raising(ValueError("bad\nvalue \u202e\0" + "x" * 9999)))
    assert (outcome["reason"], outcome["code"]) == ("error", "processor-failed")
    assert outcome["detail"].startswith("The processor raised ValueError: bad value xxx")
    assert len(outcome["detail"]) <= 500
    assert "Traceback" not in outcome["detail"]
    assert "Traceback" in caplog.text
    assert caplog.records[0].name == "processors.raise"


def test_an_exception_without_words_has_its_name(attempt):
    assert attempt.outcome(raising(KeyError()))["detail"] == "The processor raised KeyError."


def test_a_circle_of_causes_ends(attempt):
    one, two = ValueError("one"), ValueError("two")
    one.__cause__, two.__cause__ = two, one
    assert attempt.outcome(raising(one))["code"] == "processor-failed"


def test_what_is_no_exception_goes_through_and_leaves_nothing(attempt):
    with pytest.raises(KeyboardInterrupt):
        attempt.run(raising(KeyboardInterrupt()))
    assert attempt.left() == []


def returning(facts, **options):
    @processor("return", **options)
    def returns(ctx):
        """Return something."""
        return facts

    return returns


@pytest.mark.parametrize(
    ("facts", "code"),
    [
        ({"a": "x" * 65536}, "facts-too-large"),
        ({"a": object()}, "facts-invalid"),
        ({"a": float("nan")}, "facts-invalid"),
        ({"a": "\ud800"}, "facts-invalid"),
        ({"a": "x\0"}, "facts-invalid"),
        ({"a\\\0": 1}, "facts-invalid"),
        (None, "facts-invalid"),
        ([1], "facts-invalid"),
    ],
)
def test_facts_are_short_json(attempt, facts, code):
    outcome = attempt.outcome(returning(facts))
    assert (outcome["reason"], outcome["code"]) == ("error", code)


def test_facts_may_be_any_json(attempt):
    attempt.run(returning({"a": (1, 2), "b": "ü \\u0000", "c": None, "d": {"e": 1.5}}))
    assert attempt.succeeded("return")["facts"] == {"a": [1, 2], "b": "ü \\u0000", "c": None, "d": {"e": 1.5}}


@pytest.mark.parametrize("facts", [{}, {"media_type": None}, {"media_type": ""}])
def test_an_identifying_step_tells_a_type(attempt, facts):
    assert attempt.outcome(returning(facts, identifies=True))["code"] == "facts-invalid"


def test_a_promised_artifact_has_to_be_written(attempt):
    @processor("forget")
    def forget(ctx):
        """Ask for a path and forget it."""
        ctx.output("a", media_type="text/plain")
        return {}

    outcome = attempt.outcome(forget)
    assert (outcome["code"], attempt.left()) == ("artifact-invalid", [])


def test_an_artifact_is_no_link(attempt):
    @processor("link")
    def link(ctx):
        """Link to something else."""
        ctx.output("a", media_type="text/plain").symlink_to("/etc/hostname")
        return {}

    assert attempt.outcome(link)["code"] == "artifact-invalid"


def test_files_nobody_asked_for_are_not_published(attempt):
    @processor("mess")
    def mess(ctx):
        """Leave things around."""
        path = ctx.output("kept", media_type="text/plain")
        path.write_text("kept")
        path.with_name("scratch").mkdir()
        (path.parent / "scratch" / "x").write_text("x")
        (path.parent / "link").symlink_to(ctx.input)
        return {}

    attempt.run(mess)
    assert attempt.left() == ["mess", "mess/kept"]
    assert attempt.path.exists()


def test_a_step_without_artifacts_leaves_no_folder(attempt):
    attempt.run(read)
    assert attempt.left() == []


def test_artifacts_together_stay_within_the_limit(tmp_path):
    attempt = Attempt(tmp_path, max_output=9)
    outcome = attempt.outcome(say, (say, Step("again", "say", {"word": "hello"})))
    assert (outcome["step"], outcome["reason"], outcome["code"]) == ("again", "error", "output-too-large")
    assert "INTAKE_MAX_OUTPUT" in outcome["hint"]
    assert attempt.left() == ["say", "say/said.txt"]


def test_artifacts_of_earlier_attempts_count(tmp_path):
    attempt = Attempt(tmp_path, max_output=9)
    kept = tmp_path / "kept"
    kept.write_text("hello")
    finished = {"first": Finished({}, {"kept": (kept, "text/plain")})}
    assert attempt.outcome((read, Step("first", "read", {})), say, finished=finished)["code"] == "output-too-large"


def test_progress_is_reported_rarely_and_the_last_always(attempt):
    @processor("work")
    def work(ctx):
        """Work hard."""
        for done in range(1, 10001):
            ctx.progress(done, 10000, "things")
        return {}

    attempt.run(work)
    progress = [event for event in attempt.events if event["event"] == "progress"]
    assert progress[0] == {"event": "progress", "step": "work", "done": 1, "total": 10000, "unit": "things"}
    assert progress[-1]["done"] == 10000
    assert len(progress) < 20
    assert [event["event"] for event in attempt.events][-2:] == ["step", "outcome"]


def test_progress_keeps_its_distance():
    now, events = 0.0, []
    progress = Progress("work", events.append, clock=lambda: now)
    for tick in range(101):
        now = tick / 100
        progress(tick, None, None)
    progress.flush()
    progress.flush()
    assert [event["done"] for event in events] == [0, 25, 50, 75, 100]


def test_what_the_listener_raises_ends_the_run(attempt):
    class GoneError(Exception):
        pass

    def report(event):
        raise GoneError

    with pytest.raises(GoneError):
        run([Step("read", "read", {})], {"read": read}, source=attempt.source, workdir=attempt.workdir,
            limits=Limits(), report=report)  # fmt: skip


def test_any_order_of_steps_ends_in_one_outcome(attempt):
    pool = [say, read, identify, raising(Reject("no", "No.")), raising(ValueError("x"))]
    chance = random.Random(7)
    for _ in range(20):
        chosen = {p.name: p for p in chance.sample(pool, 3)}
        assert attempt.outcome(*chosen.values())["outcome"] in ("succeeded", "failed")
