"""What can go wrong with the disk: it is full, a write fails, a record is corrupt.

The numbers are those of the failure table that the engine was designed by.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.testing import Server
from tests.e2e.rig import (
    at_the_same_time,
    call,
    ended,
    get,
    leftovers,
    post,
    reasons,
    running,
    serve,
    submit,
    supervisor,
    tidy,
)
from tests.http import NO_TLS
from tests.waiting import wait_until

MIB = 2**20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """Give a file system of 16 MiB. Where this user may not mount one, the test is skipped."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=16m,mode=0700", "tmpfs", str(folder)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("needs mount")
    if done.returncode:
        pytest.skip(f"needs the right to mount a file system: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> Path:
    """Leave not one free byte on a small disk, and return the file that has them."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    return ballast


def test_23_a_full_disk_refuses_files_and_loses_none(tmp_path: Path, small_disk: Path) -> None:
    with serve(tmp_path, data_dir=small_disk / "uploads", min_free=0, retry_base="400ms") as server:
        go = tmp_path / "go"
        job_id = submit(server, f"wait {go}; write result.bin 100000")
        waiting = [submit(server, f"wait {go}"), *(submit(server, "nothing") for _ in range(5))]
        running(server, job_id)
        running(server, waiting[0])
        before = supervisor(server)
        ballast = fill(small_disk)

        for size in (100, 3 * MIB):
            refused = post(server, b"x" * size)
            assert refused.status_code == 507
            assert refused.json()["code"] == "storage-full"
            assert refused.headers["Retry-After"]
        assert get(server, "/readyz").status_code == 503
        assert get(server, f"/v1/jobs/{job_id}").json()["status"] == "running"
        go.touch()  # the attempts end, one of them for want of space, and their ends are written where room was kept
        assert ended(server, waiting[0])["status"] == "succeeded"
        wait_until(
            lambda: get(server, f"/v1/jobs/{job_id}").json()["status"] == "queued", what="a job to be tried later"
        )
        wait_until(lambda: server.log.count("No space left") >= 3, what="complaints")
        assert server.record(job_id)["error"]["code"] == "disk-full"

        ballast.unlink()
        for name in (job_id, *waiting):
            record = ended(server, name)
            assert record["status"] == "succeeded", record["error"]
            assert record["attempts"][-1]["reason"] == "succeeded"
        assert set(reasons(server.record(job_id))) <= {"error", "interrupted", "succeeded"}
        assert supervisor(server) == before, "it has not died of it"
        assert ended(server, submit(server, "nothing"))["status"] == "succeeded"
        tidy(server)
        assert len(server.log) < 200_000, "the log did not fill what was left"


def test_23_a_job_that_fills_the_disk_fails_and_its_space_comes_back(tmp_path: Path, small_disk: Path) -> None:
    settings = {"data_dir": small_disk / "uploads", "min_free": 0, "max_attempts": 2}
    with serve(tmp_path, **settings) as server:
        hog = submit(server, "fill_with_files 300000")
        others = at_the_same_time([lambda: post(server, "nothing") for _ in range(20)])
        taken = [answer.json()["id"] for answer in others if answer.status_code == 202]
        assert {answer.status_code for answer in others} <= {202, 507}

        record = ended(server, hog)
        assert record["status"] == "failed"
        assert record["error"]["code"] == "disk-full"
        assert record["error"]["retryable"] is True
        for job_id in taken:
            assert ended(server, job_id)["status"] == "succeeded"
        tidy(server)


def test_23_a_file_larger_than_what_is_free_is_refused_by_its_length(tmp_path: Path, small_disk: Path) -> None:
    with serve(tmp_path, data_dir=small_disk / "uploads", min_free="1MiB") as server:
        head = post(server, b"x" * (15 * MIB + 500_000))
        assert (head.status_code, head.json()["code"]) == (507, "storage-full")
        stream = (bytes(MIB) for _ in range(16))  # of no announced length
        import httpx

        with httpx.Client(trust_env=False, verify=NO_TLS, timeout=30) as http:
            late = http.post(f"{server.url}/v1/jobs?filename=a.bin", content=stream)
        assert (late.status_code, late.json()["code"]) == (507, "storage-full")
        wait_until(lambda: not leftovers(server), what="nothing left of it")


@pytest.mark.parametrize(
    ("action", "status", "code"), [("fail", 507, "storage-full"), ("eio", 503, "storage-unavailable")]
)
def test_23_24_a_record_that_cannot_be_written_is_told_and_forgotten(
    tmp_path: Path, action: str, status: int, code: str
) -> None:
    fired = tmp_path / "fired"
    with serve(tmp_path, faults=f"record.sync={action}@{fired}") as server:
        refused = post(server, "nothing", key="the-key")
        assert (refused.status_code, refused.json()["code"]) == (status, code)
        assert fired.exists()
        wait_until(lambda: not leftovers(server), what="nothing left of it")

        answer = post(server, "nothing", key="the-key")
        assert answer.status_code == 202
        assert "Idempotency-Replayed" not in answer.headers
        assert ended(server, answer.json()["id"])["status"] == "succeeded"


def corrupt(server: Server, job_id: str, content: bytes = b'{"schema":1,"id":') -> None:
    (server.job_dir(job_id) / "job.json").write_bytes(content)


def doctor(server: Server) -> tuple[int, str]:
    command = [sys.executable, "-P", "-m", "service.cli", "doctor", "-o", "json"]
    done = subprocess.run(command, env=server.environment(), capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


def test_25_a_corrupt_record_is_told_and_harms_no_other_job(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        good, bad = (submit(server, "nothing") for _ in range(2))
        for job_id in (good, bad):
            ended(server, job_id)
        tidy(server)
        assert doctor(server)[0] == 0
        corrupt(server, bad)

        answer = get(server, f"/v1/jobs/{bad}")
        assert answer.status_code == 500
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert answer.json()["code"] == "record-corrupt"
        assert "intake fsck" in answer.json()["hint"]
        assert call(server, "POST", f"/v1/jobs/{bad}/retry").status_code == 500
        assert [job["id"] for job in get(server, "/v1/jobs").json()["items"]] == [good]
        assert get(server, f"/v1/jobs/{good}").status_code == 200
        code, findings = doctor(server)
        assert code == 1
        assert bad in findings
        assert good not in findings
        assert ended(server, submit(server, "nothing"))["status"] == "succeeded"

        assert call(server, "DELETE", f"/v1/jobs/{bad}").status_code == 204
        assert get(server, f"/v1/jobs/{bad}").status_code == 404
        assert doctor(server)[0] == 0
        tidy(server)


@pytest.mark.parametrize(
    "content",
    [b"", b"\0" * 800, b"[]", b'{"schema":99}', b'{"schema":1,"id":"../../etc"}', b"\xff\xfe\xfd"],
    ids=["empty", "zeros", "list", "newer", "other", "bytes"],
)
def test_25_a_job_whose_record_is_corrupt_when_its_turn_comes_is_set_aside(
    shared_for_corruption: Server, tmp_path: Path, content: bytes
) -> None:
    server = shared_for_corruption
    before = supervisor(server)
    go = tmp_path / "go"
    blockers = [submit(server, f"wait {go}") for _ in range(2)]
    for job_id in blockers:
        running(server, job_id)
    bad, good = submit(server, "nothing"), submit(server, "nothing")
    corrupt(server, bad, content)
    go.touch()

    assert ended(server, good)["status"] == "succeeded"
    wait_until(lambda: not leftovers(server), what="the marker to go")
    assert (server.data_dir / "quarantine" / bad).exists()
    assert get(server, f"/v1/jobs/{bad}").status_code == 500
    assert supervisor(server) == before
    assert call(server, "DELETE", f"/v1/jobs/{bad}").status_code == 204
    assert not (server.data_dir / "quarantine" / bad).exists()


@pytest.fixture(scope="module")
def shared_for_corruption(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with serve(tmp_path_factory.mktemp("corrupt")) as server:
        supervisor(server)
        yield server


def test_25_a_record_that_breaks_while_its_attempt_runs_is_set_aside_too(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        before = supervisor(server)
        go = tmp_path / "go"
        bad, good = submit(server, f"wait {go}"), submit(server, f"wait {go}")
        running(server, bad)
        running(server, good)
        corrupt(server, bad)
        wait_until((server.data_dir / "quarantine" / bad).exists, what="the job to be set aside")
        go.touch()

        assert ended(server, good)["status"] == "succeeded"
        wait_until(lambda: not leftovers(server), what="the marker to go")
        assert supervisor(server) == before


def test_25_a_supervisor_survives_what_it_cannot_set_aside(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        before = supervisor(server)
        go = tmp_path / "go"
        blockers = [submit(server, f"wait {go}") for _ in range(2)]
        for job_id in blockers:
            running(server, job_id)
        bad = submit(server, "nothing")
        corrupt(server, bad)
        (server.data_dir / "quarantine").rmdir()
        go.touch()

        for job_id in (*blockers, submit(server, "nothing")):
            assert ended(server, job_id)["status"] == "succeeded"
        wait_until(lambda: "cannot be read" in server.log or "corrupt" in server.log)
        assert supervisor(server) == before
        (server.data_dir / "quarantine").mkdir()
        tidy(server)
        assert (server.data_dir / "quarantine" / bad).exists()


def test_a_record_can_be_repaired_by_hand(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        job_id = submit(server, "blunder", pipeline="checked")
        record = wait_until(lambda: r if (r := server.record(job_id))["done"] else None)
        corrupt(server, job_id)
        assert get(server, f"/v1/jobs/{job_id}").status_code == 500
        corrupt(server, job_id, json.dumps(record, indent=2).encode())
        assert get(server, f"/v1/jobs/{job_id}").json()["status"] == "failed"
        assert call(server, "POST", f"/v1/jobs/{job_id}/retry").status_code == 202
        wait_until(lambda: server.record(job_id)["attempt"] > record["attempt"])
        assert ended(server, job_id)["status"] == "failed"
