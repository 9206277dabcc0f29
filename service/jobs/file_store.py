"""Job records as files: ``jobs/<yyyy>/<mm>/<dd>/<id>/job.json``, replaced atomically under the job's flock.

The rename of ``job.json`` is the commit point of every change. ``pending/<id>`` is an empty marker that exists from before the
first commit until after the last: recovery reads markers, never the millions of finished jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final

import structlog

from service import faults
from service.clock import Clock, utc_now
from service.durable import CommitUnknown, Disk, locked
from service.errors import IntakeError, NotFound, RecordCorrupt
from service.figures import Figures
from service.ids import is_id
from service.jobs.creating import RECORD, create
from service.jobs.folders import job_folder, mark_of, remove_folder, walk
from service.jobs.keys import FileKeys
from service.jobs.lease import FileLease, evict, is_led, lead_file, take_lead
from service.jobs.listing import Listing
from service.jobs.markers import DeliveryMarkers, Markers
from service.jobs.model import Job, JobStatus
from service.jobs.record import Overlay, decode, encode
from service.jobs.refusals import disk_failed, expired_job, no_such_job, require_id
from service.jobs.removing import DELETED, remove
from service.jobs.store import Change, JobQuery, KeyHold, Lead, Lease, Moves, Page, Position
from service.joint import Joint

log = structlog.get_logger(__name__)
_OVERLAY: Final = "progress.json"
_ROOM: Final = "room.json"  #: reserved while an attempt runs, so that its end can be recorded on a full disk
_ROOM_SIZE: Final = 2**16


class FileJobStore:
    """The job store of one machine: everything below one data directory, shared by any number of its processes."""

    def __init__(
        self,
        root: Path,
        *,
        disk: Disk | None = None,
        clock: Clock = utc_now,
        key_ttl: timedelta = timedelta(hours=24),
        gone_for: timedelta = timedelta(days=7),
    ) -> None:
        self._root = root
        self._disk = disk or Disk()
        self._clock = clock
        self._key_ttl = key_ttl
        self._gone_for = gone_for
        for name in ("jobs", "engine"):
            self._disk.make_folders(root / name)
        self._pending = Markers(root / "pending", self._disk)
        self._aside = Markers(root / "quarantine", self._disk)
        self._deliveries = DeliveryMarkers(root, self._disk)
        self._keys = FileKeys(root, disk=self._disk, find=self._find, is_pending=self._pending.__contains__)
        self.listing = Listing(root, self.get)

    def folder(self, job_id: str) -> Path:
        """Return the folder of a job, which follows from its id alone. Raises NotFound for what is no id."""
        return job_folder(self._root, require_id(job_id))

    def create(self, job: Job) -> None:
        with Joint(self._disk) as joint:
            (error,) = self.create_all([job], joint)
        if error is not None:
            raise error

    def create_all(self, jobs: Sequence[Job], joint: Joint) -> list[Exception | None]:
        """Commit the records of these jobs, and what the joint was given before; return for each what ``create`` would raise."""
        return create(jobs, joint, disk=self._disk, folder=self.folder, pending=self._pending, listing=self.listing)

    def get(self, job_id: str) -> Job:
        return self._shown(self._recorded(job_id))

    def marks(self, job_ids: Iterable[str]) -> dict[str, Hashable]:
        return {job_id: tuple(mark_of(self.folder(job_id) / name) for name in (RECORD, _OVERLAY)) for job_id in job_ids}

    def moves(self, after: Position | None, limit: int) -> Moves:
        return self.listing.moves(after, limit)

    def heed(self, tell: Callable[[str], None], *, due: bool = False) -> bool:  # noqa: ARG002
        """Return False: nobody tells what another process has written."""
        return False

    def last_owner(self, job_id: str) -> str | None:
        return self.listing.owner(job_id)

    def confirm(self, job_id: str) -> Job:
        job = self.get(job_id)
        try:
            with (self.folder(job_id) / RECORD).open("rb") as record:
                self._disk.sync_file(record.fileno())
        except FileNotFoundError:
            raise self._missing(job_id) from None
        for folder in (self.folder(job_id), self._pending.folder):
            self._disk.sync_folder(folder)
        return job

    def update(self, job_id: str, change: Change) -> Job:
        with self._locked(job_id):
            job = self.get(job_id)
            after = change(job)
            if after is job:
                return job
            if job.done and not after.done:
                self._pending.set(job_id, job.owner)
            self._deliveries.announce(job, after)
            room = self.folder(job_id) / _ROOM
            ends = job.status is JobStatus.RUNNING and after.status is not JobStatus.RUNNING
            try:
                self._disk.write(self.folder(job_id) / RECORD, encode(after), room=room if ends else None)
            except CommitUnknown as error:
                raise disk_failed() from error
            if ends:
                room.unlink(missing_ok=True)
            if after.done and not job.done:
                faults.reach("attempt.recorded")
            self._settled(after, since=job.version)
            return after

    def claim(self, job_id: str, change: Change) -> tuple[Job, Lease | None]:
        try:
            lease = FileLease(self.folder(job_id) / "lease")
        except FileNotFoundError:
            raise self._missing(job_id) from None
        except BlockingIOError:
            return self.get(job_id), None
        try:
            job = self.update(job_id, self._with_room(change))
        except BaseException:
            lease.release()
            raise
        if job.status is not JobStatus.RUNNING:
            lease.release()
            return job, None
        lease.job = job
        return job, lease

    def note(self, lease: Lease, job: Job) -> None:
        with self._locked(job.id):  # so that no change and no progress get the same version
            recorded = self._recorded(job.id)
            shown = self._shown(recorded)
            overlay = Overlay.of(shown, lease.job.attempt, job)
            self._disk.write(self.folder(job.id) / _OVERLAY, overlay.encode(), durable=False)
            if (
                overlay.file.media_type != shown.file.media_type
            ):  # lists by type find it; the record is still the older one
                self.listing.put(recorded.evolve(file=overlay.file), since=recorded.version)

    def page(self, query: JobQuery) -> Page:
        return Page.collect(query, self.listing.ids(query), self.get)

    def pending(self) -> list[str]:
        return sorted(self._pending)

    def active(self, owner: str) -> int:
        return self.listing.active(owner)

    def undelivered(self) -> list[str]:
        return sorted(self._deliveries.waiting)

    def dead_letters(self) -> list[str]:
        return sorted(self._deliveries.dead)

    def owner_hint(self, job_id: str) -> str:
        return self._pending.hint(job_id)

    def settle(self, job_id: str) -> bool:
        try:
            with self._locked(job_id):
                self._settled(self.get(job_id))
        except NotFound:
            self.listing.drop(job_id)  # what a crash between record and row has left
            if is_id(job_id) and job_id not in self._aside:
                self._deliveries.drop(job_id)
            return False
        except RecordCorrupt:
            log.exception("record is corrupt; the job is set aside", job_id=job_id)
            self.set_aside(job_id)
        return True

    def set_aside(self, job_id: str) -> None:
        self._aside.set(job_id)
        self._pending.remove(job_id)

    def restore(self, job_id: str) -> bool:
        try:
            with self._locked(job_id):
                job = self.get(job_id)
                astray = job_id in self._aside or job.done == (job_id in self._pending)
                if not job.done:
                    self._pending.set(job_id, job.owner)
                self._aside.remove(job_id)
                self._settled(job)
        except (NotFound, RecordCorrupt):
            return False
        return astray

    def is_deleted(self, job_id: str) -> bool:
        return (self.folder(job_id) / DELETED).exists()

    def delete(self, job_id: str, check: Callable[[Job], None], *, tombstone: bool = False) -> None:
        with Joint(self._disk) as joint:
            (error,) = self.delete_all([job_id], check, joint, tombstone=tombstone)
        if error is not None:
            raise error

    def delete_all(
        self, job_ids: Sequence[str], check: Callable[[Job], None], joint: Joint, *, tombstone: bool = False
    ) -> list[Exception | None]:
        """Remove these records, sorted by their ids; return for each what ``delete`` would raise."""
        gone_at = self._clock() if tombstone else None
        return remove(
            job_ids,
            check,
            joint,
            get=self.get,
            folder=self.folder,
            lock=self._locked,
            pending=self._pending,
            aside=self._aside,
            drop=lambda jobs: self.listing.remove(jobs, gone_at),
        )

    def forget(self, job_id: str) -> None:
        self._deliveries.drop(job_id)
        remove_folder(self.folder(job_id), {DELETED, _OVERLAY, _ROOM, "lease", "lock"})
        self._pending.remove(job_id)

    def hold_key(self, scope: str) -> AbstractContextManager[KeyHold]:
        return self._keys.hold(scope)

    def lead(self) -> Lead | None:
        return take_lead(lead_file(self._root))

    def is_led(self) -> bool:
        return is_led(self._root)

    def expired(self, now: datetime, limit: int) -> list[str]:
        return self.listing.expired(now, limit)

    def sweep(self, now: datetime) -> int:
        self.listing.start()
        return self._keys.sweep(now - self._key_ttl) + self.listing.forget_gone(now - self._gone_for)

    def evict(self, job_id: str) -> int:
        return evict(self.folder(job_id) / "lease")

    def figures(self, now: datetime) -> Figures:
        in_progress, oldest, sums = self.listing.figures(self.pending(), now)
        counts = {"quarantined": sum(1 for _ in self._aside), **self._deliveries.numbers()}
        return Figures(in_progress=in_progress, oldest_due=oldest, sums=sums, **counts)

    def quarantined(self) -> Iterator[str]:
        yield from sorted(self._aside)

    def walk(self) -> Iterator[str]:
        return walk(self._root)

    def where(self, job_id: str) -> str:
        return str(self.folder(job_id) / RECORD)

    def close(self) -> None:
        self.listing.close()

    def _recorded(self, job_id: str) -> Job:
        try:
            return decode((self.folder(job_id) / RECORD).read_bytes(), job_id)
        except FileNotFoundError:
            raise self._missing(job_id) from None

    def _shown(self, job: Job) -> Job:
        if job.status is JobStatus.RUNNING:
            with suppress(OSError, ValueError):  # no progress yet
                return Overlay.decode((self.folder(job.id) / _OVERLAY).read_bytes()).over(job)
        return job

    def _with_room(self, change: Change) -> Change:
        def changed(job: Job) -> Job:
            after = change(job)
            if after is not job and after.status is JobStatus.RUNNING:
                self._disk.reserve(self.folder(job.id) / _ROOM, _ROOM_SIZE)
            return after

        return changed

    def _settled(self, job: Job, *, since: int | None = None) -> None:
        """Write the job's row; the marker of a done job goes only after that, so that recovery finds rows nobody wrote."""
        if self._deliveries.put(job) and self.listing.put(job, since=since) and job.done:
            self._pending.remove(job.id)

    def _missing(self, job_id: str) -> IntakeError:
        if job_id in self._aside:
            return RecordCorrupt("The record is gone.", hint="Run `intake fsck`; the job's file is kept.")
        return expired_job(job_id) if self.listing.is_gone(job_id) else no_such_job(job_id)

    @contextmanager
    def _locked(self, job_id: str) -> Iterator[None]:
        try:
            with locked(self.folder(job_id) / "lock"):
                yield
        except FileNotFoundError:
            raise self._missing(job_id) from None

    def _find(self, job_id: str) -> str | None:
        with suppress(NotFound):
            return self.get(job_id).id
        return None
