"""The system calls of one accepted upload: everything is on disk before the first byte of the 202 leaves."""

from __future__ import annotations

import re
import subprocess
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

import httpx
import pytest

from service.testing import Server
from tests.e2e.rig import processes
from tests.http import NO_TLS
from tests.integration.api import accepted, finished
from tests.needs import need
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.needs("strace")

SYNCS = ("fsync", "fdatasync", "sync_file_range", "msync", "sync", "syncfs")
CALLS = (*SYNCS, "rename", "renameat", "renameat2", "link", "linkat", "openat", "write", "writev", "sendto", "sendmsg")
_CUT = re.compile(r"^(\d+) +(.*) <unfinished \.\.\.>$")
_REST = re.compile(r"^(\d+) +<\.\.\. \w+ resumed>(.*)$")


@contextmanager
def traced(
    server: Server, path: Path, pids: Sequence[int] = (), traced: tuple[str, ...] = CALLS
) -> Iterator[list[str]]:
    """Trace processes of the server, all unless told; on leaving, the list holds their calls in the order they were over."""
    attached = pids or server.pids()
    options = [word for pid in attached for word in ("-p", str(pid))]
    command = [need("strace"), "-f", "-y", "-s", "80", "-o", str(path), "-e", f"trace={','.join(traced)}", *options]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as strace:
        assert strace.stderr is not None
        for _ in attached:
            line = strace.stderr.readline()
            assert "attached" in line, line
        calls: list[str] = []
        try:
            yield calls
        finally:
            strace.terminate()
            strace.communicate(timeout=20)
    calls += _whole(path.read_text(errors="replace").splitlines())


def _whole(lines: list[str]) -> Iterator[str]:
    """Join the two halves of calls that others came between."""
    begun: dict[str, str] = {}
    for line in lines:
        if cut := _CUT.match(line):
            begun[cut[1]] = cut[2]
        elif rest := _REST.match(line):
            yield begun.pop(rest[1], "") + rest[2]
        else:
            yield line.partition(" ")[2].strip()


@pytest.fixture
def server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Server]:
    with (
        Server(tmp_path, durability=request.param) as running,
        httpx.Client(base_url=running.url, trust_env=False, verify=NO_TLS) as http,
    ):
        finished(http, accepted(http.post("/v1/jobs?pipeline=checksum", content=b"the supervisor is there")))
        yield running


def upload(server: Server, pipeline: str = "checksum") -> str:
    with httpx.Client(base_url=server.url, trust_env=False, verify=NO_TLS) as http:
        headers = {"Idempotency-Key": "traced"}
        query = {"filename": "a.txt", "pipeline": pipeline}
        job = accepted(http.post("/v1/jobs", params=query, content=b"one\n", headers=headers))
        finished(http, job)
    wait_until(lambda: not list((server.data_dir / "pending").iterdir()), what="the job to be settled")
    job_id: str = job["id"]
    return job_id


@pytest.mark.parametrize("server", ["sync"], indirect=True)
def test_all_is_synced_in_its_order_before_the_answer_begins(server: Server, tmp_path: Path):
    with traced(server, tmp_path / "trace") as calls:
        job_id = upload(server)
    root = re.escape(str(server.data_dir))
    folder = f"{root}/jobs/[0-9/]+/{job_id}"
    steps = [
        rf"write\(\d+<{root}/incoming/{job_id}>",
        rf"fsync\(\d+<{root}/incoming/{job_id}>\) += 0",
        rf"fsync\(\d+<{root}/jobs/[0-9/]+>\) += 0",  # the day's folder has the job's name
        rf'link(at)?\(.*"{root}/incoming/{job_id}", .*"{folder}/source"(, 0)?\) += 0',
        rf"fsync\(\d+<{folder}>\) += 0",
        rf"fsync\(\d+<{root}/keys/\w\w/\w+>\) += 0",
        rf"fsync\(\d+<{root}/keys/\w\w>\) += 0",
        rf'openat\(.*"{root}/pending/{job_id}", .*O_CREAT.*\) += \d+',
        rf"fsync\(\d+<{root}/pending>\) += 0",
        rf"write\(\d+<{folder}/job\.json\.new>",
        rf"fsync\(\d+<{folder}/job\.json\.new>\) += 0",
        rf'rename(at2?)?\(.*"{folder}/job\.json\.new", .*"{folder}/job\.json".*\) += 0',
        rf"fsync\(\d+<{folder}>\) += 0",
        r'(write|writev|sendto|sendmsg)\(\d+<(socket|TCP).*"HTTP/1\.1 202 ',
    ]
    position = 0
    for step in steps:
        found = next((index for index in range(position, len(calls)) if re.match(step, calls[index])), None)
        assert found is not None, f"{step} does not follow in\n" + "\n".join(calls)
        position = found + 1
    answered = [call for call in calls[: position - 1] if '"HTTP/1.1 202 ' in call]
    assert answered == []


@pytest.mark.parametrize("server", ["sync"], indirect=True)
def test_uploads_that_come_together_share_the_disks_commits_and_the_index_transaction(server: Server, tmp_path: Path):
    """A guard of the rate, in counts: by itself, each upload would sync ``pending/`` once and begin a transaction of its own."""
    number, rounds = 16, 3

    def send() -> None:
        with httpx.Client(base_url=server.url, trust_env=False, verify=NO_TLS, timeout=60) as http:
            for _ in range(rounds):
                accepted(http.post("/v1/jobs?filename=a.txt&pipeline=checksum", content=b"x" * 10_000))

    api = server.pids()[:1]
    with traced(server, tmp_path / "trace", api, (*CALLS, "pwrite64")) as calls, ThreadPoolExecutor(number) as threads:
        for sent in [threads.submit(send) for _ in range(number)]:
            sent.result()
    root = re.escape(str(server.data_dir))
    pending = sum(bool(re.match(rf"fsync\(\d+<{root}/pending>", call)) for call in calls)
    whole = sum(call.startswith("syncfs(") for call in calls)
    batches = pending + whole / 2  # one before the records get their names, one after
    assert 0 < batches <= number * rounds / 2, f"{pending} of pending/, {whole} of all, for {number * rounds} uploads"
    rows = sum(bool(re.match(rf"pwrite64\(\d+<{root}/engine/index.db-wal>", call)) for call in calls)
    assert rows <= 20 * number * rounds / 2, f"{rows} pages of the index, where each upload by itself writes about 20"


@pytest.mark.parametrize("server", ["none"], indirect=True)
def test_without_durability_nothing_is_synced(server: Server, tmp_path: Path):
    with traced(server, tmp_path / "trace") as calls:
        upload(server)
    assert [call for call in calls if call.startswith("rename")]  # the record is still replaced at once
    assert [call for call in calls if call.startswith(tuple(f"{name}(" for name in SYNCS))] == []


@pytest.mark.parametrize("server", ["none"], indirect=True)
def test_the_process_of_a_small_attempt_makes_few_system_calls_for_all_its_limits(server: Server, tmp_path: Path):
    """What every process would find out for itself is found out before the fork: it is most of a small job's cost."""
    zygote = processes(server).zygote
    path = tmp_path / "trace"

    with traced(server, path, [zygote], ("all",)):
        upload(server, "identify")

    children = made_by(path)
    children.pop(zygote)
    assert len(children) == 1, children
    assert max(children.values()) < 160


@pytest.mark.parametrize("server", ["none"], indirect=True)
def test_a_process_that_small_files_share_is_started_once_and_makes_few_calls_for_each(server: Server, tmp_path: Path):
    upload(server)
    found = processes(server)
    path = tmp_path / "trace"

    with traced(server, path, [found.zygote, found.attempt], ("all",)), server.client() as client:
        client.submit(b"two\n", name="b.txt", pipeline="checksum").wait(timeout=20)

    calls = made_by(path)
    assert calls.pop(found.zygote, 0) <= 1, "it waits, and forks nothing"
    assert set(calls) == {found.attempt}
    assert calls[found.attempt] < 40


def made_by(path: Path) -> Counter[int]:
    """Return how many calls each process made while it was traced."""
    lines = path.read_text(errors="replace").splitlines()
    return Counter(int(line.partition(" ")[0]) for line in lines if "resumed>" not in line)
