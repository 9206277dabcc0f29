"""The logs of real processes as JSON: every line is one, with the ids of what it is about."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from service.testing import Server
from tests.integration.api import finished, submit
from tests.integration.conftest import CONTROLLED, client
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

HOSTILE = b'\x1b[2J\r\n{"event":"forged"}\n\x00\x7f\xc2\x9b\xff\xe2\x80\xae'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    settings = CONTROLLED | {"log_format": "json", "log_level": "debug", "max_attempts": 1, "workers": 2}
    with Server(tmp_path_factory.mktemp("logs"), **settings) as running:
        yield running


def lines(text: str) -> list[dict[str, Any]]:
    """Return the lines, each of which is JSON."""
    return [json.loads(line) for line in text.splitlines()]


def test_every_line_is_json_and_carries_its_ids(server):
    with client(server) as http:
        job = submit(http, HOSTILE, pipeline="chatter", headers={"X-Request-ID": "the-request"})
        finished(http, job, "failed")
        http.get("/v1/jobs?token=s3cret&sig=s3cret", headers={"Authorization": "Bearer s3cret"})
    written = wait_until(
        lambda: "s3cret" not in server.log and "[hidden]" in server.log and server.log, what="the lines"
    )
    found = lines(written)

    assert not any(byte in written for byte in "\x00\x1b\x7f\r\x9b\u202e")
    said = [line for line in found if line["event"] == "processor"]
    assert any(line["level"] == "warning" and "forged" in line["line"] for line in said)
    assert all(line["step"] == "test.chatter" for line in said)
    (ended,) = [line for line in found if line["event"] == "attempt ended"]
    for line in (*said, ended):
        assert (line["job_id"], line["attempt"], line["request_id"]) == (job["id"], 1, "the-request")
    accepted = next(line for line in found if line["event"] == "upload accepted")
    assert (accepted["job_id"], accepted["request_id"]) == (job["id"], "the-request")
    assert any(line["logger"] == "uvicorn.access" and line["request_id"] for line in found)
    assert any(line["logger"] == "uvicorn.error" for line in found)
    assert not [line for line in found if line["event"] == "forged"]


def test_a_worker_alone_writes_json_too(tmp_path):
    server = Server(tmp_path, **CONTROLLED, log_format="json")
    command = [sys.executable, "-P", "-m", "service.cli", "worker"]
    with (tmp_path / "worker.log").open("wb") as log:
        process = subprocess.Popen(command, env=server.environment(), stdout=log, stderr=log)
    path = tmp_path / "worker.log"
    wait_until(lambda: "supervisor runs" in path.read_text(), what="the worker to run")
    process.send_signal(signal.SIGTERM)
    process.wait(20)

    assert [line["event"] for line in lines(path.read_text())] == ["supervisor runs", "supervisor has left"]
