"""The reconciler: compares the records with what a broker was told, and tells it again where a message is missing.

The record is the truth and a message a hint, so whatever a broker loses is found here: jobs that were never told of, jobs whose
wait for a retry is over, jobs whose runner died. One process of a deployment does it; what it knows is found again in the records.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Hashable
from contextlib import suppress
from dataclasses import dataclass

import structlog

from service.clock import Clock
from service.engines.dispatch import BrokerAway
from service.errors import IntakeError, NotFound
from service.jobs.model import Job, JobStatus
from service.jobs.notices import is_open
from service.jobs.store import JobStore
from service.maintenance import sweep_job
from service.storage.base import Storage

log = structlog.get_logger(__name__)


@dataclass
class _Seen:
    """A job that is not done, as it was seen last."""

    mark: Hashable = None
    job: Job | None = None
    told_at: float = -math.inf  #: when the broker was told of it, as far as is known; of the monotonic clock


class Reconciler:
    """Looks at all jobs that are not done. ``round`` belongs to one thread.

    ``publish`` tells the broker of a job, ``waiting`` counts the messages that wait there; both raise BrokerAway. ``judge`` ends
    the attempt of a running job whose runner is gone, and returns the job. ``told`` hears of ended jobs with something to send.
    ``patience`` is how long a message may take to reach a worker until it may be missed, in seconds.
    """

    def __init__(
        self,
        *,
        store: JobStore,
        storage: Storage,
        publish: Callable[[Job], None],
        waiting: Callable[[], int],
        judge: Callable[[str], Job | None],
        clock: Clock,
        told: Callable[[str], object] = lambda _: None,
        patience: float,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._storage = storage
        self._publish = publish
        self._waiting = waiting
        self._judge = judge
        self._clock = clock
        self._told = told
        self._patience = patience
        self._now = monotonic
        self._known: dict[str, _Seen] = {}
        self._away = False

    def round(self) -> None:
        """Look once: what has changed is read, what runs is judged, what is missing is published. Raises OSError."""
        ids = self._store.pending()
        marks = self._store.marks(ids)
        for job_id in self._known.keys() - marks.keys():
            del self._known[job_id]
        for job_id in ids:
            seen = self._known.get(job_id)
            is_new = seen is None or seen.mark != marks[job_id]
            if is_new or (seen and seen.job and seen.job.status is JobStatus.RUNNING):
                self._look(job_id, marks[job_id])
        self._tell()

    def _look(self, job_id: str, mark: Hashable) -> None:
        before = self._known.get(job_id)
        seen = self._known[job_id] = before or _Seen(
            told_at=self._now()
        )  # whoever made it due has told of it, most likely
        try:
            job = self._store.get(job_id)
            if job.status is JobStatus.RUNNING:
                job = self._judge(job_id) or job
                if job.status is JobStatus.QUEUED:
                    seen.told_at = -math.inf
            if job.done:
                if is_open(job):
                    self._told(job_id)
                sweep_job(self._store, self._storage, job_id)
        except NotFound:
            seen.job = None
            sweep_job(self._store, self._storage, job_id)
            return
        except IntakeError as error:  # a corrupt record is set aside
            log.warning("a job cannot be looked at", job_id=job_id, error=error.detail)
            with suppress(IntakeError):
                self._store.settle(job_id)
            return
        if (
            before
            and before.job
            and job.attempt
            and job.status is JobStatus.QUEUED
            and job.version != before.job.version
        ):
            seen.told_at = -math.inf  # its attempt has ended, and nobody else tells that it is to be tried again
        seen.mark, seen.job = mark, job

    def _tell(self) -> None:
        """Publish what nobody was told of, and of what was told long ago as many as messages are missing, the oldest first."""
        now = self._clock()
        due = [
            seen
            for seen in self._known.values()
            if seen.job and seen.job.status is JobStatus.QUEUED and seen.job.is_due(now)
        ]
        overdue = sorted(
            (one for one in due if self._now() - one.told_at >= self._patience), key=lambda one: one.told_at
        )
        if not overdue:
            return
        try:
            missing = len(due) - self._waiting()
            again = [one for one in overdue if one.told_at == -math.inf or missing > 0]
            for seen in again:
                if seen.told_at != -math.inf and missing <= 0:
                    break
                assert seen.job is not None, "it is due"
                self._publish(seen.job)
                missing -= 1
                seen.told_at = self._now()
        except BrokerAway as error:
            if not self._away:
                log.warning("the broker does not answer; jobs wait for it", due=len(due), error=str(error))
            self._away = True
            return
        self._away = False
