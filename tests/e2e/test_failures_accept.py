"""What can go wrong while a file is taken: the client leaves, the API dies at each step, all power is lost.

The numbers are those of the failure table that the engine was designed by.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import struct
import threading
from functools import partial
from pathlib import Path

import httpx
import pytest

from service.testing import Server
from tests.e2e.rig import (
    at_the_same_time,
    call,
    ended,
    get,
    gone,
    is_alive,
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
from tests.http import NO_TLS
from tests.waiting import wait_until

BEFORE_THE_COMMIT = ["accept.received", "accept.stored", "accept.marked"]


def jobs_on_disk(server: Server) -> list[str]:
    return [folder.name for folder in (server.data_dir / "jobs").glob("*/*/*/*")]


def connection(server: Server) -> socket.socket:
    return socket.create_connection(("127.0.0.1", server.settings["port"]))


def half_an_upload(server: Server, size: int = 4 * 2**20) -> socket.socket:
    """Send the head and the half of an upload, and return its connection when the service is writing it."""
    before = len(list((server.data_dir / "incoming").iterdir()))
    client = connection(server)
    head = f"POST /v1/jobs?filename=half.bin HTTP/1.1\r\nHost: test\r\nContent-Length: {size}\r\n\r\n"
    client.sendall(head.encode() + bytes(size // 2))
    wait_until(lambda: len(list((server.data_dir / "incoming").iterdir())) > before, what="bytes in incoming/")
    return client


def test_1_nothing_is_left_of_an_upload_whose_client_has_gone(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        polite = half_an_upload(server)
        polite.close()
        wait_until(lambda: not leftovers(server), what="no trace of it")
        abrupt = half_an_upload(server)
        abrupt.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # the close is a reset
        abrupt.close()
        wait_until(lambda: not leftovers(server), what="no trace of it")

        assert jobs_on_disk(server) == []
        assert ended(server, submit(server, "nothing"))["status"] == "succeeded"


def test_2_an_api_killed_before_the_commit_has_promised_nothing_and_leaves_nothing(tmp_path: Path) -> None:
    server = serve(tmp_path, poll="20s")  # it sweeps when it starts, and not while we look
    try:
        for point in BEFORE_THE_COMMIT:
            server.settings["faults"] = f"{point}=kill"
            server.start()
            tidy(server)  # of what the one before has left
            with pytest.raises(httpx.TransportError):
                post(server, "nothing", key="upload-1")
            server.kill()
            assert list((server.data_dir / "incoming").iterdir()), "it has died in the middle"

        server.settings["faults"] = ""
        server.start()
        tidy(server)
        assert jobs_on_disk(server) == []
        answer = post(server, "nothing", key="upload-1")
        assert answer.status_code == 202
        assert "Idempotency-Replayed" not in answer.headers
        assert ended(server, answer.json()["id"])["status"] == "succeeded"
        tidy(server)
        assert jobs_on_disk(server) == [answer.json()["id"]]
    finally:
        server.__exit__()


def test_3_an_api_killed_between_commit_and_answer_has_taken_the_job(tmp_path: Path) -> None:
    """Its supervisor finds the marker and finishes the queue; a retry with the same key is told of the same job."""
    server = serve(tmp_path, faults="accept.committed=kill")
    try:
        server.start()
        first = supervisor(server)
        with pytest.raises(httpx.TransportError):
            post(server, "nothing", key="upload-1")
        (job_id,) = wait_until(lambda: jobs_on_disk(server))
        assert ended(server, job_id)["status"] == "succeeded"
        gone(first)

        server.settings["faults"] = ""
        server.start()
        answer = post(server, "nothing", key="upload-1")
        assert answer.status_code == 202
        assert answer.headers["Idempotency-Replayed"] == "true"
        assert answer.json()["id"] == job_id
        assert jobs_on_disk(server) == [job_id]
        tidy(server)
    finally:
        server.__exit__()


def test_4_every_202_is_kept_when_all_processes_end_at_once(tmp_path: Path) -> None:
    """As by a power cut, but for what the kernel still holds: that the files were synced is tested with strace."""
    with serve(tmp_path) as server:
        ids: list[str] = []

        def upload() -> None:
            with httpx.Client(trust_env=False, verify=NO_TLS) as http:
                while True:
                    try:
                        answer = http.post(
                            f"{server.url}/v1/jobs?filename=a.txt&pipeline=checked", content=b"say hello"
                        )
                        ids.append(answer.json()["id"])
                    except httpx.TransportError:
                        return

        threads = [threading.Thread(target=upload) for _ in range(4)]
        for thread in threads:
            thread.start()
        wait_until(lambda: len(ids) >= 30, what="thirty answers")
        server.kill()
        for thread in threads:
            thread.join()
        assert not server.pids()

        server.start()
        for job_id in ids:
            assert ended(server, job_id)["status"] == "succeeded"
        wait_until(lambda: all(server.record(name)["status"] == "succeeded" for name in jobs_on_disk(server)))
        tidy(server)
        assert set(ids) <= set(jobs_on_disk(server))


@pytest.mark.parametrize("action", ["fail", "kill"])
def test_5_a_job_runs_although_its_background_task_does_not(tmp_path: Path, action: str) -> None:
    with serve(tmp_path, faults=f"bell.ring={action}", poll="1s") as server:
        supervisor(server)
        job_id = submit(server, "nothing")

        assert ended(server, job_id, timeout=10)["status"] == "succeeded"
        if action == "fail":
            assert get(server, f"/v1/jobs/{job_id}").json()["status"] == "succeeded"
            assert "the bell was not rung" in server.log


def test_14_a_worker_of_the_api_can_be_killed(tmp_path: Path) -> None:
    """Its uploads fail, its connections break, and that is all: another worker takes its place."""
    with serve(tmp_path, workers=2) as server:
        here = processes(server)
        parent = here.api[0]
        go = tmp_path / "go"
        job_id = submit(server, f"wait {go}")
        running(server, job_id)
        workers = [pid for pid in here.api if pid != parent and has_socket(pid)]
        assert len(workers) == 2
        uploads = [half_an_upload(server) for _ in range(4)]
        kill(*workers)
        gone(*workers)
        for upload in uploads:
            with upload, contextlib.suppress(ConnectionResetError):
                assert upload.recv(1000) == b""
        go.touch()
        assert ended(server, job_id)["status"] == "succeeded"
        assert reasons(server.record(job_id)) == ["succeeded"]

        wait_until(partial(answers, server), what="new workers")
        assert ended(server, submit(server, "nothing"))["status"] == "succeeded"
        assert call(server, "DELETE", f"/v1/jobs/{job_id}").status_code == 204
        assert is_alive(parent)
        os.kill(parent, signal.SIGTERM)
        server.process.wait(15)  # type: ignore[union-attr]
        assert not leftovers(server), "the uploads were swept"


def answers(server: Server) -> bool:
    try:
        return get(server, "/livez").status_code == 200
    except httpx.TransportError:
        return False


def has_socket(pid: int) -> bool:
    return any("socket:" in str(link.readlink()) for link in Path(f"/proc/{pid}/fd").iterdir())


def test_concurrent_uploads_with_one_key_make_one_job_even_when_the_api_dies(tmp_path: Path) -> None:
    server = serve(tmp_path, faults="accept.committed=kill")

    def attempt() -> str | None:
        try:
            answer = post(server, "nothing", key="the-key")
            return answer.json()["id"] if answer.status_code == 202 else None
        except httpx.TransportError:
            return None

    try:
        server.start()
        assert at_the_same_time([attempt] * 4) == [None] * 4
        server.kill()
        server.settings["faults"] = ""
        server.start()
        ids = set(filter(None, at_the_same_time([attempt] * 6)))
        assert len(ids) == 1
        tidy(server)
        assert set(jobs_on_disk(server)) == ids
    finally:
        server.__exit__()
