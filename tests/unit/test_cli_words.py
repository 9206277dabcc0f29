"""How the command line writes sizes, durations and changes, and which error ends it with which code."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import typer

from service.cli.describe import changes, reason, step_line, steps_done, took
from service.cli.exits import Code, Fail, explain
from service.cli.filters import Filters, moment_of, pairs, seconds_of
from service.cli.output import field, format_bytes, format_seconds, plain
from service.client import (
    ClientError,
    Conflict,
    Corrupt,
    Expired,
    JobFailed,
    JobView,
    NotAllowed,
    NotFound,
    Refused,
    Unreachable,
    WaitTimeout,
)
from service.client.document import Snapshot
from service.errors import ConfigError, StorageFull

JOB: dict[str, Any] = {
    "id": "j1",
    "status": "running",
    "started_at": None,
    "finished_at": None,
    "steps": [{"name": "a", "status": "succeeded", "duration_ms": 1500}, {"name": "b", "status": "waiting"}],
    "progress": {"done": 1, "total": 2, "step": "b"},
}
VIEW = JobView(Snapshot(JOB))


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 KiB"), (1536, "1.5 KiB"), (2**20, "1.0 MiB"), (150 * 2**20, "150 MiB"),
     (3 * 2**40, "3.0 TiB"), (5000 * 2**40, "5000 TiB")],
)  # fmt: skip
def test_sizes_have_a_few_digits_and_a_unit(count: int, text: str) -> None:
    assert format_bytes(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(-1, "0 ms"), (0.0414, "41 ms"), (1.24, "1.2 s"), (59.4, "59 s"), (61, "1 min 1 s"), (1801, "30 min"), (7260, "2 h 1 min"),
     (3 * 86400, "3 d")],
)  # fmt: skip
def test_durations_have_their_largest_units(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_text_from_strangers_cannot_move_the_cursor_or_turn_the_line() -> None:
    assert plain("a\x1b[2J\nb\u202ec\x07") == "a�[2J�b�c�"
    assert plain("naïve €.txt") == "naïve €.txt"
    assert field("file.name")({"file": {"name": "a\rb"}}) == "a�b"
    assert field("file.name.more")({"file": {"name": "a"}}) == ""


def test_changes_between_two_looks_are_told_steps_first() -> None:
    assert changes(None, JOB) == ["a succeeded 1.5 s", "job j1 running"]
    assert changes(JOB, JOB) == []
    failed = JOB | {
        "status": "failed",
        "steps": [JOB["steps"][0], {"name": "b", "status": "failed", "error": {"detail": "Bad."}}],
        "error": {"detail": "Bad.", "code": "bad"},
    }
    assert changes(JOB, failed) == ["b failed Bad.", "job j1 failed: Bad. [bad]"]


def test_a_step_tells_its_progress_its_time_and_what_it_made() -> None:
    running = {"status": "running", "progress": {"done": 3, "total": 10, "unit": "pages"}}
    assert step_line(running) == "3 of 10 pages"
    assert step_line({"status": "running", "progress": {"done": 3.0, "total": None, "unit": None}}) == "3"
    made = [{"size": 1000}, {"size": 1000}]
    assert step_line({"status": "succeeded", "duration_ms": 41, "artifacts": made}) == "41 ms, 2 files, 2.0 KiB"


def test_a_job_tells_its_steps_its_time_and_its_reason() -> None:
    assert steps_done(JOB) == "1/2 b"
    assert steps_done({}) == "0/0"
    assert took(JOB) == ""
    assert took({"started_at": "2026-11-22T10:00:00.000Z", "finished_at": "2026-11-22T10:00:02.500Z"}) == "2.5 s"
    assert reason(JOB) == ""


def refused(status: int, kind: type[Refused] = Refused, code: str = "x") -> Refused:
    return kind(status, {"detail": "No.", "code": code})


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Fail("x", code=Code.USAGE), Code.USAGE),
        (ConfigError("x"), Code.USAGE),
        (StorageFull(), Code.ERROR),
        (Unreachable("x"), Code.TEMPORARY),
        (refused(429), Code.TEMPORARY),
        (refused(500), Code.TEMPORARY),
        (refused(503), Code.TEMPORARY),
        (refused(507), Code.TEMPORARY),
        (refused(409, Conflict, "idempotency-key-in-use"), Code.TEMPORARY),
        (refused(409, Conflict), Code.ERROR),
        (refused(412, Conflict), Code.ERROR),
        (refused(400), Code.REFUSED),
        (refused(413), Code.REFUSED),
        (refused(415), Code.REFUSED),
        (refused(422), Code.REFUSED),
        (refused(401, NotAllowed), Code.DENIED),
        (refused(403, NotAllowed), Code.DENIED),
        (refused(404, NotFound), Code.NOT_FOUND),
        (refused(410, Expired), Code.NOT_FOUND),
        (WaitTimeout(VIEW), Code.TIMEOUT),
        (JobFailed(VIEW), Code.FAILED),
        (Corrupt("x"), Code.ERROR),
        (ClientError("x"), Code.ERROR),
        (FileNotFoundError(2, "No such file", "a.txt"), Code.ERROR),
    ],
    ids=lambda value: f"{type(value).__name__} {getattr(value, 'status', '')}".strip(),
)
def test_each_error_has_its_exit_code(error: Exception, code: Code) -> None:
    known = explain(error)
    assert known is not None
    assert known[0] is code
    assert known[1]


def test_an_error_nobody_foresaw_has_no_words_of_its_own() -> None:
    assert explain(RuntimeError("bug")) is None
    assert explain(OSError("bug")) is None


def test_an_error_of_the_system_names_its_file() -> None:
    assert explain(PermissionError(13, "Permission denied", "a.txt")) == (Code.ERROR, "a.txt: Permission denied", None)
    assert explain(OSError(28, "No space left on device")) == (Code.ERROR, "No space left on device", None)


def test_filters_become_the_query_of_the_api() -> None:
    query = Filters(["failed", "canceled"], "image/png", None, ["a=b"], "2026-11-22T10:00:00Z").query()
    assert query == {
        "type": "image/png",
        "pipeline": None,
        "status": "failed,canceled",
        "created_after": "2026-11-22T10:00:00.000+00:00",
        "label.a": "b",
    }
    assert not Filters()
    assert Filters(since="1h")


@pytest.mark.parametrize(("text", "ago"), [("90s", 90), ("2h", 7200), ("1.5d", 129600)])
def test_an_age_counts_back_from_now(text: str, ago: float) -> None:
    assert datetime.now(UTC) - moment_of(text) == pytest.approx(timedelta(seconds=ago), abs=timedelta(seconds=5))


def test_a_date_without_a_zone_is_that_of_this_machine() -> None:
    assert moment_of("2026-11-22") == datetime(2026, 11, 22).astimezone()


def test_what_cannot_be_read_is_refused_with_the_options_name() -> None:
    for read, text in (
        (moment_of, "someday"),
        (seconds_of, "soon"),
        (lambda text: pairs([text], "--label"), "novalue"),
    ):
        with pytest.raises(typer.BadParameter, match=text):
            read(text)
    assert seconds_of(None) is None
    assert seconds_of("250ms") == 0.25
