"""Four API processes over one data directory, with nothing else between them."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from service.testing import Server
from tests.integration.api import accepted, finished, problem, submit
from tests.integration.conftest import client
from tests.integration.traces import traces
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKERS = 4


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("workers"), workers=WORKERS, poll="200ms", timeout=90) as running:
        wait_until(lambda: len(running.pids()) >= 1 + WORKERS + 2, what="workers, supervisor and zygote")
        yield running


def fresh(server: Server, number: int) -> dict[str, Any]:
    """Upload over a connection of its own, which any of the workers may get."""
    with client(server) as http:
        return submit(http, b"%d\n" % number, number=str(number))


def test_what_one_worker_takes_all_workers_show(server: Server):
    with ThreadPoolExecutor(8) as pool:
        jobs = list(pool.map(lambda number: fresh(server, number), range(24)))
    for job in jobs:
        with client(server) as http:
            finished(http, job)
    for _ in range(2 * WORKERS):
        with client(server) as http:
            assert {item["id"] for item in http.get("/v1/jobs?status=succeeded").json()["items"]} >= {
                job["id"] for job in jobs
            }
            assert http.get(jobs[7]["links"]["source"]).content == b"7\n"
            assert [item["id"] for item in http.get("/v1/jobs?label.number=7").json()["items"]] == [jobs[7]["id"]]


def test_a_race_of_ten_over_all_workers_makes_one_job(server: Server):
    before = traces(server)
    start = threading.Barrier(10)

    def one(_: int) -> Any:
        with client(server) as http:
            http.get("/livez")
            start.wait(10)
            headers = {"Idempotency-Key": "a-race-of-ten"}
            return http.post("/v1/jobs?pipeline=checksum", content=b"one", headers=headers)

    with ThreadPoolExecutor(10) as pool:
        answers = list(pool.map(one, range(10)))
    first = [answer for answer in answers if answer.status_code == 202 and "Idempotency-Replayed" not in answer.headers]
    assert len(first) == 1
    job = accepted(first[0])
    for answer in answers:
        if answer.status_code == 202:
            assert answer.json()["id"] == job["id"]
        else:
            problem(answer, 409, "idempotency-key-in-use")
    assert len({name for name in traces(server) - before if name.startswith("jobs/")}) == 1


def test_changes_meet_at_one_worker_or_another_and_only_one_is_made(server: Server):
    with client(server) as http:
        job = finished(http, submit(http, b"x", pipeline="checksum"))
    start = threading.Barrier(8)

    def delete(_: int) -> int:
        with client(server) as http:
            http.get("/livez")
            start.wait(10)
            return http.delete(job["links"]["self"]).status_code

    with ThreadPoolExecutor(8) as pool:
        assert sorted(pool.map(delete, range(8))) == [204] + [404] * 7


def test_one_supervisor_serves_all_workers(server: Server):
    with client(server) as http:
        assert http.get("/readyz?verbose").json()["checks"]["engine"] == "supervisor runs"
    assert server.log.count("supervisor runs") == 1
