"""Housekeeping: what has expired goes, what a crash left is swept, and what is wrong is found and named."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Final

import structlog

from service.deletion import Deleting
from service.durable import locked
from service.errors import Conflict, IntakeError, NotFound
from service.jobs.model import Job
from service.jobs.notices import is_open
from service.jobs.store import JobStore
from service.storage.base import Storage, StorageUnreachable

if TYPE_CHECKING:
    from service.wiring import Services

log = structlog.get_logger(__name__)
_AGAIN: Final = 0.5  #: seconds between two tries to be the one that collects
_BATCH: Final = 64  #: expired jobs at a time: nobody waits long for one of them, nor for the disk beside them


@dataclass(frozen=True, kw_only=True)
class Collected:
    """What a collection removed, or would remove."""

    expired: int  #: jobs
    swept: int  #: leftovers of crashed uploads, old keys and tombstones
    bytes: int  #: freed on disk


def collect(
    services: Services,
    *,
    now: datetime | None = None,
    dry_run: bool = False,
    stopped: Callable[[], bool] = lambda: False,
) -> Collected:
    """Delete what has expired by ``now`` and sweep leftovers, until ``stopped``; with ``dry_run`` only count the expired.

    One process of a machine does so at a time: of two that look at the same jobs, one would find each of them gone.
    """
    now = now or services.clock()
    if dry_run:
        return Collected(expired=sum(1 for _ in _expired(services.store, now)), swept=0, bytes=0)
    while not stopped():
        try:
            with locked(services.collecting, wait=False) if services.collecting else nullcontext():
                return _collect(services, now, stopped)
        except BlockingIOError:
            time.sleep(_AGAIN)
    return Collected(expired=0, swept=0, bytes=0)


def _collect(services: Services, now: datetime, stopped: Callable[[], bool]) -> Collected:
    store, storage = services.store, services.storage
    for job_id in list(store.quarantined()):
        store.restore(job_id)  # somebody has mended it, or this version reads what an older one could not
    expired = delete_expired(store, services.delete_all, now, stopped)
    swept = sweep_uploads(store, storage) + store.sweep(now)
    return Collected(expired=expired, swept=swept, bytes=storage.sweep(now))


def delete_expired(
    store: JobStore, delete_all: Deleting, now: datetime, stopped: Callable[[], bool] = lambda: False
) -> int:
    """Delete the jobs whose time has come, until ``stopped``, leaving tombstones; return how many."""

    def check(job: Job) -> None:
        if not job.done or job.expires_at is None or job.expires_at > now:
            raise Conflict("The job has not expired.")
        if is_open(job):  # at most for the days that are tried
            raise Conflict("Something of the job is still to be sent.")

    count, kept = 0, set[str]()
    while not stopped() and (
        batch := sorted(job_id for job_id in store.expired(now, _BATCH + len(kept)) if job_id not in kept)
    ):
        for job_id, error in zip(batch, delete_all(batch, check), strict=True):
            if error is None:
                count += 1
                continue
            kept.add(job_id)
            if isinstance(error, Conflict | NotFound):
                store.settle(job_id)  # its row was stale, or it has something to send
            elif isinstance(error, IntakeError | OSError):
                log.error("an expired job cannot be deleted", job_id=job_id, error=str(error))
            else:
                raise error
    return count


def sweep_uploads(store: JobStore, storage: Storage) -> int:
    """Remove what uploads left whose process died before their record was committed; return how many."""
    swept = 0
    for job_id in list(storage.leftovers()):
        try:
            swept += sweep_job(store, storage, job_id)
        except OSError as error:
            log.error("a leftover cannot be removed", job_id=job_id, error=str(error))
    return swept


def sweep_job(store: JobStore, storage: Storage, job_id: str, *, settled: bool = False) -> bool:
    """Remove the bytes of a job that has no record and whose upload is not alive; return whether there was something.

    With ``settled`` there is a record, and all that follows from it was done a moment ago.
    """
    if storage.is_receiving(job_id):
        return False
    if settled or store.settle(job_id):  # looked at after the upload has ended: nothing can commit it any more
        storage.tidy(job_id)
        return False
    if storage.is_closed(job_id) and not store.is_deleted(job_id):
        log.error("the record of an accepted file is lost; the job is set aside and its file kept", job_id=job_id)
        store.set_aside(job_id)
        return False
    log.info("a crashed upload is swept", job_id=job_id)
    storage.delete(job_id)
    store.forget(job_id)
    return True


def tidy_up(store: JobStore, storage: Storage, job_id: str, *, settled: bool = False) -> None:
    """Do the same after a look at a job that has ended; where the storage does not answer, housekeeping does it later."""
    try:
        sweep_job(store, storage, job_id, settled=settled)
    except StorageUnreachable as error:
        log.warning("what is left of an upload cannot be looked for", job_id=job_id, error=str(error))


def _expired(store: JobStore, now: datetime) -> Iterator[str]:
    for job_id in store.expired(now, 10**9):
        try:
            job = store.get(job_id)
        except IntakeError:
            continue
        if job.expires_at and job.expires_at <= now:
            yield job_id
