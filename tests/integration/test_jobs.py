"""One job: looking at it while it changes, cancelling, retrying and deleting it."""

from __future__ import annotations

import re
from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest
from jsonschema import Draft202012Validator

from tests.integration.api import accepted, finished, go_on, holding, look, problem, submit, touch
from tests.integration.traces import traces
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

    from service.testing import Server

NOBODY = "01890000-0000-7000-8000-000000000000"
MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


@pytest.fixture
def held(http: httpx.Client, server: Server) -> Iterator[dict[str, Any]]:
    """Give a job that runs until the test lets it go on."""
    job = holding(http)
    yield job
    if http.get(job["links"]["self"]).status_code == 200:
        go_on(server, job)
        wait_until(lambda: look(http, job)["done"], what="the held job to end")


@pytest.fixture
def waiting(http: httpx.Client, held: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Give a job that stays queued, as all slots are taken."""
    second = holding(http)
    yield submit(http)
    http.post(second["links"]["cancel"])
    wait_until(lambda: look(http, second)["done"])


@pytest.fixture(scope="module")
def validator(http: httpx.Client) -> Draft202012Validator:
    """Give a validator of job documents against what /openapi.json says of them."""
    components = http.get("/openapi.json").json()["components"]
    return Draft202012Validator({"$ref": "#/components/schemas/JobView", "components": components})


def check_shape(validator: Draft202012Validator, job: dict[str, Any]) -> None:
    validator.validate(job)
    schemas = validator.schema["components"]["schemas"]
    assert set(job) == set(schemas["JobView"]["properties"])
    for name, value in job.items():
        if name.endswith("_at") and value is not None:
            assert MOMENT.fullmatch(value), (name, value)
    for step in job["steps"]:
        assert set(step) == set(schemas["StepDocument"]["properties"])
        for artifact in step["artifacts"]:
            assert artifact["href"].startswith(job["links"]["self"] + "/artifacts/")


def test_a_job_looks_as_documented_at_each_stage_of_its_life(
    http: httpx.Client, server: Server, validator: Draft202012Validator
):
    job = submit(http, pipeline="hold", colour="red")
    check_shape(validator, job)
    assert job["labels"] == {"colour": "red"}
    assert set(job["links"]) == {"self", "source", "cancel"}
    running = wait_until(lambda: (now := look(http, job))["status"] == "running" and now)
    check_shape(validator, running)
    assert (running["attempt"], running["done"], running["finished_at"]) == (1, False, None)
    wait_until(lambda: look(http, job)["progress"] == {"done": 0, "total": 1, "step": "test.hold"})
    go_on(server, job)
    done = finished(http, job)
    check_shape(validator, done)
    assert done["progress"] == {"done": 1, "total": 1, "step": None}
    assert set(done["links"]) == {"self", "source"}
    times = [datetime.fromisoformat(done[name]) for name in ("created_at", "started_at", "finished_at")]
    assert times == sorted(times)
    assert done["steps"][0]["duration_ms"] >= 0


def test_a_failed_job_is_no_failed_request(http: httpx.Client, validator: Draft202012Validator):
    done = finished(http, submit(http, pipeline="reject"), "failed")
    check_shape(validator, done)
    error = done["error"]
    assert (error["code"], error["reason"], error["status"]) == ("test-refused", "rejected", 422)
    assert (error["detail"], error["hint"]) == ("This file is refused.", "Send another.")
    assert (error["step"], error["attempt"], error["retryable"]) == ("test.reject", 1, False)
    assert error["type"] == "/problems/file-rejected"
    assert http.get(error["type"]).json()["reason"] == "rejected"
    assert set(done["links"]) == {"self", "source", "retry"}


def test_the_same_document_stands_at_the_status_url_and_in_the_list(http: httpx.Client):
    done = finished(http, submit(http, which="same"))
    assert http.get("/v1/jobs?label.which=same").json()["items"] == [done]


def test_a_status_says_when_to_look_again_until_the_job_is_done(
    http: httpx.Client, held: dict[str, Any], server: Server
):
    answer = http.get(held["links"]["self"])
    assert answer.headers["Retry-After"] == "1"
    assert answer.headers["Cache-Control"] == "private, no-cache"
    assert answer.text.endswith("}\n")
    unchanged = http.get(held["links"]["self"], headers={"If-None-Match": answer.headers["ETag"]})
    assert (unchanged.status_code, unchanged.headers["Retry-After"]) == (304, "1")
    go_on(server, held)
    finished(http, held)
    assert "Retry-After" not in http.get(held["links"]["self"]).headers


def test_an_unchanged_job_is_answered_with_304_and_nothing_else(http: httpx.Client):
    job = finished(http, submit(http))
    tag = http.get(job["links"]["self"]).headers["ETag"]
    assert re.fullmatch(r'"[^"]+"', tag)
    for value in (tag, f"W/{tag}", f'"other", {tag}', "*"):
        answer = http.get(job["links"]["self"], headers={"If-None-Match": value})
        assert (answer.status_code, answer.content) == (304, b"")
        assert answer.headers["ETag"] == tag
        assert answer.headers["Cache-Control"] == "private, no-cache"
        assert answer.headers["X-Request-ID"]
    for value in ('"other"', tag.strip('"'), ""):
        assert http.get(job["links"]["self"], headers={"If-None-Match": value}).status_code == 200


def test_the_tag_changes_with_every_progress(http: httpx.Client, held: dict[str, Any], server: Server):
    tag, seen = http.get(held["links"]["self"]).headers["ETag"], []
    for number in (1, 2, 3):
        touch(server, held)
        wait_until(
            lambda number=number: (look(http, held)["steps"][0]["progress"] or {}).get("done") == number,
            what=f"progress {number}",
        )
        answer = http.get(held["links"]["self"], headers={"If-None-Match": tag})
        assert answer.status_code == 200
        assert answer.json()["steps"][0]["progress"] == {"done": number, "total": 10.0, "unit": "touches"}
        tag = answer.headers["ETag"]
        seen.append((tag, answer.json()["version"]))
    assert len(set(seen)) == 3
    assert [version for _, version in seen] == sorted(version for _, version in seen)


def test_head_says_what_get_says_without_a_body(http: httpx.Client):
    job = finished(http, submit(http))
    get, head = http.get(job["links"]["self"]), http.head(job["links"]["self"])
    assert (head.status_code, head.content) == (200, b"")
    for name in ("ETag", "Content-Type", "Content-Length", "Cache-Control"):
        assert head.headers[name] == get.headers[name]


@pytest.mark.parametrize("job_id", [NOBODY, "x", "0199c1f2", NOBODY.upper(), f"{NOBODY}0", "..", "%00", "a%2Fb", "ü"])
def test_a_job_that_is_not_there_is_404_everywhere(http: httpx.Client, job_id: str):
    code = "job-not-found" if job_id not in ("..", "a%2Fb") else "not-found"
    for method, path in [
        ("GET", ""),
        ("GET", "/source"),
        ("GET", "/artifacts/a/b"),
        ("POST", "/cancel"),
        ("POST", "/retry"),
        ("DELETE", ""),
    ]:
        if job_id != "..":  # which clients resolve themselves
            problem(http.request(method, f"/v1/jobs/{job_id}{path}"), 404, code)


def test_a_queued_job_is_canceled_at_once(http: httpx.Client, waiting: dict[str, Any]):
    answer = http.post(waiting["links"]["cancel"])
    assert answer.status_code == 200
    job = answer.json()
    assert (job["status"], job["done"], job["attempt"]) == ("canceled", True, 0)
    assert job["finished_at"] == job["cancel_requested_at"]
    assert [step["status"] for step in job["steps"]] == ["skipped"]
    assert set(job["links"]) == {"self", "source", "retry"}
    assert "Retry-After" not in answer.headers
    again = http.post(waiting["links"]["cancel"])
    assert (again.status_code, again.json()) == (200, job)


def test_a_running_job_is_canceled_as_soon_as_it_has_ended(http: httpx.Client, held: dict[str, Any], server: Server):
    answer = http.post(held["links"]["cancel"])
    assert answer.status_code == 202
    assert answer.headers["Location"] == held["links"]["self"]
    assert answer.headers["Retry-After"] == "1"
    job = answer.json()
    assert (job["status"], job["done"]) == ("running", False)
    assert MOMENT.fullmatch(job["cancel_requested_at"])
    done = finished(http, held, "canceled")
    assert done["error"] is None
    assert done["steps"][0]["status"] == "skipped"
    wait_until(lambda: f"pending/{held['id']}" not in traces(server), what="its marker to be gone")
    assert http.get(done["links"]["source"]).content == b"one\n"


@pytest.mark.parametrize(("pipeline", "status"), [("checksum", "succeeded"), ("reject", "failed")])
def test_a_job_that_is_over_cannot_be_canceled(http: httpx.Client, pipeline: str, status: str):
    job = finished(http, submit(http, pipeline=pipeline), status)
    found = problem(http.post(job["links"]["self"] + "/cancel"), 409, "job-already-done")
    assert found["job_status"] == status


def test_a_retry_goes_on_at_the_step_that_failed(http: httpx.Client, server: Server):
    failed = finished(http, submit(http, pipeline="flaky"), "failed")
    first, second = failed["steps"]
    assert (first["status"], second["status"]) == ("succeeded", "failed")
    assert (failed["error"]["code"], failed["error"]["step"]) == ("processor-failed", "test.flaky")
    go_on(server, failed)
    answer = http.post(failed["links"]["retry"])
    assert answer.status_code == 202
    assert answer.headers["Location"] == failed["links"]["self"]
    queued = answer.json()
    assert (queued["status"], queued["error"], queued["finished_at"]) == ("queued", None, None)
    assert queued["max_attempts"] == 2
    done = finished(http, failed)
    assert (done["id"], done["attempt"]) == (failed["id"], 2)
    assert done["steps"][0] == first  # not run again: it would have another nonce
    assert done["steps"][1]["facts"] == first["facts"]
    kept = http.get(first["artifacts"][0]["href"])
    assert kept.text == first["facts"]["nonce"]


def test_a_retry_that_fails_again_can_be_retried_again(http: httpx.Client):
    failed = finished(http, submit(http, pipeline="flaky"), "failed")
    for attempt in (2, 3):
        assert http.post(failed["links"]["retry"]).json()["attempt"] == attempt - 1
        failed = finished(http, failed, "failed")
        assert failed["attempt"] == attempt


def test_a_canceled_job_can_be_retried(http: httpx.Client, held: dict[str, Any], server: Server):
    http.post(held["links"]["cancel"])
    canceled = finished(http, held, "canceled")
    assert http.post(canceled["links"]["retry"]).status_code == 202
    go_on(server, held)
    assert finished(http, held)["cancel_requested_at"] is None


def test_only_what_has_failed_can_be_retried(http: httpx.Client, held: dict[str, Any]):
    done = finished(http, submit(http))
    found = problem(http.post(done["links"]["self"] + "/retry"), 409, "job-not-failed")
    assert found["job_status"] == "succeeded"
    found = problem(http.post(held["links"]["self"] + "/retry"), 409, "job-not-failed")
    assert found["job_status"] == "running"


@pytest.mark.parametrize(("pipeline", "status"), [("pages", "succeeded"), ("reject", "failed")])
def test_a_job_that_is_over_can_be_deleted(http: httpx.Client, server: Server, pipeline: str, status: str):
    job = finished(http, submit(http, pipeline=pipeline), status)
    answer = http.delete(job["links"]["self"])
    assert (answer.status_code, answer.content) == (204, b"")
    assert not server.job_dir(job["id"]).exists()
    for path in ("", "/source", "/artifacts/test.pages/list.csv"):
        problem(http.get(job["links"]["self"] + path), 404, "job-not-found")
    problem(http.delete(job["links"]["self"]), 404, "job-not-found")
    problem(http.post(job["links"]["self"] + "/retry"), 404, "job-not-found")
    assert job["id"] not in [item["id"] for item in http.get("/v1/jobs?limit=500").json()["items"]]
    assert f"pending/{job['id']}" not in traces(server)


def test_a_job_that_is_not_over_cannot_be_deleted(http: httpx.Client, held: dict[str, Any], waiting: dict[str, Any]):
    assert problem(http.delete(held["links"]["self"]), 409, "job-not-done")["job_status"] == "running"
    assert problem(http.delete(waiting["links"]["self"]), 409, "job-not-done")["job_status"] == "queued"
    assert http.get(held["links"]["source"]).content == b"one\n"


@pytest.mark.parametrize(("method", "path"), [("POST", "/cancel"), ("POST", "/retry"), ("DELETE", "")])
def test_a_change_that_names_another_version_is_refused(http: httpx.Client, method: str, path: str):
    job = finished(http, submit(http, pipeline="reject"), "failed")
    for value in ('"0-0"', '"0-0", "1-1"', "nonsense", ""):
        answer = http.request(method, job["links"]["self"] + path, headers={"If-Match": value})
        assert str(job["version"]) in problem(answer, 412, "precondition-failed")["detail"]
    assert look(http, job) == job


def test_a_change_that_names_the_present_version_is_made(http: httpx.Client):
    job = finished(http, submit(http, pipeline="reject"), "failed")
    tag = http.get(job["links"]["self"]).headers["ETag"]
    assert http.post(job["links"]["retry"], headers={"If-Match": tag}).status_code == 202
    finished(http, job, "failed")
    problem(http.delete(job["links"]["self"], headers={"If-Match": tag}), 412, "precondition-failed")
    tag = http.get(job["links"]["self"]).headers["ETag"]
    assert http.delete(job["links"]["self"], headers={"If-Match": f'"other", {tag}'}).status_code == 204


def test_any_version_will_do_for_a_star(http: httpx.Client):
    job = finished(http, submit(http))
    problem(http.post(job["links"]["self"] + "/cancel", headers={"If-Match": "*"}), 409, "job-already-done")
    assert http.delete(job["links"]["self"], headers={"If-Match": "*"}).status_code == 204


def test_a_job_without_an_artifact_says_so(http: httpx.Client, held: dict[str, Any]):
    problem(http.get(held["links"]["self"] + "/artifacts/test.hold/x.txt"), 404, "artifact-not-found")
    problem(http.get(held["links"]["self"] + "/artifacts/%2E%2E/source"), 404, "artifact-not-found")
    problem(http.get(held["links"]["self"] + "/artifacts/test.hold/..%2F..%2Fjob.json"), 404, "not-found")


def test_a_source_that_is_lost_is_told_as_such(http: httpx.Client, server: Server):
    job = finished(http, submit(http, pipeline="pages"))
    (server.job_dir(job["id"]) / "source").unlink()
    problem(http.get(job["links"]["source"]), 404, "bytes-lost")
    (server.job_dir(job["id"]) / "attempt-1" / "test.pages" / "list.csv").unlink()
    problem(http.get(job["links"]["self"] + "/artifacts/test.pages/list.csv"), 404, "bytes-lost")
    assert look(http, job) == job


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"schema":1}', b'{"schema":99}', b"\xff\x00"])
def test_a_corrupt_record_is_told_as_such_and_can_be_deleted(http: httpx.Client, server: Server, content: bytes):
    job = finished(http, submit(http))
    (server.job_dir(job["id"]) / "job.json").write_bytes(content)
    for method, path in [("GET", ""), ("GET", "/source"), ("POST", "/cancel"), ("POST", "/retry")]:
        found = problem(http.request(method, job["links"]["self"] + path), 500, "record-corrupt")
        assert str(server.data_dir) not in str(found)
    assert job["id"] not in [item["id"] for item in http.get("/v1/jobs").json()["items"]]
    assert http.delete(job["links"]["self"]).status_code == 204
    problem(http.get(job["links"]["self"]), 404, "job-not-found")


def test_an_upload_with_the_key_of_a_corrupt_job_is_told_as_such(http: httpx.Client, server: Server):
    headers = {"Idempotency-Key": "of-a-corrupt-job"}
    job = finished(http, accepted(http.post("/v1/jobs?pipeline=checksum", content=b"1", headers=headers)))
    (server.job_dir(job["id"]) / "job.json").write_bytes(b"{")
    problem(http.post("/v1/jobs?pipeline=checksum", content=b"1", headers=headers), 500, "record-corrupt")
    assert http.delete(job["links"]["self"]).status_code == 204
    accepted(http.post("/v1/jobs?pipeline=checksum", content=b"1", headers=headers))
