"""Waiting for a job in one request: ``Prefer: wait`` and ``?wait``, as RFC 7240 has them."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import httpx
import pytest

from service.testing import Server
from tests.integration.api import finished, go_on, holding, look, problem, submit, touch
from tests.integration.conftest import CONTROLLED, client
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LONG = {"Prefer": "wait=25"}


@pytest.fixture
def aside() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def test_a_look_that_waits_is_answered_at_the_end_of_the_job(
    server: Server, http: httpx.Client, aside: ThreadPoolExecutor
) -> None:
    job = holding(http)
    looks = [aside.submit(http.get, job["links"]["self"], headers=LONG) for _ in range(3)]
    looks.append(aside.submit(http.get, job["links"]["self"], params={"wait": "25"}))
    time.sleep(0.3)
    assert not any(each.done() for each in looks)
    began = time.monotonic()

    go_on(server, job)

    for each in looks:
        answer = each.result(20)
        assert answer.status_code == 200
        assert answer.json()["status"] == "succeeded"
        assert answer.headers["Preference-Applied"] == "wait=25"
        assert answer.headers["Vary"] == "Prefer"
    assert time.monotonic() - began < 15


def test_with_a_tag_it_is_answered_at_the_next_change(
    server: Server, http: httpx.Client, aside: ThreadPoolExecutor
) -> None:
    job = holding(http)
    tag = http.get(job["links"]["self"]).headers["ETag"]
    look_that_waits = aside.submit(http.get, job["links"]["self"], headers=LONG | {"If-None-Match": tag})

    touch(server, job)

    answer = look_that_waits.result(20)
    assert answer.status_code == 200
    assert answer.headers["ETag"] != tag
    assert answer.json()["status"] == "running"
    go_on(server, job)


def test_a_tag_that_is_old_already_is_answered_at_once(server: Server, http: httpx.Client) -> None:
    job = holding(http)
    began = time.monotonic()
    answer = http.get(job["links"]["self"], headers=LONG | {"If-None-Match": '"0-0"'})
    assert answer.status_code == 200
    assert answer.headers["Preference-Applied"] == "wait=25"
    assert time.monotonic() - began < 10
    go_on(server, job)


def test_when_nothing_changes_the_answer_is_304_or_the_same_job(server: Server, http: httpx.Client) -> None:
    job = holding(http)
    wait_until(lambda: look(http, job)["steps"][0]["progress"], what="the first and only progress")
    seen = http.get(job["links"]["self"])
    tag = seen.headers["ETag"]

    unchanged = http.get(job["links"]["self"], headers={"If-None-Match": tag, "Prefer": "wait=1"})
    assert unchanged.status_code == 304
    assert unchanged.headers["ETag"] == tag
    assert unchanged.headers["Preference-Applied"] == "wait=1"
    assert unchanged.headers["Retry-After"]

    same = http.get(job["links"]["self"], params={"wait": 1})
    assert same.status_code == 200
    assert same.json() == seen.json()
    go_on(server, job)


def test_a_job_that_is_done_is_not_waited_for(http: httpx.Client) -> None:
    job = finished(http, submit(http))
    began = time.monotonic()
    assert http.get(job["links"]["self"], headers=LONG).json() == look(http, job)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("preference", ["wait=soon", "wait", "wait=-1", "respond-async", "waits=5", "wait=1e3", ""])
def test_a_preference_that_cannot_be_read_is_ignored(server: Server, http: httpx.Client, preference: str) -> None:
    job = finished(http, submit(http))
    answer = http.get(job["links"]["self"], headers={"Prefer": preference})
    assert answer.status_code == 200
    assert "Preference-Applied" not in answer.headers


def test_a_parameter_that_cannot_be_read_is_refused(http: httpx.Client) -> None:
    job = finished(http, submit(http))
    problem(http.get(job["links"]["self"], params={"wait": "soon"}), 422, "validation-error")
    problem(http.get(job["links"]["self"], params={"wait": "-1"}), 422, "validation-error")


def test_waiting_for_a_job_that_is_not_there_is_answered_at_once(http: httpx.Client) -> None:
    problem(http.get("/v1/jobs/0199c1f2-0000-7000-8000-000000000000", headers=LONG), 404, "job-not-found")


def test_places_are_bounded_and_those_who_leave_free_theirs(tmp_path: Path) -> None:
    with Server(tmp_path, **CONTROLLED, max_waiters=1, max_wait="1h") as server, client(server) as http:
        job = holding(http)
        path = job["links"]["self"]
        host, port = server.url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port))) as leaver:
            leaver.sendall(f"GET {path}?wait=3600 HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
            for _ in range(5):  # by then the server has come to it
                look(http, job)
            assert "Preference-Applied" not in http.get(path, params={"wait": 1}).headers, "the place is taken"
        answer = wait_until(
            lambda: (got := http.get(path, params={"wait": 1})) and "Preference-Applied" in got.headers and got,
            what="the place is free",
        )
        assert answer.headers["Preference-Applied"] == "wait=1"
        go_on(server, job)


def test_all_processes_of_the_api_see_the_change(tmp_path: Path, aside: ThreadPoolExecutor) -> None:
    with Server(tmp_path, **CONTROLLED, workers=2) as server, client(server) as http:
        job = holding(http)
        looks = [
            aside.submit(httpx.get, server.url + job["links"]["self"], headers=LONG, timeout=30, trust_env=False)
            for _ in range(6)
        ]
        go_on(server, job)
        assert {each.result(25).json()["status"] for each in looks} == {"succeeded"}
