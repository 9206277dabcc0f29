"""Following jobs by server-sent events, over HTTP."""

from __future__ import annotations

import asyncio
import http.client
import random
import signal
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from typing import TYPE_CHECKING

import httpx
import pytest

from service.client import AsyncClient, Client
from service.testing import Server
from tests.integration.api import finished, go_on, holding, look, problem, submit, touch
from tests.integration.conftest import CONTROLLED, client
from tests.sse import Told, parse, stream
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path


def test_a_job_is_followed_from_where_it_stands_to_its_end(server: Server, http: httpx.Client) -> None:
    job = holding(http)
    with stream(http, f"{job['links']['self']}/events") as (answer, events):
        assert answer.status_code == 200
        assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["X-Accel-Buffering"] == "no"
        assert answer.headers["X-Request-ID"]
        first = next(events)
        touch(server, job)
        further = next(told for told in events if told.name == "job.progress" and told.data["steps"][0]["progress"])
        go_on(server, job)
        *_, last = events

    assert (first.name, first.id, first.retry) == ("job.started", "2", 3000)
    assert first.data["id"] == job["id"]
    assert first.data["status"] == "running"
    assert first.comments[0].startswith("running, step 1 of 1: test.hold")
    assert further.id is None
    assert set(further.data) == {"id", "status", "version", "attempt", "progress", "steps"}
    assert further.data["steps"][0]["progress"]["unit"] == "touches"
    assert last.name == "job.succeeded"
    assert last.data == look(http, job)
    assert int(last.id or 0) == last.data["version"]


def test_what_passed_before_it_could_be_told_is_told_and_an_end_that_was_seen_is_204(http: httpx.Client) -> None:
    job = finished(http, submit(http))
    path = f"{job['links']['self']}/events"

    with stream(http, path) as (_, events):
        assert [told.name for told in events] == ["job.succeeded"]
    with stream(http, path, after="1") as (_, events):
        passed, last = events
    assert (passed.name, passed.id) == ("job.started", "2")
    assert set(passed.data) == {"id", "version", "status", "attempt", "at", "done"}
    assert (passed.data["version"], passed.data["status"], passed.data["done"]) == (2, "running", False)
    assert last.name == "job.succeeded"

    answer = http.get(path, headers={"Last-Event-ID": str(last.id)})
    assert (answer.status_code, answer.content) == (204, b"")


@pytest.mark.parametrize("last", ["", "x", "-1", "9" * 30, "99", "1.5"])
def test_an_id_that_is_none_begins_anew(http: httpx.Client, last: str) -> None:
    job = finished(http, submit(http))
    with stream(http, f"{job['links']['self']}/events", after=last) as (_, events):
        assert [told.name for told in events] == ["job.succeeded"]


def test_a_stream_that_cannot_be_is_refused_as_anything_else(http: httpx.Client) -> None:
    path = "/v1/jobs/0199c1f2-0000-7000-8000-000000000000/events"
    problem(http.get(path), 404, "job-not-found")
    assert http.head(path).status_code == 404


def test_the_head_of_a_stream_is_answered_at_once(server: Server, http: httpx.Client) -> None:
    job = holding(http)
    answer = http.head(f"{job['links']['self']}/events")
    assert answer.status_code == 200
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    go_on(server, job)


def test_a_stream_lasts_as_long_as_is_preferred(server: Server, http: httpx.Client) -> None:
    job = holding(http)
    with stream(http, f"{job['links']['self']}/events", headers={"Prefer": "wait=1"}) as (answer, events):
        assert answer.headers["Preference-Applied"] == "wait=1"
        names = [told.name for told in events]
    assert names[0] == "job.started"
    assert not look(http, job)["done"]
    go_on(server, job)


def test_a_stream_ends_when_its_job_is_deleted(server: Server, http: httpx.Client) -> None:
    job = holding(http)
    with stream(http, f"{job['links']['self']}/events") as (_, events):
        next(events)
        http.post(f"{job['links']['self']}/cancel")
        finished(http, job, "canceled")
        http.delete(job["links"]["self"])
        assert {told.name for told in events} <= {"job.changed", "job.progress", "job.canceled"}


def test_others_jobs_have_no_streams(tmp_path: Path) -> None:
    with Server(tmp_path, **CONTROLLED) as server, client(server) as http:
        mine = {"Authorization": f"Bearer {server.token('jobs:write', 'jobs:read')}"}
        others = {"Authorization": f"Bearer {server.token('jobs:write', 'jobs:read')}"}
        job = submit(http, headers=mine)
        path = f"{job['links']['self']}/events"
        problem(http.get(path, headers=others), 404, "job-not-found")
        problem(http.get(path), 401, "unauthorized")
        with stream(http, path, headers=mine) as (_, events):
            assert [told.name for told in events][-1] == "job.succeeded"


def test_streams_are_bounded_and_those_who_leave_free_their_places(tmp_path: Path) -> None:
    with Server(tmp_path, **CONTROLLED, max_streams=1) as server, client(server) as http:
        job = holding(http)
        path = f"{job['links']['self']}/events"
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as leaver:
            leaver.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            assert leaver.recv(1)  # its answer has begun
            refused = problem(http.get(path), 503, "too-many-streams")
            assert "Prefer: wait" in refused["hint"]
        wait_until(lambda: http.get(path, headers={"Prefer": "wait=0"}).status_code == 200, what="the place to be free")
        go_on(server, job)


def test_a_stop_ends_streams_and_waits_at_once(tmp_path: Path) -> None:
    with Server(tmp_path, **CONTROLLED, drain="2s") as server, client(server) as http:
        job = holding(http)
        path = job["links"]["self"]
        with ThreadPoolExecutor(1) as aside, stream(http, f"{path}/events") as (_, events):
            next(events)
            waiting = aside.submit(
                httpx.get, f"{server.url}{path}?wait=30", timeout=60, trust_env=False, headers={"Connection": "close"}
            )
            wait_until(lambda: "open" in _waiting(server), what="the wait to have begun")
            began = time.monotonic()
            assert server.process is not None
            server.process.send_signal(signal.SIGTERM)
            told = list(events)
            assert waiting.result(20).status_code == 200
            assert time.monotonic() - began < 15, "not the 30 s that were asked for, and not the 15 min of a stream"
        assert {each.name for each in told} <= {"job.changed", "job.progress"}
        assert "Cancel" not in server.log, "nothing had to be cut off"


def _waiting(server: Server) -> str:
    """Tell whether both requests are at work: each has a connection of its own."""
    port = int(server.url.rpartition(":")[2])
    with open("/proc/net/tcp", encoding="ascii") as table:  # noqa: PTH123
        rows = [line.split() for line in table.readlines()[1:]]
    established = [row for row in rows if int(row[1].rpartition(":")[2], 16) == port and row[3] == "01"]
    return "open" if len(established) >= 2 else ""


class Cut:
    """A stream that is cut after at most 150 ms, wherever it is then, and resumed, until the end of the job."""

    def __init__(self, server: Server, path: str, seed: int) -> None:
        self.told: list[Told] = []
        self.cuts = 0
        self._address = server.url.removeprefix("http://")
        self._path = path
        self._chance = random.Random(seed)

    def follow(self) -> None:
        last: str | None = None
        while not self.told or not self.told[-1].data["done"]:
            text = self._connect(last)
            whole = text[: text.rfind("\n\n") + 2]  # an event that was cut is dropped, as the standard says
            told = [event for event in parse(iter(whole.splitlines())) if event.id]
            self.told.extend(told)
            last = told[-1].id if told else last

    def _connect(self, last: str | None) -> str:
        until, text = time.monotonic() + self._chance.uniform(0, 0.15), b""
        connection = http.client.HTTPConnection(self._address, timeout=20)
        with closing(connection), suppress(TimeoutError):
            connection.request("GET", self._path, headers={"Last-Event-ID": last} if last else {})
            with connection.getresponse() as answer:
                assert answer.status == 200
                while (left := until - time.monotonic()) > 0:
                    connection.sock.settimeout(left)
                    if not (piece := answer.read1(self._chance.randrange(1, 3000))):
                        return text.decode()
                    text += piece
        self.cuts += 1
        return text.decode(errors="replace")


def test_a_stream_cut_50_times_tells_every_change_of_the_status_once_and_in_order(tmp_path: Path) -> None:
    settings = CONTROLLED | {"workers": 2, "retry_base": "50ms", "retry_cap": "100ms", "max_attempts": 1000}
    with Server(tmp_path, **settings) as server, client(server) as http, ThreadPoolExecutor(2) as aside:
        job = submit(http, pipeline="flaky")
        cut = [Cut(server, f"{job['links']['self']}/events", seed) for seed in range(2)]
        followers = [aside.submit(each.follow) for each in cut]
        try:
            wait_until(lambda: min(each.cuts for each in cut) >= 50, timeout=60, what="50 cuts of each stream")
        finally:
            go_on(server, job)
        for follower in followers:
            follower.result(60)
        moves = [move["version"] for move in server.record(job["id"])["moves"]]

    for each in cut:
        ids = [int(event.id or 0) for event in each.told]
        assert ids[-len(moves) :] == moves[-len(ids) :], "each once, in order, to the end"
        assert len(ids) >= len(moves)
        assert ids == sorted(set(ids))
        assert [event.data["status"] for event in each.told[-2:]] == ["running", "succeeded"]


def test_the_client_follows_a_job_by_one_stream(server: Server) -> None:
    sent: list[str] = []

    class Recorded(httpx.HTTPTransport):
        def handle_request(self, request: httpx.Request) -> httpx.Response:
            sent.append(request.url.path)
            return super().handle_request(request)

    with Client(server.url, transport=Recorded()) as own:
        job = own.submit(b"one\n", name="a.txt", pipeline="checksum", wait=60)
    assert job.status == "succeeded"
    assert sent == ["/v1/jobs", f"/v1/jobs/{job.id}/events"]


def test_the_asynchronous_client_follows_a_job_by_one_stream(server: Server) -> None:
    sent: list[str] = []

    class Recorded(httpx.AsyncHTTPTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            sent.append(request.url.path)
            return await super().handle_async_request(request)

    async def scenario() -> list[str]:
        async with AsyncClient(server.url, transport=Recorded()) as own:
            job = await own.submit(b"one\n", name="a.txt", pipeline="checksum")
            return [state.status async for state in job.watch(timeout=60)]

    assert asyncio.run(scenario())[-1] == "succeeded"
    assert len(sent) == 2
    assert sent[1].endswith("/events")


def test_the_client_waits_where_all_streams_are_taken(tmp_path: Path) -> None:
    with Server(tmp_path, **CONTROLLED, max_streams=0) as server, Client(server.url) as own:
        assert own.submit(b"one\n", name="a.txt", pipeline="checksum", wait=60).status == "succeeded"
