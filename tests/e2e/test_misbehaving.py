"""Files that make their processor misbehave: each ends its own job for the right reason, and nothing else is disturbed.

Numbers are those of the failure table that the engine was designed by.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import pytest

from service.testing import Server
from tests.e2e.rig import (
    at_the_same_time,
    call,
    ended,
    gone,
    processes,
    reasons,
    running,
    serve,
    submit,
    supervisor,
    tidy,
)
from tests.waiting import wait_until

MIB = 2**20
#: What the hint of a limit that was hit names.
SETTINGS_BY_CODE = {
    "out-of-memory": "INTAKE_ATTEMPT_MEMORY",
    "output-too-large": "INTAKE_MAX_OUTPUT",
    "processing-timeout": "INTAKE_DEADLINE",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One service for all misbehaving files: it is part of the test that none of them harms the next one."""
    folder = tmp_path_factory.mktemp("misbehaving")
    limits = {"deadline": "3s", "attempt_memory": "512MiB", "max_output": "2MiB"}
    with serve(folder, **limits, crash_attempts=1, max_attempts=2, drain="5s") as server:
        first = supervisor(server)
        yield server
        assert supervisor(server) == first, "the supervisor has survived all of it"
        tidy(server)
        assert not processes(server).attempts


def fate(record: dict[str, Any]) -> tuple[str, str, str]:
    """Return status, reason and code of a failed job, checking that the step has the same error as the job."""
    error = record["error"]
    failed = [step for step in record["steps"] if step["status"] == "failed"]
    assert [step["error"] for step in failed] == [error]
    assert error["step"] == "obey"
    assert all(step["progress"] is None for step in record["steps"])
    return record["status"], error["reason"], error["code"]


def test_8_9_a_hundred_ordinary_jobs_succeed_beside_seven_that_misbehave(server: Server) -> None:
    bad = {
        "stubborn; hang": ("timeout", "processing-timeout", -signal.SIGKILL),  # ignores SIGTERM: killed after the grace
        "segfault": ("crashed", "processor-crashed", -signal.SIGSEGV),
        "hang": ("timeout", "processing-timeout", -signal.SIGTERM),
        "hoard 4096": ("memory", "out-of-memory", 0),
        "fill_with_one_file": ("error", "output-too-large", 0),
        "fill_with_files 500000": ("error", "output-too-large", -signal.SIGTERM),
        "fork": ("error", "processor-failed", 0),
    }
    tasks = [partial(submit, server, f"nothing {n}", pipeline="checked") for n in range(100)]
    for number, orders in enumerate(bad):
        tasks.insert(10 * number, partial(submit, server, orders, pipeline="checked"))
    ids = at_the_same_time(tasks)
    misbehaving = dict(zip(bad, ids[0 : 10 * len(bad) : 10], strict=True))
    ordinary = [job_id for job_id in ids if job_id not in misbehaving.values()]
    assert len(ordinary) == 100

    for orders, job_id in misbehaving.items():
        record = ended(server, job_id, timeout=90)
        *expected, exit_status = bad[orders]
        assert fate(record) == ("failed", *expected), orders
        assert record["attempts"][-1]["exit_status"] == exit_status, orders
        assert [step["status"] for step in record["steps"]] == ["succeeded", "failed", "skipped"]
        assert record["error"]["detail"]
        assert SETTINGS_BY_CODE.get(record["error"]["code"], "") in record["error"]["hint"]
    for job_id in ordinary:
        record = ended(server, job_id, timeout=60)
        assert record["status"] == "succeeded", record["error"]
        assert reasons(record) == ["succeeded"]
    assert not processes(server).attempts


def test_a_segfault_is_told_with_its_signal_and_memory(server: Server) -> None:
    record = ended(server, submit(server, "segfault"))

    assert fate(record) == ("failed", "crashed", "processor-crashed")
    assert "SIGSEGV" in record["error"]["detail"]
    (attempt,) = record["attempts"]
    assert attempt["exit_status"] == -signal.SIGSEGV
    assert 5 * MIB < attempt["max_rss"] < 512 * MIB
    assert attempt["cpu_seconds"] >= 0


@pytest.mark.parametrize("orders", ["leave 0", "leave 3", "resign"])
def test_a_process_that_ends_without_a_result_has_crashed(server: Server, orders: str) -> None:
    record = ended(server, submit(server, orders))

    assert fate(record) == ("failed", "crashed", "processor-crashed")
    assert "no result" in record["error"]["detail"]


def test_cpu_time_is_bounded_apart_from_wall_time(server: Server) -> None:
    """Three threads use up the CPU time of a deadline before the deadline itself, where there are cores for them."""
    record = ended(server, submit(server, "spin_everywhere"))

    assert fate(record) == ("failed", "timeout", "processing-timeout")
    assert record["attempts"][0]["exit_status"] in (-signal.SIGXCPU, -signal.SIGTERM)
    assert record["attempts"][0]["cpu_seconds"] < 5


@pytest.mark.parametrize("orders", ["allocate 4096", "hoard 4096"])
def test_four_gigabytes_are_not_to_be_had(server: Server, orders: str) -> None:
    record = ended(server, submit(server, orders))

    assert fate(record) == ("failed", "memory", "out-of-memory")
    assert record["attempts"][-1]["max_rss"] < 600 * MIB


def test_an_attempt_killed_while_it_uses_all_its_memory_has_run_out_of_memory(server: Server) -> None:
    """The kernel's out-of-memory killer leaves nothing but a SIGKILL."""
    record = ended(server, submit(server, "hoard_and_die 440"))

    assert fate(record) == ("failed", "memory", "out-of-memory")


def test_a_file_larger_than_the_allowance_is_not_written(server: Server) -> None:
    record = ended(server, submit(server, "fill_with_one_file"))

    assert fate(record) == ("failed", "error", "output-too-large")
    assert "INTAKE_MAX_OUTPUT" in record["error"]["hint"]
    wait_until(lambda: not list(server.job_dir(record["id"]).glob("attempt-*")))


@pytest.mark.parametrize("size", ["500000", "0"])
def test_many_files_count_against_the_same_allowance(server: Server, size: str) -> None:
    """Empty files too: each takes an inode, and a disk has only so many."""
    record = ended(server, submit(server, f"fill_with_files {size}"))

    assert fate(record) == ("failed", "error", "output-too-large")
    wait_until(lambda: not list(server.job_dir(record["id"]).glob("attempt-*")))


@pytest.mark.parametrize("orders", ["fork", "execute /bin/true"])
def test_an_attempt_cannot_start_processes(server: Server, orders: str) -> None:
    record = ended(server, submit(server, orders))

    assert fate(record) == ("failed", "error", "processor-failed")
    assert "not permitted" in record["error"]["detail"]


def test_a_fork_bomb_times_out_and_has_never_had_a_child(server: Server) -> None:
    job_id = submit(server, "fork_bomb")
    pid = running_since(server)
    assert not psutil.Process(pid).children()

    assert fate(ended(server, job_id)) == ("failed", "timeout", "processing-timeout")


def test_an_exception_is_an_error_that_is_tried_again(server: Server) -> None:
    record = ended(server, submit(server, "blunder"))

    assert fate(record) == ("failed", "error", "processor-failed")
    assert reasons(record) == ["error", "error"]
    assert "ZeroDivisionError" in record["error"]["detail"]
    assert "Traceback" not in record["error"]["detail"]


def test_a_rejected_file_is_never_tried_again(server: Server) -> None:
    record = ended(server, submit(server, "reject"))

    assert fate(record) == ("failed", "rejected", "not-wanted")
    assert record["error"]["hint"] == "Send another one."
    assert record["error"]["retryable"] is False
    assert reasons(record) == ["rejected"]


def test_a_processor_may_ask_to_be_run_again_later(server: Server) -> None:
    record = ended(server, submit(server, "later 0.3"))

    assert fate(record) == ("failed", "retry", "retry-later")
    assert reasons(record) == ["retry", "retry"]


@pytest.mark.parametrize(
    "kind",
    [
        "noise", "length", "text", "list", "event", "step", "status", "surrogate", "digits", "nested", "abyss", "path", "facts",
        "steps", "empty",
    ],
)  # fmt: skip
def test_garbage_on_the_channel_ends_the_attempt(server: Server, kind: str) -> None:
    record = ended(server, submit(server, f"lie {kind}"))

    assert fate(record) == ("failed", "error", "bad-report")
    assert "contract" in record["error"]["detail"]


def test_half_a_report_at_the_end_is_none(server: Server) -> None:
    record = ended(server, submit(server, "lie half; leave 0"))

    assert fate(record) == ("failed", "crashed", "processor-crashed")


def test_a_stopped_process_is_killed_at_its_deadline(server: Server) -> None:
    record = ended(server, submit(server, "freeze"))

    assert fate(record) == ("failed", "timeout", "processing-timeout")
    assert record["attempts"][0]["exit_status"] == -signal.SIGKILL


def test_a_success_claimed_before_the_steps_are_done_is_none(server: Server) -> None:
    record = ended(server, submit(server, "claim_success", pipeline="checked"))

    assert record["status"] == "failed"
    assert fate(record) == ("failed", "crashed", "processor-crashed")


@pytest.mark.parametrize(
    "orders",
    [
        "claim_artifact missing.txt 4",
        "make_fifo fifo.txt; claim_artifact fifo.txt 0",
        "make_link link.txt /etc/hostname; claim_artifact link.txt {hostname}",
        "make_folder_link /etc; claim_artifact hostname {hostname}",
    ],
)
def test_an_artifact_that_is_no_file_of_the_attempt_is_not_published(server: Server, orders: str) -> None:
    record = ended(server, submit(server, orders.format(hostname=Path("/etc/hostname").stat().st_size)))

    assert record["status"] == "failed"
    assert record["error"]["code"] == "artifacts-not-stored"
    assert record["steps"][0]["artifacts"] == []


@pytest.mark.parametrize("orders", ["flood progress 10000", "flood log 10000", "flood nan 1000", "chatter 10000"])
def test_a_flood_of_reports_is_harmless(server: Server, orders: str) -> None:
    before = len(server.log)
    record = ended(server, submit(server, orders))

    assert record["status"] == "succeeded"
    assert record["steps"][0]["facts"]["obeyed"] == 1
    assert len(server.log) - before < 200_000, "the log is not flooded"


def running_since(server: Server) -> int:
    """Wait until exactly one attempt runs, and return its pid."""
    return wait_until(lambda: (processes(server).attempts or [0])[0], what="an attempt")


@pytest.mark.parametrize(("start", "keeping"), [("fork", "nothing"), ("fork", "all"), ("spawn", "all")])
def test_10_a_process_that_leaves_its_attempts_group_is_killed_with_the_attempt(
    tmp_path: Path, start: str, keeping: str
) -> None:
    with serve(tmp_path, sandbox="off", attempt_start=start, slots=1) as server:
        go = tmp_path / "go"
        job_id = submit(server, f"daemon {keeping}; wait {go}; write result.bin")
        running(server, job_id)
        survivors = processes(server).survivors
        assert len(survivors) == 1
        go.touch()
        record = ended(server, job_id)

        assert record["status"] == "succeeded"
        gone(*survivors)
        assert ended(server, submit(server, "nothing"))["status"] == "succeeded"
        tidy(server)


FREEZER = Path("/sys/fs/cgroup/freezer")


@pytest.mark.soak
@pytest.mark.skipif(not os.access(FREEZER / "cgroup.procs", os.W_OK), reason="this system has no freezer for us")
def test_a_process_that_the_kernel_holds_costs_its_slot_for_a_while_only(tmp_path: Path) -> None:
    """A frozen process takes no SIGKILL, like one that waits for a broken disk: the one slot goes on without it."""
    group = FREEZER / f"intake-{os.getpid()}"
    with serve(tmp_path, slots=1, deadline="6s", crash_attempts=1) as server:
        job_id = submit(server, f"stubborn; wait {tmp_path / 'never'}")
        running(server, job_id)
        pid = processes(server).attempt
        group.mkdir()
        try:
            (group / "cgroup.procs").write_text(str(pid))
            (group / "freezer.state").write_text("FROZEN")

            assert fate(ended(server, job_id, timeout=40)) == ("failed", "timeout", "processing-timeout")
            assert processes(server).attempts == [pid], "it is still there"
            after = [submit(server, f"nothing {n}") for n in range(5)]
            assert {ended(server, one)["status"] for one in after} == {"succeeded"}
            assert "cannot be killed" in server.log
        finally:
            (group / "freezer.state").write_text("THAWED")
            gone(pid)
            wait_until(lambda: not (group / "cgroup.procs").read_text())
            group.rmdir()
        tidy(server)


def test_folders_nested_without_end_are_in_nobodys_way(tmp_path: Path) -> None:
    """Deeper than Python's stack goes, and deeper than a path can say."""
    with serve(tmp_path, slots=1, max_attempts=2) as server:
        deep = ended(server, submit(server, "nest 1500"))
        failed = ended(server, submit(server, "nest 1500; blunder"))
        deeper = ended(server, submit(server, "nest 4500; pause 20"))
        assert (deep["status"], reasons(failed), reasons(deeper)) == ("succeeded", ["error"] * 2, ["error"] * 2)
        assert deeper["error"]["code"] == "output-too-large"
        assert sorted(path.name for path in server.job_dir(failed["id"]).glob("attempt-*")) == []

        looked = run_cli(server, "fsck")
        assert "attempt-1/d" in looked.stdout, looked.stderr

        for job in (deep, failed, deeper):
            assert call(server, "DELETE", f"/v1/jobs/{job['id']}").status_code == 204
        collected = run_cli(server, "gc")
        assert collected.returncode == 0, collected.stderr
        assert list((server.data_dir / "trash").iterdir()) == []
        tidy(server)


def run_cli(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-m", "service.cli", *arguments]
    return subprocess.run(command, env=server.environment(), capture_output=True, text=True, check=False, timeout=60)
