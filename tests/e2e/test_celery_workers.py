"""Workers of the engine celery while they wait, drain, take over and differ; see ``test_deployments`` for what all engines do."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.testing import Server
from tests.brokers import PASSWORD, Broker
from tests.e2e.deployment import LONG, api, document, ended, on, state, succeeded
from tests.e2e.rig import gone, reasons, submit, tidy, worker
from tests.e2e.rig import running as at_work
from tests.http import NO_TLS
from tests.waiting import wait_until


@pytest.fixture
def server(broker: Broker, tmp_path: Path) -> Iterator[Server]:
    """Give an API without a worker, on a broker without messages."""
    broker.empty()
    with api(broker, tmp_path) as server:
        yield server
        assert PASSWORD not in server.log


def test_a_queue_that_was_emptied_loses_no_job(broker, server):
    ids = [submit(server, "nothing") for _ in range(3)]
    wait_until(lambda: state(server) == "degraded")  # nobody runs them
    broker.empty()
    with worker(server):
        succeeded(server, *ids)


def test_a_worker_says_over_the_broker_that_it_is_there(broker, server):
    assert (health(server).returncode, health(server).stderr) == (1, "error: no worker answers here\n")
    with worker(server) as process:
        wait_until(lambda: health(server).returncode == 0, LONG, "the worker's answer")
        with broker.away():
            assert "the broker does not answer" in health(server).stderr
            assert process.poll() is None
        wait_until(lambda: health(server).returncode == 0, LONG, "the worker's answer")
    assert health(server).returncode == 1


def health(server: Server) -> subprocess.CompletedProcess[str]:
    """Ask as the health check of a worker's container does."""
    command = [sys.executable, "-P", "-m", "service.cli", "health", "--worker", "--timeout", "2"]
    return subprocess.run(
        command, env=server.environment(), capture_output=True, text=True, timeout=60, check=False, cwd=server.folder
    )


def test_a_worker_drains_and_gives_back_what_does_not_finish(broker, server):
    go = server.folder / "go"
    with worker(server, drain="60s", slots=1) as process:
        job_id = submit(server, f"wait {go}")
        at_work(server, job_id)
        process.terminate()
        wait_until(lambda: "have their chance to finish" in server.log)
        late = submit(server, f"wait {go}")
        go.touch()
        assert process.wait(60) == 0
        succeeded(server, job_id)
        assert document(server, late)["status"] == "queued"

    go.unlink()
    with worker(server, drain="60s") as process:
        at_work(server, late)
        process.terminate()
        wait_until(lambda: server.log.count("have their chance to finish") == 2)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        record = server.record(late)
        assert (record["status"], reasons(record)) == ("queued", ["interrupted"])
    go.touch()
    with worker(server):
        assert ended(server, late)["status"] == "succeeded"
        assert reasons(server.record(late)) == ["interrupted", "succeeded"]


def test_a_worker_waits_for_its_broker_and_leaves_when_it_is_told_to(broker, server):
    with broker.away():
        job_id = submit(server, "nothing")
        with worker(server) as process:
            wait_until(lambda: "Trying again" in server.log, LONG)
        assert process.returncode == 0
        with worker(server):
            wait_until(lambda: server.log.count("worker runs") == 2, LONG)
            broker.start()
            succeeded(server, job_id)


def test_a_worker_leaves_also_while_its_broker_hangs(broker, server):
    go = server.folder / "go"
    with worker(server, drain="100ms") as process:
        job_id = submit(server, f"wait {go}")
        at_work(server, job_id)
        with broker.hung():
            process.terminate()
            process.wait(60)
            assert reasons(server.record(job_id)) == ["interrupted"]
    go.touch()
    with worker(server):
        assert ended(server, job_id)["status"] == "succeeded"


def test_one_of_the_workers_has_the_lead_and_another_takes_over(broker, server):
    leads = lambda: server.log.count("this worker has the lead")  # noqa: E731
    with worker(server) as one:
        wait_until(lambda: leads() == 1, LONG)
        with worker(server):
            wait_until(lambda: server.log.count("worker runs") == 2, LONG)
            succeeded(server, submit(server, "nothing"))
            assert leads() == 1
            one.kill()
            gone(one.pid)
            wait_until(lambda: leads() == 2, LONG)
            succeeded(server, submit(server, "nothing"))


def test_a_worker_takes_jobs_from_its_queues_alone(broker, server):
    with worker(server, queues="image, bulk"):
        text, image = submit(server, "nothing"), post_as(server, "image/png")
        succeeded(server, image)
        assert document(server, text)["status"] == "queued"
        with worker(server):
            succeeded(server, text)


def post_as(server: Server, media_type: str) -> str:
    import httpx

    response = httpx.post(
        f"{server.url}/v1/jobs?filename=a",
        content=b"nothing",
        headers={"Content-Type": media_type},
        trust_env=False,
        verify=NO_TLS,
    )
    assert response.status_code == 202
    return str(response.json()["id"])


@on("redis")
def test_queued_jobs_outlast_a_change_of_the_engine_and_back(broker, tmp_path):
    broker.empty()
    go = tmp_path / "go"
    with api(broker, tmp_path, slots=1) as server:
        celery = dict(server.settings)
        local = {
            name: value for name, value in celery.items() if name not in ("engine", "broker_url_file", "data_shared")
        }
        ids = [submit(server, f"wait {go}"), submit(server, "nothing")]
        server.stop()

        server.settings.clear()
        server.settings.update(local)
        server.start()
        at_work(server, ids[0])
        ids += [submit(server, "nothing")]
        server.stop()
        assert {document_of(server, job_id) for job_id in ids} == {"queued"}

        server.settings.update(celery)
        server.start()
        with worker(server):
            at_work(server, ids[0], attempt=2)
            ids += [submit(server, f"wait {go}"), submit(server, "nothing")]
        server.stop()

        server.settings.clear()
        server.settings.update(local)
        go.touch()
        server.start()
        for job_id in ids:
            assert ended(server, job_id)["status"] == "succeeded"
            assert set(reasons(server.record(job_id))[:-1]) <= {"interrupted", "lost"}
        tidy(server)


def document_of(server: Server, job_id: str) -> str:
    return str(server.record(job_id)["status"])
