"""Who did what, from where, as a live server writes it down."""

from __future__ import annotations

import fcntl
import json
import os
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from service.testing import Server
from tests.integration.api import accepted, finished, go_on, holding, problem, submit
from tests.integration.conftest import CONTROLLED, client
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path


def written(server: Server) -> list[dict[str, Any]]:
    path = server.data_dir / "audit" / "audit.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def of(server: Server, job: dict[str, Any], count: int) -> list[dict[str, Any]]:
    return wait_until(
        lambda: len(found := [line for line in written(server) if line.get("job_id") == job["id"]]) == count and found,
        what=f"{count} lines of the job",
    )


def test_what_is_done_to_jobs_is_written_down_with_who_and_where(tmp_path: Path) -> None:
    with Server(tmp_path, **CONTROLLED, max_attempts=1) as server, client(server) as http:
        token = server.token("admin", name="nightly")
        http.headers.update({"Authorization": f"Bearer {token}", "User-Agent": "tests/1"})
        job = submit(http, pipeline="reject", headers={"X-Request-ID": "r-1"}, who="me")
        finished(http, job, "failed")
        http.post(f"{job['links']['self']}/retry")
        finished(http, job, "failed")
        problem(
            http.post(f"{job['links']['self']}/cancel"), 409, "job-already-done"
        )  # no matter of rights: not written
        http.delete(job["links"]["self"])
        held = submit(http, pipeline="hold")
        http.post(f"{held['links']['self']}/cancel")

        lines = of(server, job, 3)
        assert [line["action"] for line in lines] == ["job.accept", "job.retry", "job.delete"]
        assert [line["action"] for line in of(server, held, 2)] == ["job.accept", "job.cancel"]
        accept = lines[0]
        token_id = token.split("_")[1]
        assert accept == {
            "at": accept["at"],
            "action": "job.accept",
            "job_id": job["id"],
            "token": token_id,
            "name": "nightly",
            "address": "127.0.0.1",
            "method": "POST",
            "path": "/v1/jobs",
            "query": "filename=a.txt&pipeline=reject&labels.who=me",
            "agent": "tests/1",
            "request_id": "r-1",
        }
        uses = [line for line in written(server) if line["action"] == "token.use"]
        assert [line["token"] for line in uses] == [token_id], "once an hour, not once a request"
        assert token not in (server.data_dir / "audit" / "audit.jsonl").read_text()


def test_what_is_refused_is_written_down_with_who_has_asked_for_what(tmp_path: Path) -> None:
    with Server(tmp_path, **CONTROLLED, rate_limit="4/hour") as server, client(server) as http:
        reader = server.token("jobs:read", name="reader")
        gone = reader[:-1] + ("a" if reader[-1] != "a" else "b")  # mistyped: it claims no id
        stranger = server.token(name="stranger")
        (server.data_dir / "access" / "tokens" / f"{stranger.split('_')[1]}.json").unlink()

        problem(http.get("/v1/jobs?status=failed&token=s3cret"), 401, "unauthorized")
        for bad in (gone, stranger, "s3cret"):
            problem(http.get("/v1/jobs", headers={"Authorization": f"Bearer {bad}"}), 401, "token-invalid")
        http.headers["Authorization"] = f"Bearer {reader}"
        problem(http.post("/v1/jobs?filename=a.txt", content=b"one"), 403, "insufficient-scope")
        for _ in range(3):
            assert http.get("/v1/jobs").status_code == 200
        for _ in range(5):
            problem(http.get("/v1/jobs"), 429, "rate-limited")
        problem(http.get("/v1/nothing"), 404, "not-found")

        def refused() -> list[dict[str, Any]]:
            return [line for line in written(server) if line["action"] == "request.refused"]

        lines = wait_until(lambda: len(found := refused()) == 5 and found, what="the lines of the refusals")
        mine, theirs = reader.split("_")[1], stranger.split("_")[1]
        assert [(line["status"], line["code"], line.get("token")) for line in lines] == [
            (401, "unauthorized", None),
            (401, "token-invalid", None),
            (401, "token-invalid", theirs),
            (403, "insufficient-scope", mine),
            (429, "rate-limited", mine),
        ]
        assert (lines[0]["path"], lines[0]["query"]) == ("/v1/jobs", "status=failed&token=***")
        assert (lines[3]["method"], lines[3]["name"], lines[3]["address"]) == ("POST", "reader", "127.0.0.1")
        assert lines[3]["untold"] == 1, "the second token that claimed no id"
        text = (server.data_dir / "audit" / "audit.jsonl").read_text()
        assert not [secret for secret in (reader, gone, stranger, "s3cret") if secret in text]


def test_a_signed_link_is_written_down_without_what_makes_it_good(tmp_path: Path) -> None:
    with Server(tmp_path, **CONTROLLED) as server, client(server) as http:
        made = http.post("/v1/links", json={"upload": {"pipeline": "checksum"}}).json()
        job = accepted(http.post(made["url"], content=b"one", headers={"Content-Disposition": 'x; filename="a.txt"'}))
        [line] = of(server, job, 1)
        signature = httpx.URL(made["url"]).params["sig"]
        assert (line["action"], line["link"]) == ("job.accept", True)
        assert "sig=***" in line["query"]
        assert signature not in (server.data_dir / "audit" / "audit.jsonl").read_text()
        assert [line["action"] for line in written(server)] == ["link.create", "job.accept"]


def test_the_line_and_the_task_of_the_route_both_run_in_this_order_after_the_response(tmp_path: Path) -> None:
    """The route's own task rings the bell: with a poll of ten minutes nothing else starts the job."""
    with Server(tmp_path, **CONTROLLED | {"poll": "10m"}) as server, client(server) as http:
        finished(http, submit(http))  # nothing is left that could have the supervisor look by itself
        lock = server.data_dir / "audit" / "lock"
        with lock.open("rb") as held:
            fcntl.flock(held, fcntl.LOCK_EX)
            job = submit(http)  # answered, although the line cannot be written yet
            waited = http.get(job["links"]["self"], params={"wait": "1"}).json()
            assert waited["status"] == "queued", "the bell rings after the line is written"
            assert not [line for line in written(server) if line.get("job_id") == job["id"]]
        finished(http, job)
        assert of(server, job, 1)


def test_a_log_that_cannot_be_written_fails_no_request(tmp_path: Path) -> None:
    (tmp_path / "uploads").mkdir()
    (tmp_path / "uploads" / "audit").write_text("in the way")
    with Server(tmp_path, **CONTROLLED) as server, client(server) as http:
        job = holding(http)
        go_on(server, job)
        finished(http, job)
        assert http.delete(job["links"]["self"]).status_code == 204
        wait_until(lambda: server.log.count("the audit log cannot be written") >= 2, what="the ordinary log to tell")


@pytest.mark.parametrize("size", ["0"])
def test_there_may_be_none(tmp_path: Path, size: str) -> None:
    with Server(tmp_path, **CONTROLLED, audit_size=size) as server, client(server) as http:
        finished(http, submit(http))
        assert not os.path.exists(server.data_dir / "audit")  # noqa: PTH110
