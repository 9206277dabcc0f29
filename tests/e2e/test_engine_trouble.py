"""Trouble that is not a file's fault costs no file an attempt, and one file's trouble costs the others nothing."""

import fcntl
import os
import signal
from pathlib import Path

import psutil
import pytest

from service.testing import Server
from tests.waiting import wait_until

BROKEN = "this is not Python ("
FINE = """
from processors import Facts, StepContext, processor

@processor("test.fine", accepts=("*/*",))
def fine(ctx: StepContext) -> Facts:
    '''Do nothing.'''
    return {}
"""


def process(server: Server, module: str) -> psutil.Process:
    found = [psutil.Process(pid) for pid in server.pids() if module in " ".join(psutil.Process(pid).cmdline())]
    return found[0]


def test_a_zygote_that_cannot_start_costs_no_job_its_attempts(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "fine.py").write_text(FINE)
    with Server(tmp_path / "server", processors_dir=own, poll="200ms") as server, server.client() as client:
        client.submit(b"first", name="a.txt", pipeline="checksum").wait(timeout=20)
        (own / "fine.py").write_text(BROKEN)
        process(server, "service.execution.zygote").send_signal(signal.SIGKILL)
        job = client.submit(b"second", name="b.txt", pipeline="checksum")
        wait_until(lambda: len(server.record(job.id)["attempts"]) >= 3, what="three attempts that could not start")

        (own / "fine.py").write_text(FINE)

        assert job.wait(timeout=20).status == "succeeded"
        reasons = {attempt["reason"] for attempt in server.record(job.id)["attempts"]}
        assert reasons == {"interrupted", "succeeded"}


def test_a_lease_held_by_a_stranger_is_waited_for_without_spinning(tmp_path: Path) -> None:
    with Server(tmp_path, poll="200ms") as server, server.client() as client:
        client.submit(b"first", name="a.txt", pipeline="checksum").wait(timeout=20)
        supervisor = process(server, "service.execution.supervisor")
        supervisor.suspend()
        job = client.submit(b"second", name="b.txt", pipeline="checksum")
        with (server.job_dir(job.id) / "lease").open("w") as lease:
            child = os.fork()
            if child == 0:  # the holder is a process that the supervisor may kill
                fcntl.flock(lease, fcntl.LOCK_EX)
                signal.pause()
                os._exit(0)
        wait_until(lambda: _is_held(server.job_dir(job.id) / "lease"), what="the lease to be held")
        before = supervisor.cpu_times()
        supervisor.resume()

        assert job.wait(timeout=20).status == "succeeded"

        used = supervisor.cpu_times()
        assert used.user + used.system - before.user - before.system < 0.5
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def _is_held(path: Path) -> bool:
    with path.open() as lease:
        try:
            fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        return False


@pytest.mark.parametrize("spoiled", ["job.json", "lock"])
def test_one_unreadable_record_does_not_slow_the_others(tmp_path: Path, spoiled: str) -> None:
    with Server(tmp_path, poll="500ms") as server, server.client() as client:
        client.submit(b"first", name="a.txt", pipeline="checksum").wait(timeout=20)
        supervisor = process(server, "service.execution.supervisor")
        supervisor.suspend()
        victim = client.submit(b"second", name="b.txt", pipeline="checksum")
        (server.job_dir(victim.id) / spoiled).unlink(missing_ok=True)
        (server.job_dir(victim.id) / spoiled).mkdir()
        supervisor.resume()

        others = [client.submit(f"other {number}".encode(), name="c.txt", pipeline="checksum") for number in range(20)]

        wait_until(
            lambda: {server.record(job.id)["status"] for job in others} == {"succeeded"},
            timeout=5,
            what="the others to succeed",
        )
        assert process(server, "service.execution.supervisor").pid == supervisor.pid
