"""Quotas and rates over HTTP: refused before the body where that is known, with a code of its own and Retry-After."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from service.access.file_store import FileTokenStore
from service.access.model import id_of
from service.testing import Server
from tests.http import NO_TLS
from tests.integration.api import accepted, finished, go_on, holding, problem, submit
from tests.integration.conftest import CONTROLLED
from tests.integration.traces import nothing_left
from tests.integration.wire import Wire
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = CONTROLLED | {"quota_jobs": 3, "quota_bytes": "1KiB", "slots": 2}
    with Server(tmp_path_factory.mktemp("quotas"), **settings) as running:
        yield running


def bearer(server: Server, **quotas: int) -> dict[str, str]:
    """Return the header of a new token with quotas of its own."""
    text = server.token("jobs:read", "jobs:write", "jobs:delete")
    token_id = id_of(text)
    assert token_id
    FileTokenStore(server.data_dir).change(token_id, lambda kept: kept.model_copy(update=quotas))
    return {"Authorization": f"Bearer {text}"}


@pytest.fixture
def open_client(server: Server) -> Iterator[Any]:
    opened = []

    def make(**quotas: int) -> httpx.Client:
        opened.append(
            httpx.Client(
                base_url=server.url, timeout=30, trust_env=False, verify=NO_TLS, headers=bearer(server, **quotas)
            )
        )
        return opened[-1]

    yield make
    for one in opened:
        one.close()


def refused(answer: httpx.Response, code: str, longest: int = 86_401) -> None:
    problem(answer, 429, code)
    assert 1 <= int(answer.headers["Retry-After"]) <= longest


def test_no_more_jobs_a_day_than_the_quota_and_deleting_gives_none_back(server: Server, open_client: Any):
    one, other = open_client(), open_client()
    for _ in range(3):
        job = finished(one, submit(one))
    assert one.delete(job["links"]["self"]).status_code == 204
    with nothing_left(server):
        refused(one.post("/v1/jobs", content=b"x"), "quota-jobs-exceeded")
    assert one.get("/v1/jobs").status_code == 200
    submit(other)


def test_no_more_bytes_a_day_than_the_quota(server: Server, open_client: Any):
    one = open_client(quota_jobs=0)
    submit(one, bytes(1000))
    with nothing_left(server):
        refused(one.post("/v1/jobs", content=bytes(25)), "quota-bytes-exceeded")
        refused(one.post("/v1/jobs", content=iter([bytes(25)])), "quota-bytes-exceeded")  # of unknown length
        refused(one.post("/v1/jobs", files={"file": bytes(25)}), "quota-bytes-exceeded")
    submit(one, bytes(24))


def test_an_upload_over_a_quota_is_refused_before_one_byte_of_it(server: Server):
    head = bearer(server)
    with nothing_left(server), Wire(server.url) as wire:
        wire.begin("POST", "/v1/jobs", content_length=1025, expect="100-continue", authorization=head["Authorization"])
        assert wire.socket.recv(12) == b"HTTP/1.1 429"


def test_an_upload_that_fails_costs_nothing(server: Server, open_client: Any):
    one = open_client(quota_jobs=1)
    for _ in range(3):
        assert one.post("/v1/jobs", content=b"").status_code == 422
        assert one.post("/v1/jobs?pipeline=none", content=b"x").status_code == 422
    submit(one)


def test_a_repeated_upload_is_charged_once(server: Server, open_client: Any):
    one = open_client(quota_jobs=2)
    first = submit(one, headers={"Idempotency-Key": "k"})
    again = one.post(
        "/v1/jobs",
        content=b"one\n",
        params={"filename": "a.txt", "pipeline": "checksum"},
        headers={"Idempotency-Key": "k"},
    )
    assert accepted(again, replayed=True)["id"] == first["id"]
    submit(one)
    refused(one.post("/v1/jobs", content=b"x"), "quota-jobs-exceeded")


def idle(http: httpx.Client) -> None:
    """Wait until the end of a job counts, which is a moment after its record tells of it."""
    wait_until(lambda: http.get("/v1/limits").json()["quota"]["active_now"] == 0, what="no active job")


def test_no_more_jobs_at_a_time_than_the_quota(server: Server, open_client: Any):
    one = open_client(quota_jobs=0, quota_active=1)
    job = holding(one)
    refused(one.post("/v1/jobs", content=b"x"), "quota-active-exceeded", longest=60)
    go_on(server, job)
    finished(one, job)
    idle(one)
    submit(one)


def test_a_token_is_told_what_it_may_use_and_has_used(server: Server, open_client: Any):
    one = open_client(quota_bytes=0)
    job = holding(one, b"1234")
    told = one.get("/v1/limits").json()["quota"]
    assert (told["jobs_per_day"], told["jobs_today"]) == (3, 1)
    assert (told["bytes_per_day"], told["bytes_today"]) == (None, 4)
    assert (told["active"], told["active_now"]) == (None, 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT00:00:00\.000Z", told["day_ends_at"])
    go_on(server, job)
    finished(one, job)
    idle(one)
    assert open_client(quota_jobs=0, quota_bytes=0).get("/v1/limits").json()["quota"] is None


def test_what_was_used_outlives_a_restart(tmp_path: Path):
    with Server(tmp_path, quota_jobs=1) as server:
        head = bearer(server)
        with httpx.Client(trust_env=False, verify=NO_TLS, headers=head) as one:
            assert one.post(f"{server.url}/v1/jobs", content=b"x").status_code == 202
            server.kill()
            server.start()
            refused(one.post(f"{server.url}/v1/jobs", content=b"x"), "quota-jobs-exceeded")


def test_requests_are_counted_and_told_and_too_many_are_refused(tmp_path: Path):
    with (
        Server(tmp_path, rate_limit="5/hour") as server,
        httpx.Client(base_url=server.url, trust_env=False, verify=NO_TLS) as http,
    ):
        for left in (4, 3, 2, 1, 0):
            answer = http.get("/v1/jobs" if left else "/v1/jobs/not-there")
            assert answer.headers["RateLimit-Policy"] == '"requests";q=5;w=3600'
            told = re.fullmatch(r'"requests";r=(\d+);t=(\d+)', answer.headers["RateLimit"])
            assert told
            assert int(told[1]) == left
            assert 3500 < int(told[2]) <= 3601
        refused(http.get("/v1/jobs"), "rate-limited", longest=3601)
        refused(http.post("/v1/jobs", content=b"x"), "rate-limited", longest=3601)
        assert http.get("/livez").status_code == 200
        assert "RateLimit" not in http.get("/readyz").headers
        one, other = ({"Authorization": f"Bearer {server.token('jobs:read')}"} for _ in range(2))
        for _ in range(5):
            assert http.get("/v1/jobs", headers=one).status_code == 200
        refused(http.get("/v1/jobs", headers=one), "rate-limited", longest=3601)
        assert http.get("/v1/jobs", headers=other).status_code == 200


def test_without_a_limit_nothing_is_told(server: Server, open_client: Any):
    assert "RateLimit" not in open_client().get("/v1/jobs").headers
