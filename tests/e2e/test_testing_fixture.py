"""The public fixture for tests against the service: it starts, it restarts, it dies, and it leaves nothing behind."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from service.testing import Server
from tests.waiting import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from service.client import Client


def test_a_job_runs_and_its_record_can_be_read(intake_server: Server, intake_client: Client) -> None:
    job = intake_client.submit(b"one two\n", name="t.txt")
    assert job.wait(timeout=20).status == "succeeded"
    assert intake_server.record(job.id)["file"]["size"] == 8
    assert (intake_server.job_dir(job.id) / "source").read_bytes() == b"one two\n"
    assert job.id in intake_server.log


class TestSettings:
    @pytest.fixture
    def intake_settings(self) -> dict[str, Any]:
        return {"max_upload": "1KiB", "default_pipeline": "identify", "retention": None}

    def test_settings_are_overridden_by_a_fixture_of_the_test(self, intake_client: Client) -> None:
        assert intake_client.limits()["max_upload"] == 1024
        assert intake_client.submit(b"x").pipeline == "identify"


def test_the_callers_own_settings_do_not_reach_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTAKE_MAX_UPLOAD", "7")
    with Server(env={"INTAKE_QUEUE_LIMIT": "9"}) as server, server.client() as client:
        assert client.limits()["max_upload"] > 7
        assert client.limits()["queue_limit"] == 9
    assert not server.folder.exists()


def test_a_server_killed_and_started_again_keeps_its_address_and_its_jobs(tmp_path: Path) -> None:
    with Server(tmp_path) as server, server.client() as client:
        url, job = server.url, client.submit(b"kept")
        server.kill()
        assert server.pids() == []
        with pytest.raises(httpx.ConnectError):
            httpx.get(url)
        server.start()
        assert server.url == url
        assert job.wait(timeout=20).status == "succeeded"
    assert (tmp_path / "uploads").is_dir()


def test_stopping_ends_every_process_of_the_server(intake_server: Server) -> None:
    wait_until(lambda: len(intake_server.pids()) > 1, what="a supervisor beside the API")
    assert intake_server.process is not None
    assert intake_server.pids()[0] == intake_server.process.pid
    intake_server.stop()
    assert intake_server.pids() == []


def test_stopping_gets_rid_of_a_server_that_does_not_listen(intake_server: Server) -> None:
    for pid in intake_server.pids():
        os.kill(pid, signal.SIGSTOP)
    assert intake_server.stop(timeout=0.2) == -signal.SIGKILL
    assert intake_server.pids() == []


def test_a_server_that_cannot_start_says_why() -> None:
    server = Server(max_uplaod="1KiB")
    with pytest.raises(RuntimeError, match="INTAKE_MAX_UPLAOD; did you mean INTAKE_MAX_UPLOAD"), server:
        pass
    assert not server.folder.exists()


def test_a_server_that_is_not_ready_in_time_is_ended() -> None:
    server = Server(timeout=0.01)
    with pytest.raises(RuntimeError, match="not ready within"), server:
        pass
    assert server.pids() == []


def test_importing_it_loads_nothing_of_the_service() -> None:
    code = "import sys, service.testing; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"pytest", "httpx", "pydantic", "fastapi", "service.settings", "service.client"} & set(loaded)
