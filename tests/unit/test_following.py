"""Following a job by its event stream, driven by hand: what is told, when it is resumed, and what is done without one."""

from __future__ import annotations

import json
from typing import Any

import httpx
import pytest

from service.client import WaitTimeout
from service.client.document import Snapshot
from service.client.following import Events, follow
from service.client.operations import Api
from service.client.wire import Read, Send, Sleep, Tell

STEP = {"name": "look", "processor": "test.look", "status": "waiting", "progress": None}
JOB: dict[str, Any] = {
    "id": "0199c1f2-0000-7000-8000-000000000000",
    "status": "queued",
    "version": 1,
    "done": False,
    "file": {"name": "a.txt"},
    "progress": {"done": 0, "total": 1, "step": None},
    "steps": [STEP],
}
RUNNING = JOB | {"status": "running", "version": 2}
DONE = JOB | {"status": "succeeded", "version": 5, "done": True}
CUT = httpx.ReadError("cut")


def event(name: str, data: dict[str, Any], number: int | None = None) -> bytes:
    words = f": for people\nevent: {name}\ndata: {json.dumps(data)}\n"
    return (words + (f"id: {number}\n" if number else "") + "\n").encode()


class Service:
    """Answers each request with the next of its answers: an error, a refusal, or the pieces of a stream."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.pieces: list[Any] = []
        self.sent: list[httpx.Request] = []
        self.slept: list[float] = []

    def follow(self, last: dict[str, Any] = JOB, *, timeout: float | None = None, api: Api | None = None) -> list[Any]:
        """Return what is told."""
        operation = follow(api or Api("http://service.test"), Snapshot(last), timeout=timeout)
        told, given = [], None
        while True:
            try:
                effect = operation.throw(given) if isinstance(given, Exception) else operation.send(given)
            except StopIteration:
                return told
            given = None
            match effect:
                case Tell(value):
                    told.append(value.document)
                case Sleep(seconds):
                    self.slept.append(seconds)
                case Read():
                    given = self.pieces.pop(0) if self.pieces else b""
                case Send(request, stream):
                    self.sent.append(request)
                    given = self.answers.pop(0)
                    if isinstance(given, list):
                        assert stream
                        self.pieces = given
                        given = httpx.Response(200, headers={"Content-Type": "text/event-stream; charset=utf-8"})
                    if isinstance(given, httpx.Response):
                        given.request = request


def test_every_change_that_a_stream_tells_is_told() -> None:
    progress = {"id": JOB["id"], "status": "running", "version": 3, "attempt": 1}
    progress |= {"progress": {"done": 0, "total": 1, "step": "look"}}
    progress |= {"steps": [{"name": "look", "status": "running", "progress": {"done": 1, "total": 3, "unit": "pages"}}]}
    stream = event("job.started", RUNNING, 2) + b": ping\n\n" + event("job.progress", progress)
    stream += event("job.failed", {"id": JOB["id"], "status": "failed", "version": 4, "done": True}, 4)
    stream += event("job.succeeded", DONE, 5)
    service = Service([stream[:10], stream[10:400], stream[400:]])

    started, further, done = service.follow()

    assert (started, done) == (RUNNING, DONE)
    assert further["version"] == 3
    assert further["steps"][0] == STEP | {"progress": {"done": 1, "total": 3, "unit": "pages"}}
    assert further["progress"]["step"] == "look"
    [request] = service.sent
    assert request.url.path == f"/v1/jobs/{JOB['id']}/events"
    assert request.headers["Accept"] == "text/event-stream"
    assert "Last-Event-ID" not in request.headers
    assert request.extensions["timeout"]["read"] == 30


def test_a_stream_that_breaks_is_resumed_after_its_last_event() -> None:
    half = event("job.succeeded", DONE, 5)
    service = Service([event("job.started", RUNNING, 2), half[:40], CUT], CUT, [b""], [half])
    assert service.follow() == [RUNNING, DONE]
    assert [request.headers.get("Last-Event-ID") for request in service.sent] == [None, "2", "2", "2"]
    assert service.slept == [0.5, 1.0]


@pytest.mark.parametrize("answer", [httpx.Response(404), httpx.Response(503), httpx.Response(204), httpx.Response(200)])
def test_where_there_is_no_stream_the_job_is_waited_for(answer: httpx.Response) -> None:
    service = Service(answer, httpx.Response(200, json=RUNNING), httpx.Response(200, json=DONE))
    assert service.follow() == [RUNNING, DONE]
    assert [request.url.path.rpartition("/")[2] for request in service.sent] == ["events", JOB["id"], JOB["id"]]


def test_streams_that_tell_nothing_are_given_up() -> None:
    service = Service(CUT, [], CUT, httpx.Response(200, json=DONE))
    assert service.follow() == [DONE]
    assert len(service.sent) == 4


def test_a_job_that_is_done_is_not_followed() -> None:
    assert Service().follow(DONE) == []


def test_a_deadline_bounds_the_stream_and_is_kept() -> None:
    now = [100.0]
    api = Api("http://service.test", clock=lambda: now[0])
    operation = follow(api, Snapshot(JOB), timeout=7.5)
    effect = next(operation)
    assert isinstance(effect, Send)
    assert effect.request.headers["Prefer"] == "wait=7"
    assert effect.request.extensions["timeout"]["read"] == 8.5
    operation.close()

    service = Service(httpx.Response(200, json=JOB), httpx.Response(200, json=JOB))
    with pytest.raises(WaitTimeout):
        service.follow(timeout=0)
    assert service.sent[0].url.path == f"/v1/jobs/{JOB['id']}", "no stream is worth it any more"


def test_an_id_alone_is_remembered_and_tells_nothing() -> None:
    events = Events()
    assert list(events.feed(b"id: 7\n\n")) == []
    assert events.last_id == "7"
    assert list(events.feed("data: {}\nid: 8\nevent: \u00e4\n".encode()[:-3])) == []
    assert events.last_id == "7", "its event is not whole"
