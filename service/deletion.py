"""Deleting jobs: the record, which is the commit point, then the bytes, then the marker. Each by itself, or many together.

Both ways keep the order. Together, many wait for the disk three times, where each would have waited for three syncs of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Protocol

from service.jobs.model import Job
from service.jobs.store import JobStore
from service.joint import Joint, JointStorage, JointStore, Outcomes
from service.storage.base import Storage

Check = Callable[[Job], None]
_AT_ONCE: Final = 8  #: jobs that are deleted apart: each waits for servers much longer than it works


class Deleting(Protocol):
    """A way to delete expired jobs."""

    def __call__(self, job_ids: Sequence[str], check: Check) -> Sequence[Exception | None]:
        """Delete those of these jobs, sorted by their ids, for which ``check`` does not raise, and leave tombstones.

        Return for each what went wrong.
        """


def delete_job(store: JobStore, storage: Storage, job_id: str, check: Check, *, tombstone: bool = False) -> None:
    """Delete record and bytes of a job if ``check`` does not raise."""
    store.delete(job_id, check, tombstone=tombstone)
    storage.delete(job_id)
    store.forget(job_id)


def delete_apart(store: JobStore, storage: Storage, job_ids: Sequence[str], check: Check) -> list[Exception | None]:
    """Delete each by itself, some at a time, with any store and any storage: as ``Deleting``."""

    def delete(job_id: str) -> Exception | None:
        try:
            delete_job(store, storage, job_id, check, tombstone=True)
        except Exception as error:  # noqa: BLE001 - it is told to whoever has asked
            return error
        return None

    with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="delete") as threads:
        return list(threads.map(delete, job_ids))


def delete_together(
    store: JointStore, storage: JointStorage, job_ids: Sequence[str], check: Check
) -> list[Exception | None]:
    """Delete all of them as one, where bytes and records are files on one disk: as ``Deleting``."""
    left = Outcomes(job_ids)
    with Joint.of(storage.disk, storage.root, len(job_ids)) as joint:
        left.all(lambda: left.take(store.delete_all(list(left), check, joint, tombstone=True)))
        left.all(lambda: left.take(storage.delete_all(list(left), joint)))
    left.each(store.forget)
    return left.errors
