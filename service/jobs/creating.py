"""How records of new jobs become files: markers first, then records beside their place, then the renames that commit them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final, TypeVar

from service import faults
from service.durable import Disk, beside, write_all
from service.jobs.listing import Listing
from service.jobs.markers import Markers
from service.jobs.model import Job
from service.jobs.record import encode
from service.jobs.refusals import disk_failed
from service.joint import Joint, Outcomes

T = TypeVar("T")
RECORD: Final = "job.json"


class _Record:
    """The record of one job on its way to its place."""

    def __init__(self, job: Job, folder: Path) -> None:
        self.job = job
        self.folder = folder
        self._path = f"{folder}/{RECORD}"
        self._new = os.fspath(beside(folder / RECORD))
        self.descriptor: int | None = None

    def write(self) -> None:
        """Write it beside its place."""
        self.descriptor = os.open(self._new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
        write_all(self.descriptor, encode(self.job))
        faults.reach("record.sync")

    def close(self) -> None:
        """Close it, written or not."""
        if self.descriptor is not None:
            os.close(self.descriptor)

    def commit(self) -> None:
        """Give it its name."""
        os.rename(self._new, self._path)  # noqa: PTH104 - for every job, and twice as quick

    def leave(self) -> None:
        """Take away what was written."""
        with suppress(OSError):
            os.unlink(self._new)  # noqa: PTH108 - as above


def create(
    jobs: Sequence[Job],
    joint: Joint,
    *,
    disk: Disk,
    folder: Callable[[str], Path],
    pending: Markers,
    listing: Listing,
) -> list[Exception | None]:
    """Commit the records of these jobs, each in its ``folder``; return for each its error, None for one that is committed."""
    records = [_Record(job, folder(job.id)) for job in jobs]
    left = Outcomes(records)
    try:
        left.each(lambda record: _mark(record.job, pending))
        joint.folder(pending.folder)
        left.all(joint.end)
        left.each(lambda record: disk.make_folders(record.folder, joint))
        left.all(joint.end)
        left.each(_Record.write)
        left.each(lambda record: joint.file(record.descriptor or -1))
        left.all(lambda: joint.end(barrier=True))
        left.each(_Record.commit)
    finally:
        for record in records:
            record.close()
    for record, error in zip(records, left.errors, strict=True):
        if error is not None:
            record.leave()
            with suppress(OSError):  # a marker without a record is found
                pending.remove(record.job.id)
    confirm(left, [record.folder for record in left], joint)
    if committed := [record.job for record in left]:
        listing.add(committed)
    for _ in committed:
        faults.reach("accept.committed")
    return left.errors


def _mark(job: Job, pending: Markers) -> None:
    pending.make(job.id, job.owner)
    faults.reach("accept.marked")


def confirm(left: Outcomes[T], folders: Iterable[Path], joint: Joint) -> None:
    """Sync the names in the folders of all that have got so far: who fails here may be committed all the same."""
    for folder in folders:
        joint.folder(folder)
    try:
        joint.end(barrier=True)
    except OSError as error:
        doubt = disk_failed()
        doubt.__cause__ = error
        left.fail(doubt)
