"""Quotas: what was used today, kept across restarts, and refused before it goes over."""

from __future__ import annotations

import threading
from datetime import timedelta
from pathlib import Path

import pytest

from service.access.quota import Allowance, FileUsage, MemoryUsage, Quota, Usage, Used, require
from service.errors import OutcomeUnknown, TooMany
from tests.jobs import NOON

TOKEN = "abcdefghij"
DAY = timedelta(days=1)


@pytest.fixture(params=["file", "memory", pytest.param("postgres", marks=pytest.mark.needs("postgres"))])
def usage(request: pytest.FixtureRequest, tmp_path: Path) -> Usage:
    if request.param == "postgres":
        database = request.getfixturevalue("database")
        from service.access.postgres_store import PostgresUsage

        return PostgresUsage(database)
    return MemoryUsage() if request.param == "memory" else FileUsage(tmp_path)


def test_what_is_used_adds_up_within_a_day_and_begins_anew_on_the_next(usage):
    assert usage.read(TOKEN) == Used()
    usage.add(TOKEN, jobs=1, size=10, now=NOON)
    usage.add(TOKEN, jobs=1, size=5, now=NOON + timedelta(hours=11, minutes=59))
    assert usage.read(TOKEN) == Used("2026-11-22", 2, 15)
    usage.add(TOKEN, jobs=1, size=1, now=NOON + DAY / 2)
    assert usage.read(TOKEN) == Used("2026-11-23", 1, 1)
    assert usage.read("another000") == Used()


def test_what_was_used_on_another_day_is_not_told(usage):
    now = [NOON]
    allowance = Allowance(TOKEN, Quota(jobs=3, active=2), usage=usage, active=lambda _: 1, clock=lambda: now[0])
    with allowance.charged(10):
        pass
    told = {"jobs_per_day": 3, "bytes_per_day": None, "active": 2, "active_now": 1}
    assert allowance.told() == told | {"jobs_today": 1, "bytes_today": 10, "day_ends_at": "2026-11-23T00:00:00.000Z"}
    now[0] += DAY
    assert allowance.told() == told | {"jobs_today": 0, "bytes_today": 0, "day_ends_at": "2026-11-24T00:00:00.000Z"}


def test_what_is_refunded_was_never_used_and_never_less_than_nothing(usage):
    usage.add(TOKEN, jobs=1, size=10, now=NOON)
    usage.add(TOKEN, jobs=-1, size=-10, now=NOON)
    usage.add(TOKEN, jobs=-1, size=-10, now=NOON)
    assert usage.read(TOKEN) == Used("2026-11-22", 0, 0)


@pytest.mark.parametrize(
    ("quota", "code"),
    [(Quota(jobs=2), "quota-jobs-exceeded"), (Quota(bytes=29), "quota-bytes-exceeded")],
)
def test_what_goes_over_is_refused_and_not_added(usage, quota, code):
    for _ in range(2):
        usage.add(TOKEN, jobs=1, size=10, now=NOON, quota=quota)
    for _ in range(2):
        with pytest.raises(TooMany) as caught:
            usage.add(TOKEN, jobs=1, size=10, now=NOON, quota=quota)
        assert caught.value.problem == code
        assert caught.value.retry_after == 12 * 3600 + 1
    assert usage.read(TOKEN) == Used("2026-11-22", 2, 20)
    usage.add(TOKEN, jobs=1, size=10, now=NOON + DAY, quota=quota)


def test_a_quota_can_be_used_to_the_last_byte():
    require(Quota(jobs=3, bytes=100), Used("", 3, 100), NOON)
    require(Quota(), Used("", 10**9, 10**18), NOON)


def allowance(usage: Usage, quota: Quota, *, active: int = 0) -> Allowance:
    return Allowance(TOKEN, quota, usage=usage, active=lambda _: active, clock=lambda: NOON)


def test_jobs_at_a_time_are_counted_before_and_when_they_are_charged(usage):
    allowance(usage, Quota(active=3), active=2).require(1)
    allowance(usage, Quota(jobs=9), active=10**6).require(1)
    full = allowance(usage, Quota(active=3), active=3)
    with pytest.raises(TooMany) as before:
        full.require(1)
    with pytest.raises(TooMany) as after, full.charged(1):
        pass
    assert before.value.problem == after.value.problem == "quota-active-exceeded"
    assert usage.read(TOKEN) == Used()


def test_what_fails_is_refunded_and_what_may_have_succeeded_is_not(usage):
    bounded = allowance(usage, Quota(jobs=9))
    with pytest.raises(OSError, match="full"), bounded.charged(10):
        raise OSError("full")
    assert usage.read(TOKEN).jobs == 0
    with pytest.raises(OutcomeUnknown), bounded.charged(10):
        raise OutcomeUnknown("the disk failed")
    assert usage.read(TOKEN) == Used("2026-11-22", 1, 10)


def test_a_restart_finds_what_was_used(tmp_path):
    FileUsage(tmp_path).add(TOKEN, jobs=1, size=10, now=NOON)
    assert FileUsage(tmp_path).read(TOKEN) == Used("2026-11-22", 1, 10)


@pytest.mark.parametrize("torn", [b"", b'{"day": "2026', b"\0" * 40, b"[]", b'{"day": 1}'])
def test_a_torn_file_counts_as_nothing_used(tmp_path, torn):
    usage = FileUsage(tmp_path)
    (tmp_path / "access" / "usage" / TOKEN).write_bytes(torn)
    usage.add(TOKEN, jobs=1, size=10, now=NOON)
    assert usage.read(TOKEN) == Used("2026-11-22", 1, 10)


def test_many_at_once_never_go_over(tmp_path):
    refused = []

    def add():
        usage = FileUsage(tmp_path)
        for _ in range(100):
            try:
                usage.add(TOKEN, jobs=1, size=1, now=NOON, quota=Quota(jobs=750))
            except TooMany as error:
                refused.append(error)

    threads = [threading.Thread(target=add) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 50
    assert FileUsage(tmp_path).read(TOKEN).jobs == 750
