"""Disks that take no more, in every way there is: at every step of size, without inodes, read-only, and without descriptors.

Uploads are refused with 507 or 503, running jobs end, ``/readyz`` turns false and back, and a status can be read all the time.
"""

from __future__ import annotations

import itertools
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import psutil
import pytest

from service.testing import Server
from tests.e2e.rig import ended, get, leftovers, post, processes, running, serve, submit, supervisor, tidy
from tests.faults.power import LoopDisk
from tests.http import NO_TLS
from tests.waiting import wait_until

STEP = 4096
FILE = b"nothing " + b"x" * (24 * 1024)  # of six steps


@contextmanager
def tmpfs(folder: Path, *options: str) -> Iterator[Path]:
    """Mount a file system in memory. Where this user may not, the test is skipped."""
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", ",".join(["mode=0700", *options]), "tmpfs", str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"needs the right to mount a file system: {done.stderr.strip()}")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with tmpfs(tmp_path / "disk", "size=8m") as folder:
        yield folder


def leave(disk: Path, free: int) -> None:
    """Let so many bytes be free on a disk."""
    ballast = disk / "ballast"
    status = os.statvfs(disk)
    there = ballast.stat().st_size if ballast.exists() else 0
    with ballast.open("ab") as file:
        wanted = max(0, there + status.f_bavail * status.f_frsize - free)
        file.truncate(wanted)
        os.posix_fallocate(file.fileno(), 0, max(1, wanted))


def statuses(server: Server) -> tuple[int, int]:
    return get(server, "/readyz").status_code, get(server, "/livez").status_code


def sweep(tmp_path: Path, disk: Path, steps: range) -> Counter[int]:
    """Upload with so many steps of free space, and require the same of each; return the answers."""
    answers: Counter[int] = Counter()
    settings = {
        "data_dir": disk / "uploads",
        "min_free": 0,
        "retry_base": "10ms",
        "max_attempts": 20,
        "retry_cap": "100ms",
    }
    with serve(tmp_path, **settings) as server:
        ended(server, submit(server, "nothing"))
        tidy(server)
        for step in steps:
            go = tmp_path / f"go-{step}"
            job_id = submit(server, f"wait {go}; write result.bin 20000")
            running(server, job_id)
            leave(disk, step * STEP)
            answer = post(server, FILE, key=f"key-{step}")
            answers[answer.status_code] += 1
            assert answer.status_code in (202, 503, 507), answer.text
            go.touch()  # its artifact and its end are to be written now
            wait_until(lambda job_id=job_id: has_ended(server, job_id), 20, "a job that no longer runs")  # type: ignore[misc]
            (disk / "ballast").unlink()
            assert ended(server, job_id)["status"] == "succeeded"
            again = post(server, FILE, key=f"key-{step}")
            assert again.status_code == 202, again.text
            assert ended(server, again.json()["id"])["status"] == "succeeded"
            if answer.status_code == 202:
                assert again.json()["id"] == answer.json()["id"]
        wait_until(lambda: get(server, "/readyz").status_code == 200, 10, "a ready service")
        assert len(list((server.data_dir / "jobs").glob("*/*/*/*/job.json"))) == 1 + 2 * len(steps)
        tidy(server)
        assert "Exception in ASGI" not in server.log
    return answers


def has_ended(server: Server, job_id: str) -> bool:
    answer = get(server, f"/v1/jobs/{job_id}")
    assert answer.status_code == 200, answer.text
    return answer.json()["status"] != "running"


def test_at_any_step_of_free_space_a_file_is_taken_or_refused_and_what_runs_ends(tmp_path: Path, disk: Path) -> None:
    answers = sweep(tmp_path, disk, range(0, 31, 10))
    assert answers[507] >= 1
    assert answers[202] >= 1


@pytest.mark.soak
def test_at_every_step_of_free_space(tmp_path: Path, disk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    answers = sweep(tmp_path, disk, range(48))
    with capsys.disabled():
        print(f"\n48 steps of free space: {dict(answers)}")  # noqa: T201 - for who runs it


def without(server: Server, take: Callable[[], object], give_back: Callable[[], object], go: Path) -> None:
    """Take something from a service at work, and give it back: nothing is lost, and nothing is answered with 500."""
    job_id = submit(server, f"wait {go}")
    running(server, job_id)
    take()
    wait_until(lambda: get(server, "/readyz").status_code == 503, 10, "a service that is not ready")
    for number in range(3):
        answer = post(server, b"nothing", key=f"k{number}")
        assert answer.status_code in (503, 507), answer.text
    assert get(server, f"/v1/jobs/{job_id}").status_code == 200
    assert get(server, "/v1/jobs").status_code == 200
    go.touch()
    give_back()
    wait_until(lambda: get(server, "/readyz").status_code == 200, 10, "a ready service")
    assert ended(server, job_id)["status"] == "succeeded"
    for number in range(3):
        assert ended(server, submit(server, b"nothing", key=f"k{number}"))["status"] == "succeeded"
    tidy(server)
    assert "Exception in ASGI" not in server.log


def test_a_disk_without_inodes(tmp_path: Path) -> None:
    with tmpfs(tmp_path / "disk", "size=8m", "nr_inodes=300") as disk:
        settings = {"data_dir": disk / "uploads", "min_free": 0, "retry_base": "10ms"}
        with serve(tmp_path, **settings) as server:
            ended(server, submit(server, "nothing"))
            many = disk / "many"
            many.mkdir()

            def take() -> None:
                with suppress(OSError):
                    for number in range(400):
                        (many / str(number)).touch()

            def give_back() -> None:
                for path in many.iterdir():
                    path.unlink()

            without(server, take, give_back, tmp_path / "go")


@pytest.mark.needs("mkfs.ext4")
def test_a_disk_that_turns_read_only(tmp_path: Path) -> None:
    disk = LoopDisk(tmp_path, "ext4", size="64M")
    disk.mount()
    try:
        with serve(tmp_path, data_dir=disk.path / "uploads", min_free=0, retry_base="10ms") as server:
            ended(server, submit(server, "nothing"))
            tidy(server)
            # what is open for writing keeps a disk from turning read-only: it is forced, as the kernel does after an error
            subprocess.run(["mount", "-o", "remount,abort", str(disk.path)], check=False, capture_output=True)
            wait_until(lambda: get(server, "/readyz").status_code == 503, 10, "a service that is not ready")
            answer = post(server, b"nothing", key="k")
            assert answer.status_code == 503, answer.text
            assert get(server, "/v1/jobs").status_code == 200
            assert "Exception in ASGI" not in server.log
    finally:
        disk.remove()


def next_descriptor(process: psutil.Process) -> int:
    """Return the number that the next file would have, once the process has closed what it is about to close."""
    folder = Path(f"/proc/{process.pid}/fd")
    seen: list[set[str]] = []

    def is_settled() -> bool:
        seen.append({path.name for path in folder.iterdir()})
        return len(seen) > 20 and all(each == seen[-1] for each in seen[-20:])

    wait_until(is_settled, what="a process at rest")
    return next(number for number in itertools.count() if str(number) not in seen[-1])


def status(http: httpx.Client, path: str) -> int | None:
    """Return the status of an answer; None where there was none, as the event loop resets what it cannot accept."""
    try:
        return http.get(path).status_code
    except httpx.TransportError:
        return None


def test_a_service_without_descriptors(tmp_path: Path) -> None:
    with serve(tmp_path, retry_base="10ms") as server:
        ended(server, submit(server, "nothing"))
        api = psutil.Process(processes(server).api[0])
        limits = api.rlimit(psutil.RLIMIT_NOFILE)
        with httpx.Client(base_url=server.url, trust_env=False, verify=NO_TLS, timeout=20) as http:
            assert http.get("/livez").status_code == 200  # its connection is there, and stays
            api.rlimit(psutil.RLIMIT_NOFILE, (next_descriptor(api), limits[1]))
            answer = http.post("/v1/jobs?filename=a.txt", content=b"nothing")
            assert answer.status_code == 503, answer.text
            wait_until(lambda: status(http, "/readyz") == 503, what="a service that is not ready")
            api.rlimit(psutil.RLIMIT_NOFILE, limits)
            wait_until(lambda: status(http, "/readyz") == 200, what="a service that is ready again")
        assert ended(server, submit(server, "nothing"))["status"] == "succeeded"
        assert not [name for name in leftovers(server) if name.startswith("incoming")]
        assert "Exception in ASGI" not in server.log


def test_a_supervisor_without_descriptors(tmp_path: Path) -> None:
    with serve(tmp_path, retry_base="10ms") as server:
        ended(server, submit(server, "nothing"))
        process = psutil.Process(supervisor(server))
        limits = process.rlimit(psutil.RLIMIT_NOFILE)
        process.rlimit(psutil.RLIMIT_NOFILE, (next_descriptor(process) + 3, limits[1]))
        ids = [submit(server, "nothing") for _ in range(4)]
        wait_until(lambda: "Too many open files" in server.log, what="complaints")
        process.rlimit(psutil.RLIMIT_NOFILE, limits)
        for job_id in ids:
            record = ended(server, job_id)
            assert record["status"] == "succeeded"
        tidy(server)
