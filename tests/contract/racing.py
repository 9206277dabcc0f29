"""Processes that work on one store at once: ``python -m tests.contract.racing PLACE PROCESSES RESULTS``.

Each of them tries to claim every pending job, ends those it got, and writes their ids to ``RESULTS.<number>``.
"""

from __future__ import annotations

import os
import random
import sys
from datetime import timedelta
from pathlib import Path

from service.durable import Disk
from service.jobs.file_store import FileJobStore
from service.jobs.store import JobStore
from tests.jobs import NOON, finish


def open_store(place: str) -> JobStore:
    """Return the store of a data directory, or of a PostgreSQL database by its URL."""
    if place.startswith("postgresql://"):
        from service.jobs.postgres_store import PostgresJobStore

        return PostgresJobStore(place, durable=False, lease=timedelta(seconds=2))
    return FileJobStore(Path(place), disk=Disk(sync=False))


def work(place: str, number: int, results: Path) -> None:
    store = open_store(place)
    got = []
    while ids := store.pending():
        random.Random(number).shuffle(ids)
        for job_id in ids:
            _, lease = store.claim(job_id, lambda job: job if job.done else job.claimed(NOON))
            if lease is None:
                store.settle(job_id)
                continue
            got.append(job_id)
            store.note(lease, lease.job)
            store.update(job_id, finish)
            lease.release()
    store.close()
    results.with_name(f"{results.name}.{number}").write_text("\n".join(got))


def main() -> None:
    place, processes, results = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    children = []
    for number in range(processes):
        child = os.fork()
        if child == 0:
            work(place, number, results)
            os._exit(0)
        children.append(child)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    sys.exit(any(statuses))


if __name__ == "__main__":
    main()
