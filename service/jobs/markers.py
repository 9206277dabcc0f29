"""Empty files that say something of a job by being there: in ``pending/``, ``quarantine/``, ``outbox/`` and ``deadletters/``."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import structlog

from service import faults
from service.durable import Disk
from service.jobs.folders import ids_in
from service.jobs.model import Job
from service.jobs.notices import has_dead, is_open

_LONGEST: Final = 64  #: bytes of a hint
log = structlog.get_logger(__name__)


class Markers:
    """The markers of one kind. ``set`` returns when the marker is on disk; what is taken away may be back after a power cut."""

    def __init__(self, folder: Path, disk: Disk) -> None:
        self.folder = folder
        self._disk = disk
        disk.make_folders(folder)

    def __contains__(self, job_id: str) -> bool:
        return (self.folder / job_id).exists()

    def __iter__(self) -> Iterator[str]:
        """Yield the ids of the jobs that have one, in any order."""
        return ids_in(self.folder)

    def set(self, job_id: str, hint: str | None = None) -> None:
        """Make the marker. The hint, ASCII, is not synced and may be lost, like all hints."""
        self.make(job_id, hint)
        self._disk.sync_folder(self.folder)

    def make(self, job_id: str, hint: str | None = None) -> None:
        """Make the marker and leave syncing ``folder`` to the caller."""
        descriptor = os.open(self.folder / job_id, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            if hint:
                os.ftruncate(descriptor, 0)
                os.write(descriptor, hint.encode("ascii"))
        finally:
            os.close(descriptor)

    def hint(self, job_id: str) -> str:
        """Return the hint, empty for none."""
        try:
            descriptor = os.open(f"{self.folder}/{job_id}", os.O_RDONLY | os.O_CLOEXEC)  # of 100,000 in turn at a start
        except OSError:
            return ""
        try:
            return os.read(descriptor, _LONGEST).decode("ascii", "replace")
        finally:
            os.close(descriptor)

    def remove(self, job_id: str) -> None:
        """Take the marker away; it need not be there."""
        (self.folder / job_id).unlink(missing_ok=True)


class DeliveryMarkers:
    """Where jobs are found of which something is to be sent (``outbox/<id>``), or was given up (``deadletters/<id>``).

    Both say again what the record says. A marker in ``outbox/`` is there before the one in ``pending/`` goes, or before the change
    of a job that has none, so whoever reads both finds every job with something to send.
    """

    def __init__(self, root: Path, disk: Disk) -> None:
        self.waiting = Markers(root / "outbox", disk)
        self.dead = Markers(root / "deadletters", disk)

    def put(self, job: Job) -> bool:
        """Let the markers of a job agree with its record; False when that did not work. Without notices it costs nothing."""
        if not job.notices:
            return True
        try:
            for markers, wanted in ((self.dead, has_dead(job)), (self.waiting, is_open(job))):
                if not wanted:
                    markers.remove(job.id)
                elif job.id not in markers:
                    markers.set(job.id)
                    faults.reach("notice.marked")
        except OSError as error:
            log.error(
                "a marker of something to send cannot be written; it is tried again", job_id=job.id, error=str(error)
            )
            return False
        return True

    def announce(self, job: Job, after: Job) -> None:
        """Make the marker of a job that has none in ``pending/`` before a change that gives it something to send."""
        if after.notices and job.done and is_open(after) and not is_open(job):
            self.waiting.set(job.id)

    def numbers(self) -> dict[str, int]:
        """Return how many jobs have something to send, and how many something that was given up."""
        return {"undelivered": sum(1 for _ in self.waiting), "dead_letters": sum(1 for _ in self.dead)}

    def drop(self, job_id: str) -> None:
        """Take away what there is of a job without a record."""
        self.waiting.remove(job_id)
        self.dead.remove(job_id)
