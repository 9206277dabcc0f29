"""The commit of an upload: its bytes into their place, its key to its job, then the record. By itself, or together with others.

Both ways keep the order, and that none but the record's is the commit. Together, many uploads wait for the disk once, and for one
thread, where each would have waited for several of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, Protocol

import structlog

from service.access.quota import Allowance
from service.batch import Batch
from service.jobs.model import Job
from service.jobs.store import JobStore, KeyHold
from service.joint import Joint, JointStorage, JointStore, Outcomes
from service.storage.base import Upload

log = structlog.get_logger(__name__)
_MOST: Final = 32  #: uploads at once: none waits long for those it is together with


@dataclass(frozen=True, kw_only=True)
class Acceptance:
    """An upload whose bytes have arrived, and the job that it is to be."""

    upload: Any  #: an ``Upload`` after its ``digest``, of the storage it is finished by
    job: Job
    hold: KeyHold | None = None
    allowance: Allowance | None = None

    def charged(self, stack: ExitStack, *, beside: int = 0) -> None:
        """Charge the job for as long as ``stack`` goes on without an error, ``beside`` others of the same token."""
        if self.allowance is not None:
            stack.enter_context(self.allowance.charged(self.job.file.size, beside=beside))

    def bind(self) -> None:
        """Bind the key, if there is one."""
        if self.hold is not None:
            self.hold.bind(self.job.id)


class Accepting(Protocol):
    """A way to commit uploads."""

    async def accept(self, one: Acceptance) -> None:
        """Commit the job; when this returns it survives a power cut.

        Raises OutcomeUnknown when it may be committed; after any other error it is not, and the upload is to be aborted.
        """


class Apart:
    """Commits each upload by itself, with any storage and any store."""

    def __init__(self, store: JobStore, in_thread: Callable[..., Any]) -> None:
        self._store = store
        self._in_thread = in_thread

    async def accept(self, one: Acceptance) -> None:
        """Commit the job."""
        upload: Upload = one.upload
        await upload.finish()
        await self._in_thread(self._commit, one)

    def _commit(self, one: Acceptance) -> None:
        with ExitStack() as stack:
            one.charged(stack)
            one.bind()
            self._store.create(one.job)


class Together:
    """Commits all uploads that wait at a moment as one, where bytes and records are files on one disk."""

    def __init__(self, store: JointStore, storage: JointStorage) -> None:
        self._store = store
        self._storage = storage
        self._batch: Batch[Acceptance] = Batch(self._commit, name="accept", most=_MOST)

    async def accept(self, one: Acceptance) -> None:
        """Commit the job."""
        await one.upload.sync()  # a big one takes its time, and nobody else's
        await self._batch.do(one)

    def close(self) -> None:
        """End the thread that commits."""
        self._batch.close()

    def _commit(self, batch: Sequence[Acceptance]) -> list[Exception | None]:
        left = Outcomes(batch)
        charges = {one.job.id: ExitStack() for one in batch}
        tokens: list[str] = []

        def charge(one: Acceptance) -> None:
            token = one.allowance.token_id if one.allowance else ""
            one.charged(charges[one.job.id], beside=tokens.count(token))
            tokens.append(token)

        with Joint.of(self._storage.disk, self._storage.root, len(batch)) as joint:
            left.each(charge)
            left.all(lambda: left.take(self._storage.place_all([one.upload for one in left], joint)))
            left.each(Acceptance.bind)
            left.all(lambda: left.take(self._store.create_all([one.job for one in left], joint)))
        for one, error in zip(batch, left.errors, strict=True):
            charges[one.job.id].__exit__(type(error) if error else None, error, None)
        left.each(lambda one: one.upload.leave())
        return left.errors
