"""Frames between a runner and its process: cut anywhere, capped, and never trusted."""

from __future__ import annotations

import json
import socket
import struct
import threading
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.execution.sandbox import ProcessLimits
from service.execution.wire import MAX_FRAME, FrameReader, Reports, Request, WireError, send

values = st.dictionaries(
    st.text(max_size=10),
    st.recursive(st.none() | st.booleans() | st.integers() | st.text(max_size=20), st.lists, max_leaves=10),
    max_size=5,
)


def framed(data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + data


def frame(value) -> bytes:
    return framed(json.dumps(value).encode())


@pytest.fixture
def ends():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield ours, theirs


@given(st.lists(values, max_size=5), st.data())
def test_frames_come_out_whole_wherever_the_stream_is_cut(sent, data):
    stream = b"".join(map(frame, sent))
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    reader = FrameReader()
    received = []
    for start, stop in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += list(reader.feed(stream[start:stop]))

    assert received == sent


def test_a_frame_that_is_not_whole_is_waited_for():
    data = frame({"event": "log"})
    reader = FrameReader()

    assert list(reader.feed(data[:-1])) == []
    assert list(reader.feed(data[-1:])) == [{"event": "log"}]


def test_the_largest_frame_passes_and_one_more_byte_does_not():
    text = "x" * (MAX_FRAME - len(json.dumps({"a": ""})))

    assert list(FrameReader().feed(frame({"a": text}))) == [{"a": text}]
    with pytest.raises(WireError, match=str(MAX_FRAME + 1)):
        list(FrameReader().feed(frame({"a": text + "x"})))


def test_a_long_frame_is_refused_from_its_head_alone():
    with pytest.raises(WireError):
        list(FrameReader().feed(b"\xff\xff\xff\xff"))


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"\xff", b"[]", b"null", b'"text"', b"1", b"[" * 50_000, b"9" * 10_000, b'{"a":' * 9_999],
)
def test_what_is_no_object_is_refused(data):
    with pytest.raises(WireError):
        list(FrameReader().feed(framed(data)))


def test_good_frames_count_before_a_bad_one():
    frames = FrameReader().feed(frame({"a": 1}) + framed(b"nonsense"))

    assert next(frames) == {"a": 1}
    with pytest.raises(WireError):
        next(frames)


@given(st.binary(max_size=300))
def test_no_bytes_do_anything_but_raise_a_wire_error(data):
    reader = FrameReader()
    try:
        frames = list(reader.feed(data))
    except WireError:
        return
    assert all(isinstance(value, dict) for value in frames)


def request(**members) -> Request:
    defaults = {
        "job_id": "j",
        "attempt": 2,
        "source": {"path": "/data/source", "filename": 'naïve "日本語".pdf', "declared_type": None, "size": 3},
        "sha256": "ab" * 32,
        "workdir": "/data/attempt-2",
        "steps": [{"name": "look", "processor": "test.look", "options": {"depth": 3}, "input": "source"}],
        "finished": {
            "first": {
                "facts": {},
                "artifacts": {"a": ["/data/a", "text/plain", 1, "cd"], "b": ["/data/b", "x/y", 2, "ef"]},
            }
        },
        "limits": {"max_pixels": 5},
        "process": ProcessLimits(memory=1, output=2, files=3, cpu=4),
        "code": ["/processors"],
    }
    return Request(**(defaults | members))


def test_a_request_arrives_as_it_was_sent(ends):
    ours, theirs = ends

    request().send(ours)

    assert Request.receive(theirs) == request()


def test_a_request_may_be_longer_than_a_frame_and_than_the_socket_holds(ends):
    ours, theirs = ends
    long = request(finished={"first": {"facts": {"text": "x" * (2 * MAX_FRAME)}, "artifacts": {}}})
    sender = threading.Thread(target=long.send, args=(ours,))
    sender.start()

    received = Request.receive(theirs)
    sender.join()

    assert received == long


def step(status):
    return {"event": "step", "step": "look", "status": status}


def test_a_report_that_another_follows_at_once_is_sent_with_it(ends):
    ours, theirs = ends
    theirs.setblocking(False)
    reports, reader = Reports(ours), FrameReader()
    sent = []
    for event in (
        {"event": "confined", "level": []},
        step("running"),
        {"event": "progress", "step": "look", "done": 1},
        step("succeeded"),
        step("skipped"),
        step("running"),
        step("failed"),
        {"event": "outcome", "outcome": "failed"},
    ):
        reports.tell(event)
        with suppress(BlockingIOError):
            sent.append([told.get("status") or told["event"] for told in reader.feed(theirs.recv(10_000))])

    assert sent == [
        ["confined", "running"],
        ["progress"],
        ["succeeded", "skipped", "running"],
        ["failed", "outcome"],
    ]


def test_a_request_whose_sender_is_gone_ends(ends):
    ours, theirs = ends
    ours.sendall(frame({"job_id": "j"})[:9])
    ours.close()

    with pytest.raises(EOFError):
        Request.receive(theirs)


def test_the_files_of_a_request_are_those_of_earlier_steps():
    assert list(request().files()) == ["/data/a", "/data/b"]


def test_what_is_sent_can_be_read(ends):
    ours, theirs = ends
    sent = [{"event": "progress", "done": 1.5}, {"event": "log", "message": "é\n"}]
    for value in sent:
        send(ours, value)

    assert list(FrameReader().feed(theirs.recv(2**16))) == sent
