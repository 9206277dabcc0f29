"""Retention: finished jobs say when they go, go, are remembered for a while, and then forgotten."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

import pytest

from service.clock import utc_now
from service.testing import Server
from tests.integration.api import finished, holding, problem, submit
from tests.integration.conftest import CONTROLLED, client
from tests.integration.traces import traces
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

RETENTION = timedelta(seconds=2)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = {"retention": "2s", "max_attempts": 1} | CONTROLLED
    with Server(tmp_path_factory.mktemp("retention"), **settings) as running:
        yield running


@pytest.fixture(scope="module")
def http(server: Server) -> Iterator[httpx.Client]:
    with client(server) as made:
        yield made


def gc(server: Server, **settings: str) -> dict[str, int]:
    """Collect what has expired, with the command."""
    command = [sys.executable, "-P", "-m", "service.cli", "gc"]
    environment = server.environment() | settings
    run = subprocess.run(command, env=environment, capture_output=True, check=True, text=True)
    found: dict[str, int] = json.loads(run.stdout)
    return found


def test_a_job_expires_is_gone_and_is_forgotten(http: httpx.Client, server: Server):
    held = holding(http)
    jobs = [finished(http, submit(http)), finished(http, submit(http, pipeline="reject"), "failed")]
    http.post(held["links"]["cancel"])
    jobs.append(finished(http, held, "canceled"))
    assert held["expires_at"] is None
    for job in jobs:
        expires = datetime.fromisoformat(job["expires_at"])
        assert expires - datetime.fromisoformat(job["finished_at"]) == RETENTION
    last = max(datetime.fromisoformat(job["expires_at"]) for job in jobs)
    wait_until(lambda: utc_now() > last, what="the jobs to expire")
    gc(server)
    for job in jobs:
        for method, path in [("GET", ""), ("GET", "/source"), ("POST", "/cancel"), ("POST", "/retry"), ("DELETE", "")]:
            found = problem(http.request(method, job["links"]["self"] + path), 410, "job-expired")
            assert "Upload" in found["hint"]
        assert not server.job_dir(job["id"]).exists()
    assert http.get("/v1/jobs").json()["items"] == []
    assert traces(server) == set()

    def forgotten() -> bool:
        gc(server, INTAKE_GONE_FOR="0s")
        return http.get(jobs[0]["links"]["self"]).status_code == 404

    wait_until(forgotten, what="the jobs to be forgotten")
    problem(http.get(jobs[0]["links"]["self"]), 404, "job-not-found")


def test_a_retry_takes_the_moment_of_deletion_away(http: httpx.Client):
    job = finished(http, submit(http, pipeline="reject"), "failed")
    assert http.post(job["links"]["retry"]).json()["expires_at"] is None
    assert finished(http, job, "failed")["expires_at"] > job["expires_at"]


def test_a_key_is_free_again_when_its_job_has_expired(http: httpx.Client, server: Server):
    headers = {"Idempotency-Key": "of-a-job-that-expires"}
    first = finished(http, submit(http, headers=headers))
    wait_until(lambda: utc_now() > datetime.fromisoformat(first["expires_at"]))
    gc(server)
    assert submit(http, headers=headers)["id"] != first["id"]
