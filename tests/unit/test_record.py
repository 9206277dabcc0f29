"""Records: written and read as they were, climbing from older schemas, and everything else told as corrupt."""

from __future__ import annotations

import contextlib
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import RecordCorrupt, StaleAttempt
from service.jobs import record
from service.jobs.model import JobStatus, Reason, StepProgress, StepRun, StepStatus
from service.jobs.record import SCHEMA, Overlay, decode, encode, is_sealed
from service.jobs.retry import AttemptEnd, ended
from tests.jobs import NOON, POLICY, finish, make_artifact, make_id, make_job, make_step

JOB_ID = make_id()


def rich_job():
    """Return a job with something in every member."""
    artifact = make_artifact()
    steps = (
        make_step("look", StepStatus.SUCCEEDED, facts={"a": [1, None, {"ä": "\u2028"}]}, artifacts=(artifact,)),
        make_step("count", StepStatus.RUNNING, progress=StepProgress(done=1, total=2, unit="lines")),
    )
    job = make_job(JOB_ID, labels={"source": "mail"}, request_id="r", key="k", fingerprint="f", media_type="text/plain")
    ran = (StepRun(step="look", status="failed", started_at=NOON, seconds=0.25),)
    job = ended(job.claimed(NOON), AttemptEnd(reason=Reason.ERROR, ran=ran), POLICY, NOON)
    job = job.claimed(NOON).evolve(steps=steps)
    return job.canceled(NOON)


def test_a_record_is_one_line_of_json_that_begins_with_its_schema():
    data = encode(rich_job())

    assert data.startswith(b'{"schema":%d,"sum":"' % SCHEMA)
    assert data.count(b"\n") == 1
    assert data.endswith(b"}\n")
    assert json.loads(data)["labels"] == {"source": "mail"}


def test_what_is_written_is_read():
    job = rich_job()

    assert decode(encode(job), JOB_ID) == job


def test_a_record_of_this_schema_may_be_written_with_other_spaces():
    """Somebody has mended it by hand."""
    job = rich_job()
    pretty = json.dumps(json.loads(encode(job)), indent=2).encode()

    assert decode(pretty, JOB_ID) == job


@given(st.data())
def test_a_byte_that_has_changed_is_found(data):
    """Whatever byte it is, and although most of the results can still be parsed."""
    good = encode(rich_job())
    at = data.draw(st.integers(0, len(good) - 1))
    damaged = good[:at] + bytes([good[at] ^ data.draw(st.integers(1, 255))]) + good[at + 1 :]

    if (
        at != good.index(b":") + 1
    ):  # the schema's number stands before the sum; a wrong one is found by what it leads to
        assert not is_sealed(damaged)
    with contextlib.suppress(RecordCorrupt):
        assert decode(damaged, JOB_ID) == rich_job(), "only a space has become another one"


def test_a_record_that_was_changed_on_purpose_says_so():
    raw = json.loads(encode(make_job(JOB_ID))) | {"labels": {"a": "b"}}

    with pytest.raises(RecordCorrupt, match="has changed") as caught:
        decode(json.dumps(raw).encode(), JOB_ID)
    assert '"sum": null' in caught.value.hint
    assert decode(json.dumps(raw | {"sum": None}).encode(), JOB_ID).labels == {"a": "b"}


def test_a_record_from_before_there_were_sums_is_read():
    raw = json.loads(encode(rich_job()))
    del raw["sum"]

    assert decode(json.dumps(raw | {"schema": 1}).encode(), JOB_ID) == rich_job()


def old_record(schema: int) -> bytes:
    raw = json.loads(encode(make_job(JOB_ID)))
    raw["schema"] = schema
    del raw["sum"]
    raw["state"] = raw.pop("status")
    return json.dumps(raw).encode()


def test_an_older_record_climbs_every_step_up(monkeypatch):
    climbed = []

    def rename(raw):
        climbed.append("rename")
        return {**{key: value for key, value in raw.items() if key != "state"}, "status": raw["state"]}

    def cancel(raw):
        climbed.append("cancel")
        return {**raw, "status": "canceled"}

    upgrades = {SCHEMA - 2: rename, SCHEMA - 1: cancel}

    job = decode(old_record(SCHEMA - 2), JOB_ID, upgrades=upgrades)

    assert climbed == ["rename", "cancel"]
    assert job.status is JobStatus.CANCELED
    assert encode(job).startswith(b'{"schema":%d,' % SCHEMA)


def test_every_older_schema_has_its_way_up():
    assert set(record.UPGRADES) == set(range(1, SCHEMA))


def test_a_newer_record_is_refused_with_what_to_do():
    newer = json.dumps({**json.loads(encode(make_job(JOB_ID))), "schema": SCHEMA + 1}).encode()

    with pytest.raises(RecordCorrupt, match=rf"schema {SCHEMA + 1}; this version reads up to {SCHEMA}") as caught:
        decode(newer, JOB_ID)

    assert "newer" in caught.value.hint


def without(member: str) -> bytes:
    raw = json.loads(encode(make_job(JOB_ID)))
    del raw[member]
    return json.dumps(raw).encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\n",
        b"null",
        b"1",
        b"[]",
        b"{}",
        b'"text"',
        b"\x00" * 4096,
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"schema": null}',
        b'{"schema": "1"}',
        b'{"schema": [1]}',
        b'{"schema": -1}',
        b'{"schema": 0.5}',
        b'{"schema": 1e400}',
        b'{"schema":1,',
        b'{"schema":1}',
        encode(make_job(JOB_ID))[:-20],
        encode(make_job(JOB_ID)) + b"}",
        encode(make_job(JOB_ID)).replace(b'"queued"', b'"waiting"'),
        encode(make_job(JOB_ID)).replace(b'"size":3', b'"size":-3'),
        encode(make_job(JOB_ID)).replace(b'"size":3', b'"size":null'),
        encode(make_job(make_id(number=5))),
        old_record(0),
        without("schema"),
        without("file"),
        without("created_at"),
    ],
)
def test_what_is_not_this_jobs_record_is_corrupt(data):
    with pytest.raises(RecordCorrupt) as caught:
        decode(data, JOB_ID)

    assert caught.value.hint


@pytest.mark.parametrize(
    "error", [KeyError("x"), TypeError("x"), AttributeError("x"), IndexError("x"), ValueError("x")]
)
def test_a_record_its_upgrade_cannot_read_is_corrupt(error):
    def fail(_):
        raise error

    with pytest.raises(RecordCorrupt):
        decode(old_record(SCHEMA - 1), JOB_ID, upgrades={SCHEMA - 1: fail})


@given(st.binary(max_size=200))
def test_no_bytes_bring_the_reader_down(data):
    with pytest.raises(RecordCorrupt):
        decode(data, JOB_ID)


@given(st.data())
def test_no_damage_to_a_record_brings_the_reader_down(data):
    good = encode(rich_job())
    start = data.draw(st.integers(0, len(good) - 1))
    length = data.draw(st.integers(1, 30))
    damaged = good[:start] + data.draw(st.binary(max_size=30)) + good[start + length :]

    try:
        job = decode(damaged, JOB_ID)
    except RecordCorrupt:
        return
    assert decode(encode(job), JOB_ID) == job


# overlays


@pytest.fixture
def running():
    return make_job(JOB_ID).claimed(NOON)


def noted(job):
    steps = (make_step("look", StepStatus.RUNNING), *job.steps[1:])
    return job.evolve(steps=steps, file=job.file.evolve(media_type="text/plain"))


def test_progress_lies_over_its_attempt(running):
    overlay = Overlay.decode(Overlay.of(running, 1, noted(running)).encode())

    shown = overlay.over(running)

    assert (shown.version, shown.steps[0].status) == (running.version + 1, StepStatus.RUNNING)
    assert shown.file.media_type == "text/plain"
    assert shown.evolve(version=running.version) == noted(running)


def test_progress_of_another_attempt_or_an_older_version_does_not_show(running):
    overlay = Overlay.of(running, 1, noted(running))
    changed, again = running.canceled(NOON), finish(running, Reason.ERROR).claimed(NOON)

    assert overlay.over(changed) is changed
    assert overlay.over(again) is again


def test_only_the_attempt_that_runs_makes_progress(running):
    with pytest.raises(StaleAttempt):
        Overlay.of(running, 2, running)
    with pytest.raises(StaleAttempt):
        Overlay.of(finish(running), 1, running)
