"""What the service says of itself: pipelines, processors, limits, problems, probes; and what it answers where nothing is."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from jsonschema import Draft202012Validator

from service.testing import Server
from tests.integration.api import FINER, finished, problem, submit
from tests.integration.conftest import client
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    import httpx

PATHS = {
    "/v1/jobs": {"GET", "HEAD", "POST"},
    "/v1/jobs/{id}": {"GET", "HEAD", "DELETE"},
    "/v1/jobs/{id}/cancel": {"POST"},
    "/v1/jobs/{id}/retry": {"POST"},
    "/v1/jobs/{id}/source": {"GET", "HEAD"},
    "/v1/jobs/{id}/artifacts/a/b": {"GET", "HEAD"},
    "/v1/files/a.txt": {"PUT"},
    "/v1/pipelines": {"GET", "HEAD"},
    "/v1/processors": {"GET", "HEAD"},
    "/v1/limits": {"GET", "HEAD"},
    "/problems/not-found": {"GET", "HEAD"},
    "/livez": {"GET", "HEAD"},
    "/readyz": {"GET", "HEAD"},
    "/openapi.json": {"GET", "HEAD"},
}


@pytest.fixture(scope="module")
def job_id(http: httpx.Client) -> str:
    job_id: str = finished(http, submit(http))["id"]
    return job_id


def test_the_pipelines_are_listed_with_their_steps(http: httpx.Client):
    answer = http.get("/v1/pipelines")
    assert answer.text.endswith("}\n")
    listed = {item["name"]: item for item in answer.json()["items"]}
    assert list(listed) == sorted(listed)
    assert answer.json()["default"] == "default"
    assert {"default", "identify", "checksum", "hold", "flaky"} <= set(listed)
    assert [step["processor"] for step in listed["flaky"]["steps"]] == ["test.nonce", "test.flaky"]
    assert listed["flaky"]["description"] == "Its second step fails until the test lets it succeed."


def test_the_processors_are_listed_with_the_schema_of_their_options(http: httpx.Client):
    listed = {item["name"]: item for item in http.get("/v1/processors").json()["items"]}
    assert list(listed) == sorted(listed)
    assert {"checksum", "media_type", "image.info", "image.previews", "text.info", "test.hold"} <= set(listed)
    assert "text/*" in listed["text.info"]["accepts"]
    for processor in listed.values():
        Draft202012Validator.check_schema(processor["options"])
        assert processor["description"]
    for pipeline in http.get("/v1/pipelines").json()["items"]:
        for step in pipeline["steps"]:
            Draft202012Validator(listed[step["processor"]]["options"]).validate(step["options"])


def test_the_limits_are_those_of_the_settings(http: httpx.Client):
    limits = http.get("/v1/limits").json()
    assert (limits["max_upload"], limits["max_attempts"], limits["queue_limit"]) == (2**20, 1, 10_000)
    assert (limits["upload_idle_seconds"], limits["retention_seconds"]) == (15.0, None)


@pytest.mark.parametrize(
    "path", [path for path in PATHS if "GET" in PATHS[path] and "{id}" not in path and "readyz" not in path]
)
def test_head_is_there_wherever_get_is(http: httpx.Client, path: str):
    get, head = http.get(path), http.head(path)
    assert (get.status_code, head.status_code, head.content) == (200, 200, b"")
    assert head.headers["Content-Type"] == get.headers["Content-Type"]
    assert head.headers["Content-Length"] == get.headers["Content-Length"]


@pytest.mark.parametrize("path", PATHS)
def test_a_method_that_is_not_possible_is_answered_with_those_that_are(http: httpx.Client, job_id: str, path: str):
    for method in {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"} - PATHS[path]:
        answer = http.request(method, path.replace("{id}", job_id))
        assert set(answer.headers["Allow"].split(", ")) == PATHS[path]
        if method == "HEAD":
            assert (answer.status_code, answer.content) == (405, b"")
        else:
            problem(answer, 405, "method-not-allowed")


@pytest.mark.parametrize("path", ["/", "/v1", "/v2/jobs", "/v1/jobs/x/y", "/problems/", "/metrics/x", "/..%2f"])
def test_a_path_where_nothing_is_says_so(http: httpx.Client, path: str):
    problem(http.get(path), 404, "not-found")


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_is_at_such_a_path_for_any_method(http: httpx.Client, method: str):
    problem(http.request(method, "/v1/elsewhere"), 404, "not-found")


@pytest.mark.parametrize(
    "code", ["file-too-large", "queue-full", "method-not-allowed", "processing-timeout", *sorted(set(FINER.values()))]
)
def test_a_problem_type_says_what_it_means(http: httpx.Client, code: str):
    found = http.get(f"/problems/{code}").json()
    assert found["code"] == code
    assert found["title"]
    assert found["meaning"]
    assert 400 <= found["status"] < 600
    assert found["phrase"]


def test_a_problem_type_that_is_none_says_so(http: httpx.Client):
    problem(http.get("/problems/no-such"), 404, "not-found")
    problem(http.get(f"/problems/{'x' * 3000}"), 404, "not-found")


def test_the_title_and_status_of_a_problem_are_those_of_its_type(http: httpx.Client):
    for answer in (
        http.get("/v1/jobs/x"),
        http.get("/nowhere"),
        http.get("/v1/jobs?limit=x"),
        http.put("/v1/jobs"),
        http.post("/v1/jobs"),
    ):
        found = answer.json()
        meant = http.get(found["type"]).json()
        assert (found["title"], found["status"]) == (meant["title"], meant["status"])


def test_the_service_is_alive_and_ready(http: httpx.Client):
    alive = http.get("/livez")
    assert (alive.status_code, alive.json()) == (200, {"status": "ok"})
    wait_until(lambda: http.get("/readyz").json() == {"status": "ok"}, what="the supervisor")
    ready = http.get("/readyz?verbose")
    assert ready.status_code == 200
    assert {"disk": "ok", "queue": "ok", "engine": "supervisor runs"}.items() <= ready.json()["checks"].items()
    for answer in (alive, ready):
        assert answer.headers["Cache-Control"] == "no-store"


def test_a_request_with_a_body_that_nobody_wants_is_answered(http: httpx.Client):
    assert http.request("GET", "/livez", content=b"x" * 100_000).status_code == 200
    assert http.request("GET", "/livez").status_code == 200


def test_a_service_below_a_path_writes_its_links_with_it(tmp_path: Path):
    with Server(tmp_path, root_path="/intake") as server, client(server) as http:
        assert server.url.endswith("/intake")
        job = submit(http, pipeline="default")
        assert job["links"]["self"] == f"/intake/v1/jobs/{job['id']}"
        here = str(http.base_url.join("/"))
        done = wait_until(lambda: (now := http.get(here + job["links"]["self"][1:]).json())["done"] and now)
        assert all(link.startswith("/intake/v1/jobs/") for link in done["links"].values())
        submit(http, pipeline="checksum")
        listed = http.get("/v1/jobs?limit=1")
        assert listed.headers["Link"].startswith("</intake/v1/jobs?limit=1&cursor=")
        refused = http.get("/v1/jobs/x").json()
        assert refused["type"] == "/intake/problems/not-found"
        assert http.get(here + refused["type"][1:]).status_code == 200
        assert http.get("/openapi.json").json()["servers"] == [{"url": "/intake"}]
        assert set(http.patch("/v1/jobs").headers["Allow"].split(", ")) == PATHS["/v1/jobs"]
