"""The audit log: lines that stay whole, files that are put aside, secrets that are never written, and trouble that stops nobody."""

from __future__ import annotations

import json
import os
import threading
from typing import TYPE_CHECKING, Any

import pytest
from starlette.requests import Request

from service.api.audited import Refusals
from service.audit import Audit, without_secrets
from service.clock import HeldClock
from tests.jobs import NOON

if TYPE_CHECKING:
    from pathlib import Path


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def everything(folder: Path) -> list[dict[str, Any]]:
    return [line for path in sorted(folder.glob("audit-*.jsonl")) for line in lines(path)] + lines(
        folder / "audit.jsonl"
    )


def test_a_line_says_what_was_done_and_when(tmp_path: Path) -> None:
    audit = Audit(tmp_path / "audit", size=2**20, keep=1, clock=HeldClock(NOON))
    audit.write("job.cancel", job_id="1", token=None, agent="a\nb\x1b" + "x" * 5000)
    [line] = lines(audit.path)
    assert line["at"] == "2026-11-22T12:00:00.000Z"
    assert (line["action"], line["job_id"], "token" in line) == ("job.cancel", "1", False)
    assert len(line["agent"]) == 4097
    assert len(audit.path.read_bytes().splitlines()) == 1
    assert audit.path.stat().st_mode & 0o007 == 0


def test_a_file_that_has_grown_is_put_aside_and_the_oldest_go(tmp_path: Path) -> None:
    audit = Audit(tmp_path, size=300, keep=3, clock=HeldClock(NOON))
    for number in range(40):
        audit.write("job.accept", number=number)
    assert len(list(tmp_path.glob("audit-*.jsonl"))) == 3
    assert all(path.stat().st_size <= 300 for path in tmp_path.glob("*.jsonl"))
    kept = [line["number"] for line in everything(tmp_path)]
    assert kept[-1] == 39
    assert sorted(kept) == list(range(min(kept), 40))


def test_many_writers_write_whole_lines_and_lose_none(tmp_path: Path) -> None:
    def write(which: int) -> None:
        own = Audit(tmp_path, size=4000, keep=1000)
        for number in range(50):
            own.write("job.accept", which=which, number=number)

    threads = [threading.Thread(target=write, args=(which,)) for which in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    found = [(line["which"], line["number"]) for line in everything(tmp_path)]
    assert sorted(found) == [(which, number) for which in range(4) for number in range(50)]


def test_trouble_is_told_in_the_ordinary_log_and_raises_nothing(tmp_path: Path) -> None:
    (tmp_path / "audit").write_text("a file where a folder should be")
    audit = Audit(tmp_path / "audit", size=1000, keep=1)
    audit.write("job.accept")
    audit.write("job.accept", unwritable=object())
    Audit(tmp_path / "none", size=0, keep=0).write("job.accept")
    assert not (tmp_path / "none").exists()


def test_half_a_line_is_taken_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    audit = Audit(tmp_path, size=1000, keep=1)
    audit.write("one")
    whole = os.write
    with monkeypatch.context() as patched:
        patched.setattr(os, "write", lambda descriptor, data: whole(descriptor, data[:7]))
        audit.write("two")
    audit.write("three")
    assert [line["action"] for line in lines(audit.path)] == ["one", "three"]


def asking(address: str, token: str | None = None) -> Request:
    state = {"claimed": token} if token else {}
    return Request({"type": "http", "client": (address, 1), "headers": [], "state": state})


def test_a_flood_of_refusals_has_a_bounded_number_of_lines_and_all_are_counted() -> None:
    now = 1000.0
    refusals = Refusals(clock=lambda: now)
    tasks = []
    for minute in range(10):
        now = 1000.0 + 60 * minute
        tasks += [refusals.task(asking(f"10.0.{n % 100}.1", f"{n % 7}"), 401, "token-invalid") for n in range(5000)]
    written = [task for task in tasks if task is not None]
    assert len(written) == 10 * 30
    now += 60
    last = refusals.task(asking("10.0.0.1"), 429, "rate-limited")
    assert last is not None
    untold = sum(task.kwargs["untold"] or 0 for task in [*written, last])
    assert untold + len(written) == 10 * 5000
    assert refusals.task(asking("10.0.0.1"), 404, "not-found") is None


@pytest.mark.parametrize(
    ("query", "written"),
    [
        ("", ""),
        ("filename=a.txt&labels.who=me", "filename=a.txt&labels.who=me"),
        ("filename=a.txt&exp=1&sig=abc&nonce=n", "filename=a.txt&exp=1&sig=***&nonce=n"),
        ("SIG=abc&si%67=abc&+sig=abc", "SIG=***&si%67=***&+sig=***"),
        ("token=x&access_token=x&api_key=x", "token=***&access_token=***&api_key=***"),
        ("X-Amz-Signature=x&client-secret=x", "X-Amz-Signature=***&client-secret=***"),
        ("q=fik_0123456789_abcdefghijklmnopqrstuvwxyz0123456789", "***"),
        ("q=fik%5F0123456789%5Fabcdefghijklmnopqrstuvwxyz0123456789", "***"),
        ("q=whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw&a=1", "***&a=1"),
        ("sig&a", "sig&a"),
    ],
)  # fmt: skip
def test_secrets_are_not_written(query: str, written: str) -> None:
    assert without_secrets(query) == written
