"""Looking at jobs that were looked at a moment ago, as those do who poll: many at once, and no record is read again unchanged."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Sequence
from typing import Any, Final

from service.batch import Batch
from service.jobs.model import Job
from service.jobs.store import JobStore

_REMEMBERED: Final = 256  #: jobs; each may take some tens of KiB


class _Look:
    """One look at a job, and what was seen."""

    def __init__(self, job_id: str) -> None:
        self.job_id = job_id
        self.job: Job | None = None


class Looks:
    """Gets jobs from a store, as its ``get`` would at the same moment.

    Those that are polled are compared with what was seen last, all that wait together in one thread; a job that nobody has looked
    at lately is read in a thread of its own, as its record may have to come from the disk.
    """

    def __init__(self, store: JobStore, in_thread: Callable[..., Any]) -> None:
        self._store = store
        self._in_thread = in_thread
        self._seen: OrderedDict[str, tuple[Hashable, Job]] = OrderedDict()  # with the mark of before it was read
        self._batch: Batch[_Look] = Batch(self._look, name="look")

    async def get(self, job_id: str) -> Job:
        """Return a job. Raises what the store's ``get`` raises."""
        look = _Look(job_id)
        if job_id in self._seen:
            await self._batch.do(look)
        else:
            (error,) = await self._in_thread(self._look, [look])
            if error is not None:
                raise error
        assert look.job is not None, "a look without an error has seen a job"
        return look.job

    def _look(self, looks: Sequence[_Look]) -> list[Exception | None]:
        errors: list[Exception | None] = []
        marks = self._store.marks({look.job_id for look in looks})
        for look in looks:
            try:
                look.job = self._job(look.job_id, marks[look.job_id])
            except Exception as error:  # noqa: BLE001 - it is told to whom it belongs
                self._seen.pop(look.job_id, None)
                errors.append(error)
            else:
                errors.append(None)
        return errors

    def _job(self, job_id: str, mark: Hashable) -> Job:
        seen = self._seen.get(job_id)
        if seen is not None and seen[0] == mark:
            return seen[1]
        job = self._store.get(job_id)
        self._seen[job_id] = (mark, job)
        if len(self._seen) > _REMEMBERED:
            self._seen.popitem(last=False)
        return job
