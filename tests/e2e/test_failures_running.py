"""What can go wrong while jobs run: bells are lost, supervisors, zygotes and attempts die, leases are taken over.

The numbers are those of the failure table that the engine was designed by.
"""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.durable import locked
from service.testing import Server
from tests.e2e.rig import (
    ended,
    get,
    gone,
    is_alive,
    kill,
    leftovers,
    processes,
    reasons,
    running,
    serve,
    stopped,
    submit,
    supervisor,
    tidy,
    worker,
)
from tests.waiting import wait_until


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A service for the tests whose failures it survives."""
    with serve(tmp_path_factory.mktemp("running"), max_attempts=1) as server:
        supervisor(server)
        yield server
        tidy(server)


@pytest.fixture
def server(shared: Server) -> Server:
    supervisor(shared)
    return shared


def attempts_on_disk(server: Server, job_id: str) -> list[str]:
    return sorted(folder.name for folder in server.job_dir(job_id).glob("attempt-*"))


def hurry(server: Server) -> None:
    """Have a supervisor started now and not at the next look: by a bell that nobody hears."""
    submit(server, "nothing")


def test_6_a_full_bell_costs_the_upload_nothing(server: Server) -> None:
    with stopped(supervisor(server)):
        fill(server.data_dir / "engine" / "bell")
        job_id = submit(server, "nothing")
        assert server.record(job_id)["status"] == "queued"
    assert ended(server, job_id)["status"] == "succeeded"


def fill(bell: Path) -> None:
    descriptor = os.open(bell, os.O_WRONLY | os.O_NONBLOCK)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(descriptor, b"not an id of any job\n" * 100)
    os.close(descriptor)


def test_6_a_bell_that_is_gone_is_replaced_by_the_poll(server: Server) -> None:
    before = supervisor(server)
    (server.data_dir / "engine" / "bell").unlink()

    assert ended(server, submit(server, "nothing"))["status"] == "succeeded"
    assert supervisor(server) == before
    kill(before)
    supervisor(server, other_than=before)
    wait_until((server.data_dir / "engine" / "bell").is_fifo, what="another bell")


def test_6_without_a_supervisor_files_are_taken_and_health_shows_it(server: Server) -> None:
    with locked(server.data_dir / "engine" / "start.lock"):  # nobody can start one
        kill(before := supervisor(server))
        gone(before)
        job_id = submit(server, "nothing")
        health = get(server, "/readyz?verbose")
        assert health.status_code == 200
        assert health.json()["status"] == "degraded"
        assert "no supervisor" in health.json()["checks"]["engine"]
        assert get(server, f"/v1/jobs/{job_id}").json()["status"] == "queued"

    assert ended(server, job_id)["status"] == "succeeded"
    assert get(server, "/readyz").json()["status"] == "ok"


def test_6_a_new_supervisor_is_there_within_six_seconds(server: Server) -> None:
    kill(before := supervisor(server))

    after = supervisor(server, other_than=before, timeout=6 + 4)  # and four for a busy machine
    assert after != before
    assert len(processes(server).supervisors) == 1


def test_7_the_jobs_of_a_killed_supervisor_are_lost_and_run_again(server: Server, tmp_path: Path) -> None:
    go = tmp_path / "go"
    ids = [submit(server, f"write early.bin; wait {go}", pipeline="checked") for _ in range(2)]
    for job_id in ids:
        running(server, job_id)
    before = processes(server)
    kill(before.supervisor)
    gone(*before.attempts, before.zygote)  # nothing of it goes on by itself
    hurry(server)

    for job_id in ids:
        running(server, job_id, attempt=2)
    go.touch()
    for job_id in ids:
        record = ended(server, job_id)
        assert record["status"] == "succeeded"
        assert reasons(record) == ["lost", "succeeded"]  # and no attempt was charged: there is but one
        assert record["error"] is None
    wait_until(lambda: all(attempts_on_disk(server, job_id) == ["attempt-2"] for job_id in ids))


def test_8_a_killed_zygote_takes_its_attempts_along_and_is_started_again(server: Server, tmp_path: Path) -> None:
    go = tmp_path / "go"
    job_id = submit(server, f"wait {go}")
    running(server, job_id)
    before = processes(server)
    kill(before.zygote)
    gone(before.attempt)

    running(server, job_id, attempt=2)
    go.touch()
    assert reasons(ended(server, job_id)) == ["lost", "succeeded"]
    after = processes(server)
    assert after.supervisor == before.supervisor
    assert after.zygote != before.zygote


def test_8_a_killed_attempt_has_crashed_and_is_tried_once_more(tmp_path: Path) -> None:
    with serve(tmp_path, max_attempts=3) as server:
        go = tmp_path / "go"
        job_id, other = submit(server, f"wait {go}"), submit(server, f"wait {go}")
        running(server, job_id)
        running(server, other)
        victim = processes(server).attempts[0]
        kill(victim)
        gone(victim)
        wait_until(lambda: {server.record(job_id)["attempt"], server.record(other)["attempt"]} == {1, 2})
        go.touch()

        assert sorted([reasons(ended(server, job_id)), reasons(ended(server, other))]) == [
            ["crashed", "succeeded"],
            ["succeeded"],
        ]


def test_10_what_an_orphaned_attempt_left_behind_is_killed_before_the_job_runs_again(tmp_path: Path) -> None:
    with serve(tmp_path, sandbox="off", slots=1) as server:
        go = tmp_path / "go"
        job_id = submit(server, f"daemon lease; wait {go}")
        running(server, job_id)
        here = processes(server)
        assert len(here.survivors) == 1
        kill(here.supervisor)
        gone(*here.attempts)
        assert is_alive(here.survivors[0]), "it holds the lease"
        hurry(server)

        running(server, job_id, attempt=2)
        gone(*here.survivors)
        go.touch()
        assert reasons(ended(server, job_id)) == ["lost", "succeeded"]


@pytest.mark.parametrize(
    ("point", "expected"),
    [
        ("attempt.claimed", ["lost", "succeeded"]),
        ("attempt.ended", ["lost", "succeeded"]),
        ("attempt.recorded", ["succeeded"]),
    ],
)
def test_11_a_supervisor_killed_around_an_attempt_loses_no_job_and_runs_none_in_vain(
    tmp_path: Path, point: str, expected: list[str]
) -> None:
    """The point is armed in the API too, which never comes there."""
    fired = tmp_path / "fired"
    with serve(tmp_path, faults=f"{point}=kill@{fired}", max_attempts=1) as server:
        before = supervisor(server)
        api = processes(server).api
        job_id = submit(server, "write result.bin 5000")
        wait_until(fired.exists, what="the fault")
        gone(before)
        hurry(server)
        record = ended(server, job_id)

        assert record["status"] == "succeeded"
        assert reasons(record) == expected
        tidy(server)  # the marker of a job whose end was recorded is found, too
        wait_until(lambda: attempts_on_disk(server, job_id) == [f"attempt-{len(expected)}"])
        answer = get(server, f"/v1/jobs/{job_id}/artifacts/obey/result.bin")
        assert len(answer.content) == 5000
        assert processes(server).api == api


def test_12_a_zombie_whose_lease_was_taken_over_changes_nothing(tmp_path: Path) -> None:
    """It takes a hand in the data directory to get there: the files of both locks are removed while it is stopped."""
    with serve(tmp_path, slots=1) as server:
        go = tmp_path / "go"
        job_id = submit(server, f"write result.bin 1111; wait {go}")
        running(server, job_id)
        zombie = processes(server)
        (server.data_dir / "engine" / "supervisor.lock").unlink()
        (server.job_dir(job_id) / "lease").unlink()
        with stopped(zombie.supervisor), worker(server):
            running(server, job_id, attempt=2)
            go.touch()
            record = ended(server, job_id)
            assert reasons(record) == ["lost", "succeeded"]
            version = record["version"]
            gone(zombie.attempt)  # it has finished, too, and its supervisor does not know yet
        wait_until(lambda: "overtaken" in server.log, what="the zombie to notice")

        record = server.record(job_id)
        assert reasons(record) == ["lost", "succeeded"]
        assert record["version"] == version
        assert [artifact["attempt"] for artifact in record["steps"][0]["artifacts"]] == [2]
        wait_until(lambda: attempts_on_disk(server, job_id) == ["attempt-2"])
        assert len(get(server, f"/v1/jobs/{job_id}/artifacts/obey/result.bin").content) == 1111


def test_13_a_poison_file_ends_after_two_crashes(tmp_path: Path) -> None:
    with serve(tmp_path, max_attempts=5) as server:
        record = ended(server, submit(server, "kill_itself"))

        assert (record["status"], record["error"]["reason"]) == ("failed", "crashed")
        assert reasons(record) == ["crashed", "crashed"]
        assert record["attempt"] == 2
        tidy(server)


def test_13_a_file_whose_process_ends_itself_by_sigterm_is_poison_too(server: Server) -> None:
    """It looks like a process that an operator has ended, which is nobody's fault: not charged, and not without end."""
    record = ended(server, submit(server, "terminate_itself"))

    assert record["status"] == "failed"
    assert set(reasons(record)) == {"lost"}
    assert "SIGTERM" in record["error"]["detail"]


def test_15_a_job_that_ends_within_the_drain_is_finished(tmp_path: Path) -> None:
    with serve(tmp_path, drain="20s", slots=1) as server:
        go = tmp_path / "go"
        job_id = submit(server, f"wait {go}")
        waiting = submit(server, "nothing")
        running(server, job_id)
        assert server.process is not None
        server.process.terminate()
        wait_until(lambda: "their chance to finish" in server.log, what="the drain")
        go.touch()
        server.process.wait(15)

        assert not server.pids()
        assert reasons(server.record(job_id)) == ["succeeded"]
        assert server.record(waiting)["status"] == "queued", "nothing new was begun"
        assert server.record(waiting)["attempts"] == []
        assert leftovers(server) == [f"pending/{waiting}"]
        server.start()
        assert ended(server, waiting)["status"] == "succeeded"


def test_15_a_job_longer_than_the_drain_goes_back_uncharged(tmp_path: Path) -> None:
    with serve(tmp_path, drain="500ms", max_attempts=1) as server:
        go = tmp_path / "go"
        job_id = submit(server, f"write early.bin; wait {go}", pipeline="checked")
        running(server, job_id)
        assert server.process is not None
        server.process.terminate()
        server.process.wait(15)
        assert not server.pids()

        record = server.record(job_id)
        assert record["status"] == "queued"
        assert reasons(record) == ["interrupted"]
        assert record["error"] is None
        assert [step["status"] for step in record["steps"]] == ["succeeded", "waiting", "waiting"]
        go.touch()
        server.start()
        record = ended(server, job_id)
        assert record["status"] == "succeeded", "its only attempt was still to be had"
        assert reasons(record) == ["interrupted", "succeeded"]


def test_15_a_sigterm_to_all_processes_at_once_charges_nobody(tmp_path: Path) -> None:
    """As init systems send it that stop a whole group."""
    with serve(tmp_path, drain="10s", max_attempts=1) as server:
        go = tmp_path / "go"
        job_id = submit(server, f"wait {go}")
        running(server, job_id)
        kill(*server.pids(), number=signal.SIGTERM)
        assert server.process is not None
        server.process.wait(15)
        gone(*server.pids())

        assert server.record(job_id)["status"] == "queued"
        go.touch()
        server.start()
        record = ended(server, job_id)
        assert record["status"] == "succeeded"
        assert len(record["attempts"]) == 2
