"""``intake serve`` and ``intake worker`` beside each other: one supervisor at a time, and none of them ends the other's work."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from service.durable import locked
from service.testing import Server
from tests.e2e.rig import (
    ended,
    get,
    gone,
    is_alive,
    kill,
    processes,
    reasons,
    running,
    serve,
    submit,
    supervisor,
    tidy,
    worker,
)
from tests.waiting import wait_until


def listeners(server: Server) -> list[int]:
    """Return the processes that have opened the bell to listen: who rings it opens it for a moment, to write alone."""
    found = []
    for pid in server.pids():
        with contextlib.suppress(OSError):
            for link in Path(f"/proc/{pid}/fd").iterdir():
                if str(link.readlink()).partition(" ")[0] == str(server.data_dir / "engine" / "bell"):
                    flags = Path(f"/proc/{pid}/fdinfo/{link.name}").read_text().split("flags:")[1].split()[0]
                    found += [pid] if int(flags, 8) & os.O_ACCMODE == os.O_RDWR else []
    return found


def test_a_worker_alone_works_the_queue_and_stays(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        with locked(server.data_dir / "engine" / "start.lock"):
            kill(supervisor(server))
            ids = [submit(server, "nothing") for _ in range(5)]
            server.kill()
        assert all(server.record(job_id)["status"] == "queued" for job_id in ids)

        with worker(server) as process:
            for job_id in ids:
                assert reasons(ended(server, job_id)) == ["succeeded"]
            tidy(server)
            assert process.poll() is None
        assert process.returncode == 0
        assert not server.pids()


def test_an_api_that_finds_a_worker_starts_no_supervisor(tmp_path: Path) -> None:
    server = serve(tmp_path)
    server.data_dir.mkdir()
    try:
        with worker(server) as process:
            supervisor(server)
            server.start()
            job_id = submit(server, "nothing")
            assert reasons(ended(server, job_id)) == ["succeeded"]
            assert processes(server).supervisors == [process.pid]
            assert get(server, "/readyz").json()["status"] == "ok"

            go = tmp_path / "go"
            held = submit(server, f"wait {go}")
            running(server, held)
            assert server.process is not None
            server.process.terminate()
            server.process.wait(15)
            assert is_alive(process.pid), "the worker is not the API's to stop"
            go.touch()
            assert reasons(ended(server, held)) == ["succeeded"]
    finally:
        server.__exit__()


def test_when_the_worker_is_killed_the_api_starts_a_supervisor_of_its_own(tmp_path: Path) -> None:
    server = serve(tmp_path)
    server.data_dir.mkdir()
    try:
        with worker(server) as process:
            supervisor(server)
            server.start()
            go = tmp_path / "go"
            job_id = submit(server, f"wait {go}")
            running(server, job_id)
            process.kill()
            process.wait()
            submit(server, "nothing")
            running(server, job_id, attempt=2)
            go.touch()
            assert reasons(ended(server, job_id)) == ["lost", "succeeded"]
            assert processes(server).supervisor != process.pid
            tidy(server)
    finally:
        server.__exit__()


def test_when_the_api_is_killed_its_supervisor_finishes_the_queue_and_leaves(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        go = tmp_path / "go"
        held = [submit(server, f"wait {go}") for _ in range(2)]
        for job_id in held:
            running(server, job_id)
        more = [submit(server, "later 0.1"), submit(server, "nothing"), submit(server, "nothing")]
        here = processes(server)
        kill(*here.api)
        gone(*here.api)
        wait_until(lambda: "finishing the queue" in server.log)
        go.touch()

        for job_id in held:
            assert reasons(ended(server, job_id)) == ["succeeded"]
        for job_id in more:
            assert ended(server, job_id)["status"] in ("succeeded", "failed")
        gone(here.supervisor, here.zygote)
        assert not server.pids()
        tidy(server)
        server.start()
        assert ended(server, submit(server, "nothing"))["status"] == "succeeded"


def test_two_supervisors_never_run_at_once(tmp_path: Path) -> None:
    with serve(tmp_path) as server, worker(server) as one:
        seen: set[int] = set()
        ids: list[str] = []
        for _ in range(2):
            pid = wait_until(lambda: (listeners(server) or [0])[0], what="a supervisor")
            assert listeners(server) == [pid]
            seen.add(pid)
            ids += [submit(server, "nothing") for _ in range(5)]
            kill(pid)
            gone(pid)
        assert len(seen) == 2
        assert one.pid in seen, "the waiting one has taken over"

        pid = wait_until(lambda: (listeners(server) or [0])[0], what="a supervisor")
        for job_id in ids:
            record = ended(server, job_id)
            assert record["status"] == "succeeded"
            assert reasons(record)[-1] == "succeeded"
            assert set(reasons(record)[:-1]) <= {"lost"}
        assert listeners(server) == [pid]
        tidy(server)


def test_a_second_sigterm_does_not_wait_for_the_drain(tmp_path: Path) -> None:
    with serve(tmp_path, max_attempts=1) as server, locked(server.data_dir / "engine" / "start.lock"):
        kill(before := supervisor(server))
        gone(before)
        with worker(server, drain="60s") as process:
            job_id = submit(server, "hang")
            wait_until(lambda: server.record(job_id)["status"] == "running")
            process.terminate()
            wait_until(lambda: "their chance to finish" in server.log)
            assert process.poll() is None
            process.terminate()
            assert process.wait(10) == 0
        record = server.record(job_id)
        assert record["status"] == "queued"
        assert reasons(record) == ["interrupted"]
        assert record["attempts"][0]["exit_status"] == -signal.SIGTERM, "asked early, it has heard it"
