"""Stored bytes that change between upload and processing: no step ever reads them."""

from __future__ import annotations

import contextlib
import os
import random
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from service.jobs.file_store import FileJobStore
from service.jobs.model import Step
from service.testing import Server
from tests.e2e.rig import call, ended, running, serve, submit
from tests.jobs import make_job
from tests.waiting import wait_until


def _write(path: Path, data: bytes) -> None:
    path.chmod(0o640)
    path.write_bytes(data)


def flip(path: Path, other: Path, chance: random.Random) -> None:
    data = bytearray(path.read_bytes())
    data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
    _write(path, bytes(data))


def cut(path: Path, other: Path, chance: random.Random) -> None:
    _write(path, path.read_bytes()[: chance.randrange(path.stat().st_size)])


def lengthen(path: Path, other: Path, chance: random.Random) -> None:
    _write(path, path.read_bytes() + b"\n")


def swap(path: Path, other: Path, chance: random.Random) -> None:
    """Put another job's bytes, of the same length, in its place."""
    path.unlink()
    path.hardlink_to(other)


def link(path: Path, other: Path, chance: random.Random) -> None:
    """Leave the same bytes, by way of a link to elsewhere."""
    elsewhere = path.with_name("elsewhere")
    path.rename(elsewhere)
    path.symlink_to(elsewhere)


def delete(path: Path, other: Path, chance: random.Random) -> None:
    path.unlink()


CHANGES: list[Callable[[Path, Path, random.Random], None]] = [flip, flip, flip, cut, lengthen, swap, link, delete]


def test_other_bytes_than_were_taken_are_never_processed(tmp_path: Path) -> None:
    chance = random.Random(20)
    rounds = int(os.environ.get("ROUNDS", "2"))
    with serve(tmp_path, slots=1, queue_limit=100_000) as server:
        go = tmp_path / "go"
        first = submit(server, f"wait {go}")
        running(server, first)
        jobs: list[tuple[str, str]] = []
        for number in range(rounds * len(CHANGES)):
            ids = [submit(server, f"nothing {number:06} {which}") for which in range(3)]
            paths = [server.job_dir(job_id) / "source" for job_id in ids]
            change = CHANGES[number % len(CHANGES)]
            change(paths[0], paths[1], chance)
            jobs += [(ids[0], change.__name__), (ids[1], "none")]
        go.touch()

        for job_id, change_made in jobs:
            record = ended(server, job_id, timeout=120)
            if change_made == "none":
                assert record["status"] == "succeeded"
                continue
            expected = "lost-input" if change_made == "delete" else "source-damaged"
            assert (record["status"], record["error"]["code"]) == ("failed", expected), change_made
            assert record["error"]["reason"] == "lost_input"
            assert record["error"]["retryable"] is False
            assert len(record["attempts"]) == 1
            assert {step["status"] for step in record["steps"]} <= {"skipped", "waiting"}


def test_a_source_is_read_only_from_the_start(tmp_path: Path) -> None:
    with serve(tmp_path) as server:
        job_id = submit(server, "nothing")

        assert stat.S_IMODE((server.job_dir(job_id) / "source").stat().st_mode) & 0o337 == 0


def _huge(folder: Path) -> str:
    """Leave a job whose source takes minutes to read and none of the disk, and return its id."""
    with contextlib.closing(FileJobStore(folder)) as store:
        job = make_job(size=2**38, pipeline="obey", steps=(Step(name="obey", processor="test.obey"),))
        source = store.folder(job.id) / "source"
        source.parent.mkdir(parents=True)
        source.touch()
        os.truncate(source, 2**38)
        store.create(job)
    return job.id


def test_comparing_what_is_stored_ends_at_the_deadline_and_delays_nobody(tmp_path: Path) -> None:
    huge = _huge(tmp_path / "uploads")
    with serve(tmp_path, slots=2, deadline="2s", max_attempts=1, crash_attempts=1) as server:
        wait_until(lambda: server.record(huge)["status"] == "running", what="the huge job to run")
        beside = submit(server, "nothing")
        assert ended(server, beside)["status"] == "succeeded"
        assert ended(server, huge)["error"]["code"] == "processing-timeout"


def test_comparing_what_is_stored_ends_with_a_cancel_or_a_drain(tmp_path: Path) -> None:
    huge = _huge(tmp_path / "uploads")
    with serve(tmp_path, deadline="1h", drain="1s") as server:
        wait_until(lambda: server.record(huge)["status"] == "running", what="the huge job to run")
        server.stop()
        assert server.record(huge)["status"] == "queued"
        server.start()
        wait_until(lambda: server.record(huge)["status"] == "running", what="the huge job to run again")
        assert call(server, "POST", f"/v1/jobs/{huge}/cancel").status_code in (200, 202)
        assert ended(server, huge)["status"] == "canceled"


@pytest.mark.parametrize("change", [flip, delete])
def test_a_step_whose_artifact_has_changed_runs_again(
    tmp_path: Path, change: Callable[[Path, Path, random.Random], None]
) -> None:
    with serve(tmp_path, max_attempts=1) as server:
        job_id = submit(server, f"write a.bin 1000; gate {tmp_path / 'go'}", pipeline="gated")
        assert ended(server, job_id)["status"] == "failed"
        made = server.job_dir(job_id) / "attempt-1" / "obey" / "a.bin"
        change(made, made, random.Random(1))
        (tmp_path / "go").touch()
        assert call(server, "POST", f"/v1/jobs/{job_id}/retry").status_code == 202

        record = wait_until(lambda: _succeeded(server, job_id), 30)
        assert [artifact["attempt"] for artifact in record["steps"][0]["artifacts"]] == [2]


def _succeeded(server: Server, job_id: str) -> dict[str, list[dict[str, list[dict[str, int]]]]] | None:
    record = server.record(job_id)
    return record if record["status"] == "succeeded" else None
