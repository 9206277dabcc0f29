"""How the records of jobs are removed: markers first, then the renames that commit it, then their rows in the index."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Final

from service.errors import RecordCorrupt
from service.jobs.creating import RECORD, confirm
from service.jobs.markers import Markers
from service.jobs.model import Job
from service.joint import Joint, Outcomes

DELETED: Final = "deleted.json"  #: what a delete makes of the record, so that nobody takes it for lost


class _Record:
    """The record of one job on its way out, under its lock."""

    def __init__(self, job_id: str, folder: Path) -> None:
        self.id = job_id
        self.folder = folder
        self.job: Job | None = None  #: None while it has not been read, and for a corrupt one

    def read(self, get: Callable[[str], Job], check: Callable[[Job], None]) -> None:
        """Read and check it; a corrupt one goes unchecked."""
        with suppress(RecordCorrupt):
            job = get(self.id)
            check(job)
            self.job = job

    def remove(self) -> None:
        """Take its name from it."""
        with suppress(FileNotFoundError):  # it is lost, and that is why it is deleted
            os.rename(f"{self.folder}/{RECORD}", f"{self.folder}/{DELETED}")  # noqa: PTH104 - twice as quick


def remove(
    job_ids: Sequence[str],
    check: Callable[[Job], None],
    joint: Joint,
    *,
    get: Callable[[str], Job],
    folder: Callable[[str], Path],
    lock: Callable[[str], AbstractContextManager[None]],
    pending: Markers,
    aside: Markers,
    drop: Callable[[list[Job]], object],
) -> list[Exception | None]:
    """Remove these records, each in its ``folder`` and under its ``lock``; return for each its error.

    Those that could be read are given to ``drop``. Locks are taken in this order. Whoever removes many gives them in the order of
    their ids: then no two wait for each other.
    """
    records = [_Record(job_id, folder(job_id)) for job_id in job_ids]
    left = Outcomes(records)
    with ExitStack() as locks:
        left.each(lambda record: locks.enter_context(lock(record.id)))
        left.each(lambda record: record.read(get, check))
        left.each(lambda record: pending.make(record.id))
        joint.folder(pending.folder)
        left.all(lambda: joint.end(barrier=True))
        left.each(_Record.remove)
        confirm(left, [record.folder for record in left], joint)
        left.each(lambda record: aside.remove(record.id))
    drop([record.job for record in left if record.job is not None])
    return left.errors
