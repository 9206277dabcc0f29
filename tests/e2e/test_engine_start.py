"""The same jobs with both ways to start an attempt's process: forked from a warm one, and spawned as on other systems."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from service.testing import Server
from tests.e2e.rig import (
    at_the_same_time,
    call,
    ended,
    get,
    gone,
    kill,
    leftovers,
    post,
    processes,
    reasons,
    running,
    serve,
    submit,
    supervisor,
    tidy,
)
from tests.waiting import wait_until


@pytest.fixture(scope="module", params=["fork", "spawn"])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    limits = {
        "deadline": "4s",
        "crash_attempts": 1,
        "max_attempts": 2,
        "attempt_memory": "512MiB",
        "max_output": "8MiB",
    }
    with serve(tmp_path_factory.mktemp("start"), attempt_start=request.param, **limits) as server:
        supervisor(server)
        yield server
        tidy(server)
        assert not processes(server).attempts


spawned = pytest.mark.parametrize("server", ["spawn"], indirect=True)  # forked ones do it in other modules


def photo() -> bytes:
    image = Image.linear_gradient("L").resize((900, 600)).convert("RGB")
    buffer = io.BytesIO()
    image.save(buffer, "JPEG")
    return buffer.getvalue()


def test_an_attempt_runs_below_the_priority_of_the_api(server: Server, tmp_path: Path) -> None:
    job = submit(server, f"wait {tmp_path / 'go'}")
    running(server, job)
    found = processes(server)
    assert os.getpriority(os.PRIO_PROCESS, found.attempt) == os.getpriority(os.PRIO_PROCESS, found.api[0]) + 10
    (tmp_path / "go").touch()
    ended(server, job)


def test_a_photo_goes_through_the_default_pipeline(server: Server) -> None:
    job_id = submit(server, photo(), pipeline="default", filename="photo.jpg")
    record = ended(server, job_id)

    assert record["status"] == "succeeded", record["error"]
    facts = {step["name"]: step["facts"] for step in record["steps"] if step["status"] == "succeeded"}
    assert facts["checksum"]["sha256"] == record["file"]["sha256"]
    assert record["file"]["media_type"] == "image/jpeg"
    (previews,) = [step for step in record["steps"] if step["name"] == "image.previews"]
    assert previews["artifacts"]
    for made in previews["artifacts"]:
        content = get(server, f"/v1/jobs/{job_id}/artifacts/image.previews/{made['name']}").content
        assert len(content) == made["size"]
        Image.open(io.BytesIO(content)).load()
    assert record["attempts"][0]["exit_status"] == 0
    assert record["attempts"][0]["max_rss"] > 2**20


def test_progress_is_seen_while_an_attempt_runs(server: Server, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job_id = submit(server, f"wait {go}")
    first = running(server, job_id)
    assert first["progress"] == {"done": 0, "total": 1, "step": "obey"}

    def grown() -> bool:
        now = get(server, f"/v1/jobs/{job_id}").json()
        return bool(
            now["steps"][0]["progress"]["done"] > first["steps"][0]["progress"]["done"]
            and now["version"] > first["version"]
        )

    wait_until(grown, what="progress")
    go.touch()
    record = ended(server, job_id)
    assert record["status"] == "succeeded"
    assert record["steps"][0]["progress"] is None


def test_a_running_job_can_be_canceled(server: Server, tmp_path: Path) -> None:
    job_id = submit(server, f"wait {tmp_path / 'never'}", pipeline="checked")
    running(server, job_id)
    victim = processes(server).attempts
    answer = call(server, "POST", f"/v1/jobs/{job_id}/cancel")
    assert answer.status_code == 202
    assert answer.json()["cancel_requested_at"]
    record = ended(server, job_id)

    assert record["status"] == "canceled"
    assert reasons(record) == ["canceled"]
    assert [step["status"] for step in record["steps"]] == ["succeeded", "skipped", "skipped"]
    assert record["error"] is None
    gone(*victim)
    wait_until(lambda: not (server.job_dir(job_id) / "attempt-1").exists())


def test_a_waiting_job_can_be_canceled_and_retried(server: Server, tmp_path: Path) -> None:
    go = tmp_path / "go"
    blockers = [submit(server, f"wait {go}") for _ in range(2)]
    for blocker in blockers:
        running(server, blocker)
    job_id = submit(server, "nothing")
    assert call(server, "POST", f"/v1/jobs/{job_id}/cancel").json()["status"] == "canceled"
    go.touch()
    for blocker in blockers:
        ended(server, blocker)
    assert server.record(job_id)["attempts"] == []
    assert call(server, "POST", f"/v1/jobs/{job_id}/retry").status_code == 202
    assert ended(server, job_id)["status"] == "succeeded"


@spawned
@pytest.mark.parametrize(
    ("orders", "reason", "exit_status"),
    [
        ("segfault", "crashed", -signal.SIGSEGV),
        ("hang", "timeout", -signal.SIGTERM),
        ("hoard 4096", "memory", 0),
        ("reject", "rejected", 0),
        ("lie noise", "error", -signal.SIGTERM),
    ],
)
def test_a_misbehaving_file_fails_for_the_right_reason(
    server: Server, orders: str, reason: str, exit_status: int
) -> None:
    record = ended(server, submit(server, orders))

    assert record["status"] == "failed"
    assert record["error"]["reason"] == reason
    assert record["attempts"][-1]["exit_status"] == exit_status


def test_a_retried_job_goes_on_at_the_step_that_failed(server: Server, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job_id = submit(server, f"leave_unless {go}; write result.bin", pipeline="checked")
    assert ended(server, job_id)["status"] == "failed"
    go.touch()
    assert call(server, "POST", f"/v1/jobs/{job_id}/retry").status_code == 202
    wait_until(lambda: server.record(job_id)["attempt"] == 2)
    record = ended(server, job_id)

    assert record["status"] == "succeeded"
    assert record["error"] is None
    assert [step["status"] for step in record["steps"]] == ["succeeded"] * 3
    assert [artifact["attempt"] for artifact in record["steps"][1]["artifacts"]] == [2]


@spawned
def test_many_jobs_run_once_each(server: Server) -> None:
    number = 6
    answers = at_the_same_time([lambda: post(server, "nothing; write a.bin 10") for _ in range(number)])
    ids = {answer.json()["id"] for answer in answers}
    assert len(ids) == number
    for job_id in ids:
        assert reasons(ended(server, job_id)) == ["succeeded"]


@spawned
def test_a_killed_supervisor_loses_no_job(server: Server, tmp_path: Path) -> None:
    """A spawned process is told by nobody that its supervisor is gone: it is killed as soon as the next one looks."""
    go = tmp_path / "go"
    job_id = submit(server, f"wait {go}")
    running(server, job_id)
    before = processes(server)
    kill(before.supervisor)
    waiting = submit(server, "nothing")

    running(server, job_id, attempt=2)
    gone(*before.attempts)
    go.touch()
    assert reasons(ended(server, job_id)) == ["lost", "succeeded"]
    assert ended(server, waiting)["status"] == "succeeded"
    wait_until(lambda: not leftovers(server))
