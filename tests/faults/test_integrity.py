"""Whatever is changed in a data directory is found: one byte, a length, a file that is gone, two that have changed places.

``make mutations`` makes 1,000 of them; ``INTAKE_TEST_SEED`` chooses others.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from service import fsck
from service.doctor import examine
from service.findings import Finding
from service.settings import Settings
from service.wiring import build
from tests.e2e.rig import ENDS, call, ended, post, running, serve, submit, tidy
from tests.receiver import Receiver, status
from tests.waiting import wait_until

#: What of a data directory carries meaning. The index is apart: what changes in its unused bytes changes nothing.
MEANS = ("jobs", "pending", "keys", "outbox", "deadletters", "webhooks")


@pytest.fixture(scope="module")
def pristine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Give a data directory with jobs of all kinds, as a kill has left it."""
    folder = tmp_path_factory.mktemp("pristine")
    server = serve(folder, slots=1, default_pipeline="checked", attempt_start="auto", webhook_allow="127.0.0.1/32")
    receiver = Receiver()
    try:
        receiver.__enter__()
        server.start()
        call(server, "POST", "/v1/webhook-endpoints", json={"url": receiver.url}).raise_for_status()
        for number in range(3):
            answer = post(server, f"write one.bin; write two.bin 5000; nothing {number}", key=f"done-{number}")
            ended(server, answer.json()["id"])
        receiver.wait(3)
        wait_until(lambda: not list((server.data_dir / "outbox").iterdir()), 30, "all to be told")
        receiver.answer = status(500)  # tried again
        ended(server, submit(server, "nothing"))
        receiver.wait(4)
        receiver.answer = status(410)  # given up, and the endpoint with it
        ended(server, submit(server, "nothing"))
        wait_until(lambda: list((server.data_dir / "deadletters").iterdir()), 30, "what was given up")
        tidy(server)
        busy = submit(server, f"write early.bin; wait {folder / 'never'}")
        running(server, busy)
        for number in range(2):
            post(server, f"nothing {number}", key=f"waits-{number}")
        wait_until((server.job_dir(busy) / "progress.json").exists)
        server.kill()
        for stray in server.data_dir.glob("jobs/*/*/*/*/*.new"):
            stray.unlink()
        yield server.data_dir
    finally:
        server.__exit__()
        receiver.__exit__()


def check(data: Path, *, repair: bool = False) -> list[Finding]:
    with closing(build(Settings.load(data_dir=data, min_free=0, durability="none"))) as services:
        return list(examine(services, deep=True, repair=repair))


def wrong(data: Path, *, repair: bool = False) -> list[Finding]:
    return [finding for finding in check(data, repair=repair) if finding.level != "ok" and finding.subject != "records"]


def mutate(data: Path, chance: random.Random) -> str:
    """Change one thing and say what."""
    # what an attempt has not published means nothing yet, nor does the room that is kept for its end
    files = sorted(
        path
        for part in MEANS
        for path in (data / part).rglob("*")
        if path.is_file() and not re.search("[.]partial|room[.]json", str(path))
    )
    full = [path for path in files if path.stat().st_size]
    kind = chance.choice(["flip", "flip", "truncate", "append", "delete", "swap"])
    if kind == "swap":
        one, other = chance.choice([pair for pair in _pairs(full) if pair[0].read_bytes() != pair[1].read_bytes()])
        beside = one.with_name("beside")
        one.rename(beside)
        other.rename(one)
        beside.rename(other)
        return f"swap {one.relative_to(data)} {other.relative_to(data)}"
    if kind == "append":
        path = chance.choice(files)
        with path.open("ab") as file:
            file.write(b"x")
    elif (
        kind == "delete"
    ):  # locks, leases and progress are made again by whoever needs them, and an endpoint may be removed
        made_again = ("lock", "lease", "progress.json")
        gone = [path for path in files if path.name not in made_again and path.parent.name != "webhooks"]
        path = chance.choice(gone)
        path.unlink()
    else:
        path = chance.choice(full)
        content = bytearray(path.read_bytes())
        at = chance.randrange(len(content))
        content[at] ^= chance.randrange(1, 256)
        path.write_bytes(content[:at] if kind == "truncate" else content)
    return f"{kind} {path.relative_to(data)}"


def _pairs(files: list[Path]) -> Iterator[tuple[Path, Path]]:
    by_name: dict[str, list[Path]] = {}
    for path in files:
        by_name.setdefault("key" if len(path.name) == 64 else path.name, []).append(path)
    for several in by_name.values():
        yield from pairwise(several)


def mutations(
    pristine: Path, folder: Path, count: int, seed: int, *, mend: bool = False
) -> tuple[list[str], Counter[str], Counter[str]]:
    """Make so many changes, one at a time, and return those that were not found, what they were, and how many are mended."""
    missed, kinds, mended = [], Counter[str](), Counter[str]()
    for number in range(count):
        data = folder / str(number)
        shutil.copytree(pristine, data, ignore=lambda _, names: [name for name in names if name == "bell"])
        what = mutate(data, random.Random(f"{seed}.{number}"))
        kind = what.partition(" ")[0]
        kinds[kind] += 1
        found = wrong(data)
        if not found:
            missed.append(what)
        if mend:
            wrong(data, repair=True)
            mended[kind] += not wrong(data)
        shutil.rmtree(data)
    return missed, kinds, mended


@pytest.fixture
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is at work on these directories: there is nothing to look at twice."""
    monkeypatch.setattr(fsck, "_AGAIN", 0)


@pytest.mark.usefixtures("at_once")
def test_a_sound_directory_has_nothing_wrong(pristine: Path) -> None:
    assert wrong(pristine) == []


@pytest.mark.usefixtures("at_once")
def test_every_change_is_found(pristine: Path, tmp_path: Path) -> None:
    missed, kinds, _ = mutations(pristine, tmp_path, 60, int(os.environ.get("INTAKE_TEST_SEED", "") or 1))
    assert missed == []
    assert len(kinds) == 5


@pytest.mark.soak
@pytest.mark.usefixtures("at_once")
def test_a_thousand_changes_are_found(pristine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seed = int(os.environ.get("INTAKE_TEST_SEED", "") or random.SystemRandom().randrange(10**6))
    count = int(os.environ.get("INTAKE_TEST_MUTATIONS", "") or 1000)
    began = time.monotonic()
    missed, kinds, mended = mutations(pristine, tmp_path, count, seed, mend=True)
    with capsys.disabled():
        told = (
            f"seed {seed}, {dict(kinds)}, missed {len(missed)}, mended {dict(mended)}, {time.monotonic() - began:.0f} s"
        )
        print(f"\nmutations: {told}")  # noqa: T201 - for who runs it
    assert missed == []


def _one(data: Path, pattern: str) -> Path:
    return min(data.glob(pattern))


def _marker(data: Path) -> None:
    _one(data, "pending/*").unlink()


def _key(data: Path) -> None:
    _one(data, "keys/*/*").write_bytes(b"0" * 36)


def _aside(data: Path) -> None:
    marker = _one(data, "pending/*")
    marker.rename(data / "quarantine" / marker.name)


def _stray(data: Path) -> None:
    (_one(data, "jobs/*/*/*/*") / "notes.txt").write_text("somebody's only copy")


def _nothing_to_send(data: Path) -> None:
    _one(data, "outbox/*").unlink()


def _nothing_given_up(data: Path) -> None:
    _one(data, "deadletters/*").unlink()


def _to_send(data: Path) -> None:
    done = next(path for path in data.glob("jobs/*/*/*/*") if not (data / "pending" / path.name).exists())
    for kind in ("outbox", "deadletters"):
        (data / kind / done.name).touch()
    (data / "outbox" / "0199c1f2-0000-7000-8000-000000000000").touch()  # of a job that is not there


def _readable(data: Path) -> None:
    _one(data, "webhooks/*").chmod(0o644)


def _endpoint_by_hand(data: Path) -> None:
    record = _one(data, "webhooks/*")
    record.write_text('{"sum": null,' + record.read_text().replace("/hook", "/other")[26:])


def _index(data: Path) -> None:
    with closing(sqlite3.connect(data / "engine" / "index.db")) as db, db:
        assert db.execute("select 1 from meta where name = 'complete'").fetchone()
        db.execute("update jobs set status = 'failed' where status = 'succeeded'")


def _by_hand(data: Path) -> None:
    record = _one(data, "jobs/*/*/*/*/job.json")
    head, _, rest = record.read_bytes().partition(b'"sum":"')
    record.write_bytes(head + b'"sum":null' + rest[17:])


@pytest.mark.usefixtures("at_once")
@pytest.mark.parametrize(
    "damage",
    [
        *(_marker, _key, _aside, _stray, _index, _by_hand),
        *(_nothing_to_send, _nothing_given_up, _to_send, _readable, _endpoint_by_hand),
    ],
)
def test_what_can_be_brought_back_is(pristine: Path, tmp_path: Path, damage: Callable[[Path], Any]) -> None:
    data = tmp_path / "uploads"
    shutil.copytree(pristine, data, ignore=lambda _, names: [name for name in names if name == "bell"])
    damage(data)

    assert {finding.level for finding in wrong(data)} == {"fail"}
    assert {finding.level for finding in wrong(data, repair=True)} == {"warn"}
    assert wrong(data) == []
    if damage is _stray:
        assert [path.read_text() for path in (data / "lost+found").iterdir()] == ["somebody's only copy"]


@pytest.mark.usefixtures("at_once")
def test_an_endpoint_that_has_changed_is_named_and_its_record_is_kept(pristine: Path, tmp_path: Path) -> None:
    data = tmp_path / "uploads"
    shutil.copytree(pristine, data, ignore=lambda _, names: [name for name in names if name == "bell"])
    record = _one(data, "webhooks/*")
    changed = record.read_bytes().replace(b"127.0.0.1", b"127.0.0.2")
    record.write_bytes(changed)
    (data / "webhooks" / "notes").write_text("somebody's only copy")

    name = record.name.removesuffix(".json")
    [endpoint, stray] = wrong(data)
    assert (endpoint.level, endpoint.subject) == ("fail", f"webhook endpoint {name}")
    assert "nothing is sent to it" in endpoint.detail
    assert stray.subject == "webhooks/notes"
    assert {finding.level for finding in wrong(data, repair=True)} == {"fail", "warn"}
    assert [finding.subject for finding in wrong(data)] == [endpoint.subject]
    assert record.read_bytes() == changed
    assert [path.read_text() for path in (data / "lost+found").iterdir()] == ["somebody's only copy"]


@pytest.mark.usefixtures("at_once")
def test_after_a_repair_every_job_that_can_be_read_runs_to_its_end(pristine: Path, tmp_path: Path) -> None:
    data = tmp_path / "uploads"
    shutil.copytree(pristine, data, ignore=lambda _, names: [name for name in names if name == "bell"])
    (tmp_path / "never").touch()
    _aside(data)
    corrupt, lost = sorted(data.glob("jobs/*/*/*/*"))[:2]
    (corrupt / "job.json").write_bytes(b"{")
    (lost / "job.json").unlink()
    wrong(data, repair=True)

    with serve(tmp_path, default_pipeline="checked", deadline="2s", max_attempts=1, crash_attempts=1) as server:
        names = [folder.name for folder in data.glob("jobs/*/*/*/*") if folder not in (corrupt, lost)]
        wait_until(lambda: all(server.record(name)["status"] in ENDS for name in names), 40, "the end of the others")
        assert (lost / "source").exists()
        assert {path.name for path in (data / "quarantine").iterdir()} >= {lost.name}
