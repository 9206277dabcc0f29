"""Hearing of all jobs by one stream of server-sent events."""

from __future__ import annotations

import random
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING

import httpx
import pytest

from service.testing import Server
from tests.integration.api import finished, problem, submit
from tests.integration.conftest import CONTROLLED, client
from tests.sse import Told, stream
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

PATH = "/v1/events"


class Ear:
    """One who listens in a thread of its own, from ``ready`` on."""

    def __init__(self, server: Server, query: str = "", *, after: str | None = None, token: str | None = None) -> None:
        self.told: list[Told] = []
        self._http = client(server)
        headers = {"Prefer": "wait=60"} | ({"Authorization": f"Bearer {token}"} if token else {})
        self._opened = stream(self._http, PATH + query, after=after, headers=headers)
        self.answer, self._events = self._opened.__enter__()
        if after is None:
            assert next(self._events).name == "ready"
        self._thread = threading.Thread(target=self._listen, daemon=True)
        self._thread.start()

    def _listen(self) -> None:
        with suppress(httpx.HTTPError):  # closed at the end of the test
            for event in self._events:
                if event.name:
                    self.told.append(event)

    def of(self, *jobs: dict[str, object]) -> list[tuple[object, str | None]]:
        ids = [job["id"] for job in jobs]
        return [(ids.index(told.data["id"]), told.name) for told in list(self.told) if told.data.get("id") in ids]

    def close(self) -> None:
        self._http.close()


@pytest.fixture
def ears(server: Server) -> Iterator[list[Ear]]:
    opened: list[Ear] = []
    yield opened
    for ear in opened:
        ear.close()


def test_every_change_of_every_job_is_heard_in_order(server: Server, http: httpx.Client, ears: list[Ear]) -> None:
    ear = Ear(server)
    ears.append(ear)
    assert ear.answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    good, bad = submit(http), submit(http, pipeline="reject")
    finished(http, good)
    finished(http, bad, "failed")
    wait_until(lambda: len(ear.of(good, bad)) == 6, what="all changes to be heard")

    assert [name for which, name in ear.of(good, bad) if which == 0] == ["job.queued", "job.started", "job.succeeded"]
    assert [name for which, name in ear.of(good, bad) if which == 1] == ["job.queued", "job.started", "job.failed"]
    end = next(told for told in ear.told if told.name == "job.failed" and told.data["id"] == bad["id"])
    assert end.data["error"]["code"] == "test-refused"
    assert end.comments == [f"{bad['id']} a.txt: failed, This file is refused."]
    numbers = [int(str(told.id).partition("-")[2]) for told in ear.told]
    assert numbers == sorted(set(numbers))


def test_the_filters_are_those_of_the_list(server: Server, http: httpx.Client, ears: list[Ear]) -> None:
    ears += [Ear(server, query) for query in ("?status=failed,succeeded", "?label.who=me", "?pipeline=reject", "")]
    mine, other = submit(http, who="me"), submit(http, pipeline="reject", who="you")
    finished(http, mine)
    finished(http, other, "failed")
    everything = ears[-1]
    wait_until(lambda: len(everything.of(mine, other)) == 6, what="all changes to be heard")
    wait_until(lambda: len(ears[0].of(mine, other)) == 2, what="both ends to be heard")
    wait_until(lambda: len(ears[1].of(mine, other)) == 3, what="the label's changes to be heard")
    wait_until(lambda: len(ears[2].of(mine, other)) == 3, what="the pipeline's changes to be heard")

    assert sorted(ears[0].of(mine, other)) == [(0, "job.succeeded"), (1, "job.failed")]
    assert {which for which, _ in ears[1].of(mine, other)} == {0}
    assert {which for which, _ in ears[2].of(mine, other)} == {1}
    problem(http.get(PATH, params={"stauts": "failed"}), 422, "validation-error")
    problem(http.get(PATH, params={"cursor": "x"}), 422, "validation-error")
    problem(http.get(PATH, params={"status": "done"}), 422, "validation-error")
    assert http.head(PATH).headers["Content-Type"] == "text/event-stream; charset=utf-8"


def test_a_token_hears_of_its_own_jobs_alone(tmp_path) -> None:
    with Server(tmp_path, **CONTROLLED) as server, client(server) as http:
        one, two, all_ = (server.token(*scopes) for scopes in (("jobs:write", "jobs:read"),) * 2 + (("admin",),))
        ears = [Ear(server, token=token) for token in (one, two, all_)]
        jobs = [submit(http, headers={"Authorization": f"Bearer {token}"}) for token in (one, two)]
        wait_until(lambda: len(ears[2].of(*jobs)) == 6, what="all changes to be heard by the one who sees all")
        wait_until(lambda: [len(ear.told) for ear in ears] == [3, 3, 6], what="each to hear its own")
        for ear in ears:
            ear.close()
        assert {which for which, _ in ears[0].of(*jobs)} == {0}
        assert {which for which, _ in ears[1].of(*jobs)} == {1}
        problem(http.get(PATH), 401, "unauthorized")


@pytest.mark.parametrize("position", ["nothing", "0000aaaa-5", "-", "x" * 100])
def test_a_position_that_is_not_known_begins_with_ready(http: httpx.Client, position: str) -> None:
    with stream(http, PATH, after=position, headers={"Prefer": "wait=1"}) as (_, events):
        assert next(events).name == "ready"


def test_cut_and_resumed_over_two_processes_every_change_is_heard_once_and_in_order(tmp_path) -> None:
    with Server(tmp_path, **CONTROLLED, workers=2) as server, client(server) as http:
        chance = random.Random(5)
        told: list[Told] = []
        with stream(http, PATH) as (_, events):
            last = next(events).id
        with ThreadPoolExecutor(1) as aside:
            submitting = aside.submit(lambda: [submit(http, b"%d" % number)["id"] for number in range(20)])
            until = time.monotonic() + 60
            while len(told) < 60 and time.monotonic() < until:
                with client(server) as own, stream(own, PATH, after=last, headers={"Prefer": "wait=2"}) as (_, events):
                    for _ in range(chance.randrange(1, 6)):
                        if (event := next(events, None)) is None:
                            break
                        if event.name:
                            told.append(event)
                        last = event.id or last
            jobs = submitting.result(60)

        for job in jobs:
            assert [event.name for event in told if event.data["id"] == job] == [
                "job.queued",
                "job.started",
                "job.succeeded",
            ]
