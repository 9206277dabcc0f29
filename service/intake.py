"""The front use case: admit, receive, get, page, cancel, retry, delete. No HTTP, and nothing here waits for a processor."""

from __future__ import annotations

import asyncio
import copy
import hashlib
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Final, Self, TypeVar

import anyio
from anyio import CapacityLimiter

from service.acceptance import Apart
from service.access.model import ANYBODY, Principal
from service.access.quota import Allowance, Quota
from service.blob import Blob, artifact_of, source_of
from service.deletion import delete_job
from service.errors import Conflict, Gone, NotFound, PreconditionFailed, QueueFull, RecordCorrupt, StorageFull
from service.jobs.model import Job, JobStatus
from service.jobs.refusals import no_such_job
from service.jobs.store import JobQuery, KeyHold, Page
from service.looks import Looks
from service.notify.wishes import not_by_link
from service.reception import Reception, too_large
from service.watch import Watch
from service.wiring import Services

T = TypeVar("T")
_COUNT_EVERY: Final = 0.5  #: seconds for which the length of the queue is remembered, at least
_COUNT_SHARE: Final = 20  #: times as long as it takes to count a long one
_THREADS: Final = (
    16  #: for records, and as many for bytes, so that nothing else waits for them, nor they for anything else
)


@dataclass
class _Queue:
    """How many jobs wait, as it was counted last."""

    count_at: float = -1.0  #: when it is to be counted again
    waiting: int = 0


class Intake:
    """The use cases over one set of parts. Async at this edge; stores and storages block in threads of their own.

    They are those of one principal, anybody's unless ``of`` says whose: jobs of others are not there, in every method.
    """

    def __init__(self, services: Services) -> None:
        self.services = services
        self._by = ANYBODY
        self._limiter, self._of_bytes = CapacityLimiter(_THREADS), CapacityLimiter(_THREADS)
        self.watch = Watch(
            services.store,
            self._in_thread,
            waiters=services.settings.max_waiters,
            streams=services.settings.max_streams,
        )
        self._looks = Looks(services.store, self._in_thread)
        self._queue = _Queue()
        self._accepting = services.together or Apart(services.store, self._in_thread)

    def of(self, principal: Principal) -> Self:
        """Return the same as it is for this principal."""
        intake = copy.copy(self)
        intake._by = principal  # noqa: SLF001 - of a copy of itself
        return intake

    @property
    def by(self) -> Principal:
        """Whose use cases these are."""
        return self._by

    async def admit(self, size: int | None) -> None:
        """Judge an upload of ``size`` bytes, as declared, before its first one.

        Raises TooLarge, TooMany, QueueFull or StorageFull.
        """
        settings = self.services.settings
        if size is not None and size > settings.max_upload:
            raise too_large(settings.max_upload, size)
        if allowance := self._allowance():
            await self._in_thread(allowance.require, size or 0)
        if await self._queue_length() >= settings.queue_limit:
            raise QueueFull(
                f"{settings.queue_limit} jobs are waiting or running.",
                hint="Try again when some are done.",
                retry_after=10,
            )
        if self.services.storage.free() < (size or 0):
            raise StorageFull(
                "There is not enough free space for this file.",
                hint="Try again later; the operator can free space.",
                retry_after=60,
            )

    @asynccontextmanager
    async def receiving(
        self,
        *,
        key: str | None = None,
        request_id: str | None = None,
        max_size: int | None = None,
        by_link: bool = False,
    ) -> AsyncIterator[Reception]:
        """Receive one upload, under its Idempotency-Key if it has one. Whoever has but a link cannot say who is told of its end.

        Whatever happens inside, an upload that was not finished leaves nothing behind. Raises KeyInFlight.
        """
        owner = self._by.id or "anonymous"
        scope = hashlib.sha256(f"{owner}\nupload\n{key}".encode()).hexdigest() if key is not None else None
        settings, wishes = self.services.settings, self.services.wishes
        async with self._held(scope) as hold:
            known = await self._known(hold.known) if hold and hold.known else None
            reception = Reception(
                store=self.services.store,
                storage=self.services.storage,
                accepting=self._accepting,
                catalogue=self.services.catalogue,
                in_thread=self._in_thread,
                clock=self.services.clock,
                max_upload=settings.max_upload if max_size is None else min(max_size, settings.max_upload),
                max_attempts=settings.max_attempts,
                owner=self._by.id,
                allowance=self._allowance(),
                request_id=request_id,
                key=scope,
                hold=hold,
                known=known,
                callback=not_by_link if by_link else partial(wishes.callback, owner=self._by.id),
                email=not_by_link if by_link else wishes.email,
            )
            try:
                yield reception
            finally:
                with anyio.CancelScope(shield=True):
                    await reception.abort()

    @asynccontextmanager
    async def _held(self, scope: str | None) -> AsyncIterator[KeyHold | None]:
        if scope is None:
            yield None
            return
        held = self.services.store.hold_key(scope)
        hold = await self._in_thread(held.__enter__)
        try:
            yield hold
        finally:
            with anyio.CancelScope(shield=True):
                await self._in_thread(held.__exit__, None, None, None)

    def _allowance(self) -> Allowance | None:
        token = self._by.token
        if token is None or not (quota := Quota.of(token, self.services.settings)):
            return None
        services = self.services
        return Allowance(token.id, quota, usage=services.usage, active=services.store.active, clock=services.clock)

    async def quota(self) -> dict[str, Any] | None:
        """Return what the quotas are of whoever asks, and what is used of them; None for no quota."""
        allowance = self._allowance()
        return await self._in_thread(allowance.told) if allowance else None

    async def _known(self, job_id: str) -> Job | None:
        try:
            return await self.get(job_id)
        except NotFound:  # deleted since the key was taken
            return None

    async def get(self, job_id: str) -> Job:
        """Return a job. Raises NotFound, Gone or RecordCorrupt."""
        try:
            job = await self._looks.get(job_id)
        except (Gone, RecordCorrupt):
            await self._in_thread(self._require_lost, job_id)
            raise
        self._require(job)
        return job

    def _seen(self, job_id: str) -> Job:
        try:
            job = self.services.store.get(job_id)
        except (Gone, RecordCorrupt):
            self._require_lost(job_id)
            raise
        self._require(job)
        return job

    def _require(self, job: Job) -> None:
        if not self._by.sees(job.owner):
            raise no_such_job(job.id)

    def _require_lost(self, job_id: str) -> None:
        if not self._by.sees(self.services.store.last_owner(job_id)):
            raise no_such_job(job_id)

    def _update(self, job_id: str, change: Callable[[Job], Job]) -> Job:
        self._seen(job_id)  # before anything is told; an owner never changes
        return self.services.store.update(job_id, change)

    def _delete(self, job_id: str, check: Callable[[Job], None]) -> None:
        with suppress(RecordCorrupt):  # it can be deleted all the same
            self._seen(job_id)
        delete_job(self.services.store, self.services.storage, job_id, check)

    async def wait(self, job_id: str, until: Callable[[Job], bool], seconds: float) -> tuple[Job, bool]:
        """Return the job as soon as ``until`` holds, or as it is after ``seconds``; False when there was no place to wait."""
        job = await self.get(job_id)
        if until(job) or seconds <= 0:
            return job, True
        with self.watch.waiters.take() as taken, suppress(TimeoutError):
            if not taken:
                return job, False
            with self.watch.follow(job) as follower:
                async with asyncio.timeout(seconds):
                    while not until(follower.job) and await follower.next():
                        pass
        return follower.job, True

    async def page(self, query: JobQuery) -> Page:
        """Return a page of jobs, newest first."""
        return await self._in_thread(self.services.store.page, replace(query, owner=self._by.only))

    async def cancel(self, job_id: str, *, tags: frozenset[str] | None = None) -> Job:
        """Cancel a queued job at once, or have a running one ended. Raises Conflict when it has ended otherwise."""
        now = self.services.clock()

        def change(job: Job) -> Job:
            _require(job, tags)
            if job.status in (JobStatus.SUCCEEDED, JobStatus.FAILED):
                raise Conflict(
                    f"The job has {job.status} already.",
                    code="job-already-done",
                    hint="Only queued and running jobs can be canceled.",
                    job_status=str(job.status),
                )
            after = job.canceled(now)
            return job if after is job else self.services.ending(after)

        return await self._in_thread(self._update, job_id, change)

    async def retry(self, job_id: str, *, tags: frozenset[str] | None = None) -> Job:
        """Queue a failed or canceled job again, from its first step that has not succeeded. Raises Conflict otherwise."""
        now = self.services.clock()

        def change(job: Job) -> Job:
            _require(job, tags)
            if job.status not in (JobStatus.FAILED, JobStatus.CANCELED):
                raise Conflict(
                    f"The job is {job.status}.",
                    code="job-not-failed",
                    hint="Only failed and canceled jobs can be retried.",
                    job_status=str(job.status),
                )
            return job.retried(self.services.settings.max_attempts, now)

        return await self._in_thread(self._update, job_id, change)

    async def delete(self, job_id: str, *, tags: frozenset[str] | None = None) -> None:
        """Delete a job that is done, record and bytes. Raises Conflict while it is not."""

        def check(job: Job) -> None:
            _require(job, tags)
            if not job.done:
                raise Conflict(
                    f"The job is {job.status}.",
                    code="job-not-done",
                    hint="Cancel it first, or wait until it is done.",
                    job_status=str(job.status),
                )

        await self._with_bytes(self._delete, job_id, check)

    async def source(self, job_id: str) -> Blob:
        """Return the file as it arrived. Raises NotFound when it is lost."""
        return await self._with_bytes(source_of, await self.get(job_id), self.services.storage)

    async def artifact(self, job_id: str, step: str, name: str) -> Blob:
        """Return a file that a step made. Raises NotFound when the job has no such artifact (yet), and when it is lost."""
        return await self._with_bytes(artifact_of, await self.get(job_id), step, name, self.services.storage)

    async def _queue_length(self) -> int:
        now, queue = time.monotonic(), self._queue
        if now > queue.count_at:
            queue.count_at = now + _COUNT_EVERY  # the others do not wait for it
            queue.waiting = len(await self._in_thread(self.services.store.pending))
            took = time.monotonic() - now
            queue.count_at = now + max(_COUNT_EVERY, _COUNT_SHARE * took)
        else:
            queue.waiting += 1  # taken since the count, at worst
        return queue.waiting

    async def _in_thread(self, function: Callable[..., T], *arguments: Any) -> T:
        return await anyio.to_thread.run_sync(partial(function, *arguments), limiter=self._limiter)

    async def _with_bytes(self, function: Callable[..., T], *arguments: Any) -> T:
        return await anyio.to_thread.run_sync(partial(function, *arguments), limiter=self._of_bytes)


def _require(job: Job, tags: frozenset[str] | None) -> None:
    if tags is not None and job.tag not in tags:
        raise PreconditionFailed(
            f"The job has changed; its version is {job.version} now.", hint="Look at it again, then decide."
        )
