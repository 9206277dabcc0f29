"""The counters of several processes in one file, and what becomes of them when the file does not work."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
import time
from contextlib import closing

import pytest

from service.counts import Counts, keep
from service.figures import LOOP_LAG, REFUSALS, UPLOAD_SIZE, Key, Sum
from tests.waiting import wait_until_async

REFUSED = Key(REFUSALS.name, ("not-found",))


def refused(counts: Counts) -> float:
    return counts.read().get(REFUSED, Sum()).total


def test_two_processes_count_together(tmp_path):
    one, other = Counts(tmp_path / "counts.db"), Counts(tmp_path / "counts.db")
    one.add(REFUSALS, "not-found")
    other.add(REFUSALS, "not-found")
    other.flush()

    assert refused(one) == 2
    assert refused(other) == 2
    one.close()
    other.close()


def test_counts_outlive_their_process(tmp_path):
    first = Counts(tmp_path / "counts.db")
    first.add(REFUSALS, "not-found")
    first.close()
    second = Counts(tmp_path / "counts.db")
    second.add(REFUSALS, "not-found")

    assert refused(second) == 2
    second.close()


def test_without_a_file_a_process_counts_alone():
    counts = Counts()
    counts.add(REFUSALS, "not-found")
    counts.flush()

    assert refused(counts) == 1


def test_a_file_that_cannot_be_written_costs_nothing_counted(tmp_path):
    counts = Counts(tmp_path / "later" / "counts.db")
    counts.add(REFUSALS, "not-found")
    counts.flush()
    assert refused(counts) == 1

    (tmp_path / "later").mkdir()
    counts.add(REFUSALS, "not-found")
    assert refused(counts) == 2
    counts.close()


def test_a_damaged_file_is_begun_anew(tmp_path):
    (tmp_path / "counts.db").write_bytes(b"not a database" * 1000)
    counts = Counts(tmp_path / "counts.db")
    counts.add(REFUSALS, "not-found")
    counts.flush()

    assert refused(counts) == 1
    other = Counts(tmp_path / "counts.db")
    assert refused(other) == 1
    counts.close()
    other.close()


def test_threads_lose_nothing(tmp_path):
    counts = Counts(tmp_path / "counts.db")
    stop = threading.Event()

    def flush() -> None:
        while not stop.is_set():
            counts.flush()

    def count() -> None:
        for _ in range(2000):
            counts.add(REFUSALS, "not-found")

    flushing = threading.Thread(target=flush)
    counting = [threading.Thread(target=count) for _ in range(4)]
    for thread in (flushing, *counting):
        thread.start()
    for thread in counting:
        thread.join()
    stop.set()
    flushing.join()

    assert refused(counts) == 8000
    counts.close()


def test_a_value_belongs_to_the_first_bucket_whose_bound_it_does_not_exceed():
    counts = Counts()
    for size in (1, 1024, 1025, 2**40):
        counts.add(UPLOAD_SIZE, value=size)

    buckets = {key.bucket: value.number for key, value in counts.read().items()}
    assert buckets == {0: 2, 1: 1, len(UPLOAD_SIZE.buckets): 1}


@pytest.mark.anyio
async def test_a_loop_that_was_blocked_is_counted_and_others_hear_of_it(tmp_path):
    counts, other = Counts(tmp_path / "counts.db"), Counts(tmp_path / "counts.db")
    keeping = asyncio.create_task(keep(counts))
    await asyncio.sleep(0.1)
    time.sleep(0.9)  # noqa: ASYNC251 - this is the crime

    def lag() -> float:
        return other.read().get(Key(LOOP_LAG.name), Sum()).total

    async def heard() -> bool:
        return lag() > 0.3

    await wait_until_async(heard, what="the lag to be counted")
    keeping.cancel()
    counts.close()
    other.close()


def test_a_file_that_somebody_holds_costs_nothing_counted(tmp_path, monkeypatch):
    monkeypatch.setattr("service.counts._BUSY", 0.01)
    counts = Counts(tmp_path / "counts.db")
    counts.flush()
    assert refused(counts) == 0
    with closing(sqlite3.connect(tmp_path / "counts.db", isolation_level=None)) as other:
        other.execute("begin immediate")
        counts.add(REFUSALS, "not-found")
        counts.flush()
        assert refused(counts) == 1  # what this process knows
        other.execute("rollback")

    counts.add(REFUSALS, "not-found")
    assert refused(counts) == 2
    counts.close()
