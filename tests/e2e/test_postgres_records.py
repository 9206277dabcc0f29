"""The whole service with its records in PostgreSQL while that is away; see ``test_deployments`` for the rest."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest

from service.testing import Server
from tests.e2e.deployment import ended
from tests.e2e.rig import get, running, serve, submit
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
