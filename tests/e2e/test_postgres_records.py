"""The whole service on one machine with its records in PostgreSQL: what it does with files, through deaths and restarts."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from service.testing import Server
from tests.e2e.rig import ENDS, call, get, kill, running, serve, submit, supervisor
from tests.http import NO_TLS
from tests.postgres import PASSWORD, PostgresServer
from tests.postgres import running as postgres_server
from tests.waiting import wait_until

pytestmark = pytest.mark.needs("postgres")


@pytest.fixture(scope="module")
def records() -> Iterator[PostgresServer]:
    """Give a server of the module's own: a test stops it."""
    from service.jobs.postgres.schema import migrate

    with postgres_server() as server:
        server.sql("create database records")
        migrate(server.url("records"))
        yield server


@pytest.fixture(scope="module")
def server(records, tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("service")
    secret = folder / "records"
    secret.write_text(records.url("records"))
    with serve(folder, records_file=secret, durability="none", lease="2s") as server:
        yield server


def ended(server: Server, job_id: str, timeout: float = 30) -> dict:
    def look() -> dict | None:
        response = get(server, f"/v1/jobs/{job_id}")
        document = response.json()
        return document if response.status_code == 200 and document["status"] in ENDS else None

    return wait_until(look, timeout, f"the end of {job_id}")


def artifact_of(document: dict) -> str:
    return next(made["href"] for step in document["steps"] for made in step["artifacts"])


def test_a_job_lives_its_whole_life(server, tmp_path):
    job_id = submit(server, "write out.txt 5", **{"labels.case": "life"})
    document = ended(server, job_id)
    assert (document["status"], document["attempt"]) == ("succeeded", 1)
    assert len(get(server, artifact_of(document)).content) == 5
    assert get(server, f"/v1/jobs/{job_id}/source").content == b"write out.txt 5"

    waiting = submit(server, f"wait {tmp_path}/never")
    running(server, waiting)
    assert call(server, "POST", f"/v1/jobs/{waiting}/cancel").status_code in (200, 202)
    assert ended(server, waiting)["status"] == "canceled"

    again = call(server, "POST", f"/v1/jobs/{waiting}/retry")
    assert again.status_code == 202
    running(server, waiting, attempt=2)
    call(server, "POST", f"/v1/jobs/{waiting}/cancel")
    ended(server, waiting)

    listed = get(server, "/v1/jobs?status=succeeded").json()["items"]
    assert job_id in [one["id"] for one in listed]
    assert call(server, "DELETE", f"/v1/jobs/{job_id}").status_code == 204
    assert get(server, f"/v1/jobs/{job_id}").status_code == 404
    metrics = get(server, "/metrics").text
    assert 'intake_jobs_total{status="succeeded"} 1.0' in metrics
    wait_until(lambda: not list((server.data_dir / "incoming").iterdir()))
    assert not list(server.data_dir.glob("jobs/*/*/*/*/job.json"))
    assert PASSWORD not in server.log


def test_an_upload_with_a_key_is_repeated(server):
    headers = {"Idempotency-Key": '"one"'}
    with httpx.Client(trust_env=False, verify=NO_TLS, timeout=30) as http:
        first, second = (
            http.post(f"{server.url}/v1/jobs?filename=o.txt", content=b"write a 1", headers=headers) for _ in range(2)
        )
    assert (first.status_code, second.status_code) == (202, 202)
    assert first.json()["id"] == second.json()["id"]


def test_a_job_whose_supervisor_is_killed_runs_again(server, tmp_path):
    job_id = submit(server, f"wait {tmp_path}/go; write out.txt 5")
    running(server, job_id)
    first = supervisor(server)

    kill(first)
    (tmp_path / "go").touch()

    document = ended(server, job_id)
    assert (document["status"], document["attempt"]) == ("succeeded", 2)
    assert get(server, artifact_of(document)).status_code == 200
    supervisor(server, other_than=first)


def test_a_job_does_not_notice_that_its_records_were_away(server, records, tmp_path):
    """Uploads are refused meanwhile, and say when to come again; the attempt goes on, and its end is written afterwards."""
    job_id = submit(server, f"wait {tmp_path}/go; write out.txt 5")
    running(server, job_id)

    records.stop()
    try:
        assert wait_until(lambda: get(server, "/readyz").status_code == 503)
        refused = httpx.post(
            f"{server.url}/v1/jobs?filename=o.txt", content=b"nothing", trust_env=False, verify=NO_TLS, timeout=30
        )
        looked = get(server, f"/v1/jobs/{job_id}")
        (tmp_path / "go").touch()
        wait_until(lambda: "the end of an attempt cannot be recorded yet" in server.log, 30)
    finally:
        records.start()

    for response in (refused, looked):
        assert (response.status_code, response.json()["code"]) == (503, "records-unavailable")
        assert int(response.headers["Retry-After"]) > 0
    wait_until(lambda: get(server, "/readyz").status_code == 200)
    document = ended(server, job_id)
    assert (document["status"], document["attempt"]) == ("succeeded", 1)
    job_id = submit(server, "write out.txt 5")
    assert ended(server, job_id)["status"] == "succeeded"
    assert PASSWORD not in server.log
