"""Job records in memory, for tests: what the port promises, kept within one process and gone with it."""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta

from service.clock import Clock, utc_now
from service.errors import KeyInFlight, NotFound, RecordCorrupt
from service.figures import Figures, Tallies
from service.jobs.counted import Seen, count_in_progress, learn
from service.jobs.memory_holds import MemoryKey, MemoryLead, MemoryLease
from service.jobs.model import Job, JobStatus
from service.jobs.notices import has_dead, is_open
from service.jobs.record import Overlay, decode, encode
from service.jobs.refusals import expired_job, no_such_job
from service.jobs.store import Change, JobQuery, Lead, Lease, Moves, Page, Position


class MemoryJobStore:
    """A job store without files. Records are kept as they would be written, so that what comes out is what a file gives.

    Nothing survives the process, and no other process sees it; apart from that every sentence of ``JobStore`` holds. Times of
    keys and tombstones are those of ``clock``, so a test that holds the clock need not wait for them.
    """

    def __init__(
        self,
        *,
        clock: Clock = utc_now,
        key_ttl: timedelta = timedelta(hours=24),
        gone_for: timedelta = timedelta(days=7),
    ) -> None:
        self._clock = clock
        self._key_ttl = key_ttl
        self._gone_for = gone_for
        self._lock = threading.RLock()
        self._records: dict[str, bytes] = {}
        self._overlays: dict[str, bytes] = {}
        self._pending: set[str] = set()
        self._leased: set[str] = set()
        self._gone: dict[str, datetime] = {}
        self._owners: dict[str, str | None] = {}
        self._quarantine: set[str] = set()
        self._deleted: set[str] = set()
        self._keys: dict[str, tuple[str, datetime]] = {}
        self._held: set[str] = set()
        self._lead: MemoryLead | None = None
        self._tallies = Tallies()
        self._journal: list[tuple[str, int]] = []
        self._name = secrets.token_hex(4)
        self._told: dict[str, int] = {}
        self._seen: dict[str, Seen] = {}

    def create(self, job: Job) -> None:
        with self._lock:
            self._records[job.id] = encode(job)
            self._owners[job.id] = job.owner
            self._mark(job)

    def get(self, job_id: str) -> Job:
        with self._lock:
            record, overlay = self._records.get(job_id), self._overlays.get(job_id)
            gone = job_id in self._gone
        if record is None:
            raise expired_job(job_id) if gone else no_such_job(job_id)
        job = decode(record, job_id)
        if job.status is JobStatus.RUNNING and overlay is not None:
            return Overlay.decode(overlay).over(job)
        return job

    def marks(self, job_ids: Iterable[str]) -> dict[str, Hashable]:
        with self._lock:
            return {job_id: (self._records.get(job_id), self._overlays.get(job_id)) for job_id in job_ids}

    def moves(self, after: Position | None, limit: int) -> Moves:
        with self._lock:
            end = Position(self._name, len(self._journal))
            if after is None or after.journal != self._name or not 0 <= after.number <= end.number:
                return Moves(position=end, lost=after is not None)
            found = self._journal[after.number : after.number + limit]
            moves = tuple((Position(self._name, n), *move) for n, move in enumerate(found, after.number + 1))
            return Moves(position=moves[-1][0] if moves else after, moves=moves)

    def heed(self, tell: Callable[[str], None], *, due: bool = False) -> bool:  # noqa: ARG002
        """Return False: nobody tells what another process has written."""
        return False

    def last_owner(self, job_id: str) -> str | None:
        return self._owners.get(job_id)

    def confirm(self, job_id: str) -> Job:
        return self.get(job_id)

    def update(self, job_id: str, change: Change) -> Job:
        with self._lock:
            job = self.get(job_id)
            after = change(job)
            if after is not job:
                self._records[job_id] = encode(after)
                self._mark(after)
            return after

    def claim(self, job_id: str, change: Change) -> tuple[Job, Lease | None]:
        with self._lock:
            if job_id in self._leased:
                return self.get(job_id), None
            job = self.update(job_id, change)
            if job.status is not JobStatus.RUNNING:
                return job, None
            self._leased.add(job_id)
            return job, MemoryLease(job, self._leased)

    def evict(self, job_id: str) -> int:  # noqa: ARG002
        """Return 0: there are no processes to end; whoever holds a lease in this process releases it."""
        return 0

    def note(self, lease: Lease, job: Job) -> None:
        with self._lock:
            shown = self.get(job.id)
            self._overlays[job.id] = Overlay.of(shown, lease.job.attempt, job).encode()

    def page(self, query: JobQuery) -> Page:
        ids = (job_id for job_id in self.walk() if query.before is None or job_id < query.before)
        return Page.collect(query, ids, self.get)

    def pending(self) -> list[str]:
        with self._lock:
            return sorted(self._pending)

    def active(self, owner: str) -> int:
        jobs = map(self._readable, self.walk())
        return sum(job is not None and job.owner == owner and not job.done for job in jobs)

    def undelivered(self) -> list[str]:
        return self._those(is_open)

    def dead_letters(self) -> list[str]:
        return self._those(has_dead)

    def owner_hint(self, job_id: str) -> str:
        return self._owners.get(job_id) or ""

    def settle(self, job_id: str) -> bool:
        with self._lock:
            try:
                self._mark(self.get(job_id))
            except NotFound:
                return False
            except RecordCorrupt:
                self.set_aside(job_id)
            return True

    def set_aside(self, job_id: str) -> None:
        with self._lock:
            self._quarantine.add(job_id)
            self._pending.discard(job_id)

    def restore(self, job_id: str) -> bool:
        with self._lock:
            job = self._readable(job_id)
            if job is None:
                return False
            astray = job_id in self._quarantine or job.done == (job_id in self._pending)
            self._quarantine.discard(job_id)
            self._mark(job)
            return astray

    def is_deleted(self, job_id: str) -> bool:
        return job_id in self._deleted

    def delete(self, job_id: str, check: Callable[[Job], None], *, tombstone: bool = False) -> None:
        with self._lock:
            try:
                check(self.get(job_id))
            except RecordCorrupt:
                tombstone = False
            self._pending.add(job_id)
            self._deleted.add(job_id)
            del self._records[job_id]
            self._seen.pop(job_id, None)
            self._overlays.pop(job_id, None)
            self._quarantine.discard(job_id)
            if tombstone:
                self._gone[job_id] = self._clock()
            else:
                del self._owners[job_id]

    def forget(self, job_id: str) -> None:
        with self._lock:
            self._deleted.discard(job_id)
            self._pending.discard(job_id)

    @contextmanager
    def hold_key(self, scope: str) -> Iterator[MemoryKey]:
        with self._lock:
            if scope in self._held:
                raise KeyInFlight("An upload with this Idempotency-Key is being received.", retry_after=1)
            self._held.add(scope)
        try:
            job_id = self._keys.get(scope, ("", None))[0]
            yield MemoryKey(known=job_id if job_id in self._records else None, bind=lambda new: self._bind(scope, new))
        finally:
            with self._lock:
                self._held.discard(scope)

    def lead(self) -> Lead | None:
        with self._lock:
            if self.is_led():
                return None
            self._lead = MemoryLead()
            return self._lead

    def is_led(self) -> bool:
        return self._lead is not None and self._lead.is_held()

    def expired(self, now: datetime, limit: int) -> list[str]:
        found = []
        for job_id in self.walk():
            job = self._readable(job_id)
            if job is not None and job.expires_at is not None and job.expires_at <= now:
                found.append((job.expires_at, job_id))
        return [job_id for _, job_id in sorted(found)[:limit]]

    def sweep(self, now: datetime) -> int:
        with self._lock:
            keys = [
                scope
                for scope, (job_id, bound_at) in self._keys.items()
                if bound_at < now - self._key_ttl and job_id not in self._pending and scope not in self._held
            ]
            gone = [job_id for job_id, at in self._gone.items() if at < now - self._gone_for]
            for scope in keys:
                del self._keys[scope]
            for job_id in gone:
                del self._gone[job_id], self._owners[job_id]
        return len(keys) + len(gone)

    def figures(self, now: datetime) -> Figures:
        with self._lock:
            in_progress, oldest = count_in_progress(self.get, self.pending(), now)
            return Figures(
                in_progress=in_progress,
                oldest_due=oldest,
                quarantined=len(self._quarantine),
                undelivered=len(self.undelivered()),
                dead_letters=len(self.dead_letters()),
                sums=self._tallies.read(),
            )

    def quarantined(self) -> Iterator[str]:
        yield from sorted(self._quarantine)

    def walk(self) -> Iterator[str]:
        with self._lock:
            return iter(sorted(self._records, reverse=True))

    def where(self, job_id: str) -> str:
        return f"memory, under {job_id}"

    def close(self) -> None:
        """Do nothing: the records are there for as long as the store is."""

    def damage(self, job_id: str, record: bytes = b"") -> None:
        """Put ``record`` in place of a job's record, as a failing disk would: for tests of what happens then."""
        with self._lock:
            self._records[job_id] = record

    def _mark(self, job: Job) -> None:
        told = self._told.get(job.id, 0)
        self._journal.extend((job.id, move.version) for move in job.history if move.version > told)
        self._told[job.id] = max(told, job.history[-1].version)
        self._seen[job.id] = learn(job, self._seen.get(job.id, Seen()), self._tallies)
        if job.done:
            self._pending.discard(job.id)
        else:
            self._pending.add(job.id)

    def _bind(self, scope: str, job_id: str) -> None:
        with self._lock:
            self._keys[scope] = (job_id, self._clock())

    def _those(self, are: Callable[[Job], bool]) -> list[str]:
        return sorted(job.id for job in map(self._readable, self.walk()) if job is not None and are(job))

    def _readable(self, job_id: str) -> Job | None:
        try:
            return self.get(job_id)
        except (NotFound, RecordCorrupt):
            return None
