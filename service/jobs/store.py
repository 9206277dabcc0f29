"""The port to the job records: what every store promises. The record is the truth; every queue and bell is a hint."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple, Protocol

from service.errors import NotFound, RecordCorrupt
from service.figures import Figures
from service.jobs.model import Job, JobStatus

Change = Callable[[Job], Job]


class StoreUnreachable(OSError):
    """The server that keeps the records does not answer. What was asked was not done; later it may be."""


@dataclass(frozen=True, kw_only=True)
class JobQuery:
    """Which jobs a page shows, newest first. Empty members do not filter."""

    owner: str | None = None  #: only jobs of this owner
    statuses: frozenset[JobStatus] = frozenset()
    media_type: str | None = None
    pipeline: str | None = None
    sha256: str | None = None
    labels: dict[str, str] = field(default_factory=dict)
    created_after: datetime | None = None
    created_before: datetime | None = None
    before: str | None = None  #: only jobs whose id sorts before this one: where the last page ended
    limit: int = 50

    def matches(self, job: Job) -> bool:
        """Tell whether ``job`` passes the filters (not the cursor)."""
        return (
            self.owner in (None, job.owner)
            and (not self.statuses or job.status in self.statuses)
            and self.media_type in (None, job.file.media_type)
            and self.pipeline in (None, job.pipeline)
            and self.sha256 in (None, job.file.sha256)
            and all(job.labels.get(key) == value for key, value in self.labels.items())
            and (self.created_after is None or job.created_at >= self.created_after)
            and (self.created_before is None or job.created_at < self.created_before)
        )


@dataclass(frozen=True, kw_only=True)
class Page:
    """Jobs of a query and where the next page begins; ``next`` is None on the last page."""

    jobs: tuple[Job, ...]
    next: str | None

    @classmethod
    def collect(cls, query: JobQuery, ids: Iterable[str], get: Callable[[str], Job]) -> Page:
        """Return the page that the jobs of ``ids``, newest first, make; what cannot be got is left out."""
        jobs: list[Job] = []
        for job_id in ids:
            try:
                job = get(job_id)
            except (NotFound, RecordCorrupt, OSError):
                continue
            if query.matches(job):
                jobs.append(job)
            if len(jobs) > query.limit:
                return cls(jobs=tuple(jobs[:-1]), next=jobs[-2].id)
        return cls(jobs=tuple(jobs), next=None)


class Position(NamedTuple):
    """A place in the journal of changes. Later ones of the same journal have higher numbers."""

    journal: str  #: letters and digits
    number: int

    def __str__(self) -> str:
        return f"{self.journal}-{self.number}"

    @classmethod
    def parse(cls, text: str) -> Position | None:
        """Return the position that is written like this, None when none is."""
        journal, _, number = text.partition("-")
        good = journal.isalnum() and number.isascii() and number.isdecimal() and len(number) < 19
        return cls(journal, int(number)) if good else None


@dataclass(frozen=True, kw_only=True)
class Moves:
    """Changes of the status of jobs: where each stands, whose it is, and the version of the record that showed it first."""

    position: Position  #: where what comes next begins
    moves: tuple[tuple[Position, str, int], ...] = ()
    lost: bool = False  #: what followed the position asked for is not known any more


class Lease(Protocol):
    """The right to run one attempt of a job. The kernel or the server takes it back when its holder dies."""

    job: Job  #: as it was claimed

    def fileno(self) -> int | None:
        """Return a descriptor that keeps the lease for as long as any process has it open; None where there is no such thing."""

    def release(self) -> None:
        """Give the lease up; twice is the same as once."""


class KeyHold(Protocol):
    """An Idempotency-Key while its request is received; nobody else can hold it."""

    known: str | None  #: id of the job this key already belongs to

    def bind(self, job_id: str) -> None:
        """Let the key belong to this job as soon as its record is committed; durable."""


class Lead(Protocol):
    """The place of the one process that looks after what all share. It is free again when its holder dies."""

    def is_held(self) -> bool:
        """Tell whether the place is still this process's, as far as it knows. Cheap, never raises."""

    def release(self) -> None:
        """Give the place up; twice is the same as once."""


class JobStore(Protocol):
    """Records of jobs. All methods block, and are safe to call from many threads and processes at once."""

    def create(self, job: Job) -> None:
        """Commit the record of a new job; when this returns it survives a power cut.

        Raises OSError when nothing was committed, OutcomeUnknown when it may have been.
        """

    def get(self, job_id: str) -> Job:
        """Return the job with the latest progress. Raises NotFound, Gone or RecordCorrupt."""

    def marks(self, job_ids: Iterable[str]) -> dict[str, Hashable]:
        """Return for each id a mark that differs once ``get`` shows something newer. Cheap: thousands within a few milliseconds."""

    def moves(self, after: Position | None, limit: int) -> Moves:
        """Return up to ``limit`` changes of the status of any job after a position, in the order in which they became visible.

        Every process sees the same, each change once, within an instant of its commit. Without a position none: where the end is.
        Cheap. Thousands are remembered; ``lost`` tells that more has happened since, or that the journal has begun anew.
        """

    def heed(self, tell: Callable[[str], None], *, due: bool = False) -> bool:
        """Have ``tell`` called, within a thread of the store, with the id of each job that any process changes.

        With ``due``, of each that can be run from now on. Calls may be lost or doubled; ``tell`` must be quick. False means that
        this store cannot tell news: whoever wants to know looks at ``marks`` or ``pending`` again and again.
        """

    def last_owner(self, job_id: str) -> str | None:
        """Return whose job it was that ``get`` calls gone or corrupt; None when that is not remembered."""

    def confirm(self, job_id: str) -> Job:
        """Return the job once its record is sure to survive a power cut, also if the process that wrote it died before."""

    def update(self, job_id: str, change: Change) -> Job:
        """Apply ``change`` to the job, as ``get`` shows it, under its lock and commit the result durably; return it.

        What ``change`` raises is raised and nothing is written; a change that returns its argument writes nothing.
        """

    def claim(self, job_id: str, change: Change) -> tuple[Job, Lease | None]:
        """Take the lease and apply ``change``; no lease when somebody holds it or the result is not running."""

    def evict(self, job_id: str) -> int:
        """Kill what attempts of this job have left running on this machine; return how many processes that were.

        An attempt that is followed by a process that lives is not left: it goes on, unless that process is this one.
        """

    def note(self, lease: Lease, job: Job) -> None:
        """Show the steps and file of ``job`` as the progress of the leased attempt; atomic, never synced, may be lost."""

    def page(self, query: JobQuery) -> Page:
        """Return the newest jobs that match. Corrupt records are left out."""

    def pending(self) -> list[str]:
        """Return the ids of all jobs that may not be done, oldest first. Some may be done, or have no record at all."""

    def active(self, owner: str) -> int:
        """Return how many jobs of this owner are queued or running, as far as the rows of lists are complete."""

    def owner_hint(self, job_id: str) -> str:
        """Return whose job a pending id is, without its record; empty for nobody's, and where that was lost. Never raises."""

    def undelivered(self) -> list[str]:
        """Return the ids of all jobs of which something may be waiting to be sent, oldest first. Some may have no record.

        A job is among them from before ``update`` returns with such a notice, through any crash, until nothing waits.
        """

    def dead_letters(self) -> list[str]:
        """Return the ids of all jobs of which something was given up and not replayed since, oldest first."""

    def settle(self, job_id: str) -> bool:
        """Drop an id from ``pending`` if its job is done; return whether there is a record. A corrupt one is set aside."""

    def set_aside(self, job_id: str) -> None:
        """Take a job whose record is lost or cannot be read out of ``pending``, until somebody looks at it or ``restore`` does."""

    def restore(self, job_id: str) -> bool:
        """Put a readable job where it belongs, in or out of ``pending`` and ``quarantined``; tell whether it was elsewhere."""

    def is_deleted(self, job_id: str) -> bool:
        """Tell whether a delete of this job has removed its record and may not have got further."""

    def delete(self, job_id: str, check: Callable[[Job], None], *, tombstone: bool = False) -> None:
        """Remove the record if ``check`` does not raise; with a tombstone ``get`` raises Gone for a while. Durable.

        Raises OutcomeUnknown when it may have been removed. A corrupt record is removed unchecked.
        The id stays pending until ``forget``, so that bytes left behind by a crash are found.
        """

    def forget(self, job_id: str) -> None:
        """Drop an id without a record from ``pending``, and from where deliveries are remembered: its bytes are gone."""

    def hold_key(self, scope: str) -> AbstractContextManager[KeyHold]:
        """Hold the Idempotency-Key ``scope``. Raises KeyInFlight while somebody else does."""

    def lead(self) -> Lead | None:
        """Take the lead of all processes that share these records; None while another has it, on whatever machine."""

    def is_led(self) -> bool:
        """Tell whether some process has the lead."""

    def expired(self, now: datetime, limit: int) -> list[str]:
        """Return ids of finished jobs whose ``expires_at`` has passed, oldest first."""

    def sweep(self, now: datetime) -> int:
        """Drop old keys and tombstones; return how many."""

    def figures(self, now: datetime) -> Figures:
        """Return what there is to know of the jobs as a whole, at a price that does not grow with those that have ended.

        Every process sees the same. What has been counted of jobs that were deleted since stays counted.
        """

    def quarantined(self) -> Iterator[str]:
        """Return the ids whose records were found corrupt."""

    def walk(self) -> Iterator[str]:
        """Yield the ids of all jobs, newest first, from the records themselves. Some may have no record yet, or no more."""

    def where(self, job_id: str) -> str:
        """Say where the record of a job is kept, for the person who looks after it."""

    def close(self) -> None:
        """Let go of what the store holds open. Its records stay, and so do leases and keys until they are released."""
