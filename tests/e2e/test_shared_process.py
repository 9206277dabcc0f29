"""Small files that are opaque bytes to all of their steps share a process, one after the other, and each has it for itself."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from service.testing import Server
from tests.e2e.rig import call, ended, gone, kill, processes, reasons, running, serve, submit, supervisor
from tests.waiting import wait_until

IDLE = 5.0  # seconds that one waits for more to do


@pytest.fixture
def server() -> Iterator[Server]:
    with serve(slots=1, default_pipeline="shared") as server:
        yield server


def run(server: Server, orders: str, **query: str) -> dict[str, Any]:
    """Have orders obeyed and return the record."""
    return ended(server, submit(server, orders, **query))


def pid_of(record: dict[str, Any]) -> int:
    assert record["status"] == "succeeded", record["error"]
    assert reasons(record) == ["succeeded"]
    return int(record["steps"][0]["facts"]["pid"])


def test_one_process_works_on_many_and_no_longer_than_for_so_many(server: Server):
    ids = [submit(server, "nothing") for _ in range(70)]

    pids = [pid_of(ended(server, job_id)) for job_id in ids]

    assert pids == sorted(pids, key=pids.index), "one after the other"
    assert [pids.count(pid) for pid in dict.fromkeys(pids)] == [64, 6]


def test_what_is_known_of_one_of_its_attempts_is_what_it_can_know(server: Server):
    first, second = run(server, "nothing"), run(server, "nothing")

    for record in (first, second):
        (attempt,) = record["attempts"]
        assert attempt["sandbox"]
        assert (attempt["exit_status"], attempt["max_rss"], attempt["cpu_seconds"]) == (None, None, None)


def test_what_is_not_opaque_or_not_small_has_a_process_of_its_own(server: Server):
    shared = pid_of(run(server, "nothing"))
    others = [pid_of(run(server, "nothing", pipeline="obey")) for _ in range(2)]
    big = pid_of(run(server, "nothing\n" * 131_073))

    assert len({shared, *others, big}) == 4
    assert pid_of(run(server, "nothing")) == shared


def test_slots_do_not_work_in_one_process_at_once():
    with serve(slots=2, default_pipeline="shared") as server:
        ids = [submit(server, "pause 0.2") for _ in range(6)]
        pids = [pid_of(ended(server, job_id)) for job_id in ids]

    assert len(set(pids)) == 2


@pytest.mark.parametrize(
    ("orders", "reason"),
    [("segfault", "crashed"), ("leave 3", "crashed"), ("resign", "crashed"), ("allocate 1000000", "memory")],
)
def test_one_that_ends_the_process_ends_its_own_attempt_alone(orders: str, reason: str):
    with serve(slots=1, default_pipeline="shared", crash_attempts=1, max_attempts=1) as server:
        before = run(server, "nothing")
        ids = [submit(server, line) for line in (orders, "nothing", "nothing")]
        failed, *after = [ended(server, job_id) for job_id in ids]

    assert (failed["status"], reasons(failed)) == ("failed", [reason])
    assert pid_of(after[0]) == pid_of(after[1]) != pid_of(before)


@pytest.mark.parametrize(("orders", "code"), [("reject", "not-wanted"), ("blunder", "processor-failed")])
def test_after_a_failure_there_is_a_new_one(orders: str, code: str):
    with serve(slots=1, default_pipeline="shared", max_attempts=1) as server:
        before, failed, after = (run(server, line) for line in ("nothing", orders, "nothing"))

    assert failed["error"]["code"] == code
    assert pid_of(after) != pid_of(before)


def test_it_makes_no_artifacts(server: Server):
    record = run(server, "write out.bin")

    assert record["status"] == "failed"
    assert record["error"]["code"] == "processor-failed"
    assert "opaque" in (server.folder / "server.log").read_text()


def test_a_cancel_and_a_deadline_end_one_attempt():
    with serve(slots=1, default_pipeline="shared", deadline="1s", max_attempts=1) as server:
        before = run(server, "nothing")
        canceled = submit(server, f"wait {server.folder}/never")
        running(server, canceled)
        call(server, "POST", f"/v1/jobs/{canceled}/cancel")
        late, after = run(server, "pause 30"), run(server, "nothing")

        assert ended(server, canceled)["status"] == "canceled"
    assert reasons(late) == ["timeout"]
    assert pid_of(after) != pid_of(before)


def test_one_that_has_left_is_not_missed_and_costs_no_attempt(server: Server):
    first = pid_of(run(server, "nothing"))
    kill(first)
    gone(first)
    second = pid_of(run(server, "nothing"))
    third = pid_of(run(server, "nothing"))
    gone(third, timeout=IDLE + 10)  # it had nothing to do for a while
    last = pid_of(run(server, "nothing"))

    assert first != second == third != last


def test_it_ends_with_its_supervisor_and_its_job_runs_again(server: Server):
    job_id = submit(server, f"wait {server.folder}/go")
    running(server, job_id)
    attempt, first = processes(server).attempt, supervisor(server)
    kill(first)
    gone(attempt)
    (server.folder / "go").touch()

    record = ended(server, job_id)

    assert record["status"] == "succeeded"
    assert reasons(record) == ["lost", "succeeded"]


def test_none_is_left_when_the_service_has_left(server: Server):
    pid = pid_of(run(server, "nothing"))
    began = time.monotonic()
    server.stop()

    wait_until(lambda: not processes(server).attempts, 10, "the end of all attempts")
    gone(pid)
    assert time.monotonic() - began < 10
