"""What somebody holds of the records in memory: the lease of an attempt, the lead, an Idempotency-Key."""

from __future__ import annotations

from collections.abc import Callable

from service.jobs.model import Job


class MemoryLease:
    """The right to run one attempt, until it is released."""

    def __init__(self, job: Job, leased: set[str]) -> None:
        self.job = job
        self._leased: set[str] | None = leased

    def fileno(self) -> int | None:
        """Return None: no other process can keep this."""
        return None

    def release(self) -> None:
        """Give the lease up."""
        if self._leased is not None:
            leased, self._leased = self._leased, None
            leased.discard(self.job.id)


class MemoryLead:
    """The lead, until it is released."""

    def __init__(self) -> None:
        self._held = True

    def is_held(self) -> bool:
        """Tell whether it was not released."""
        return self._held

    def release(self) -> None:
        """Give it up."""
        self._held = False


class MemoryKey:
    """A held Idempotency-Key."""

    def __init__(self, *, known: str | None, bind: Callable[[str], None]) -> None:
        self.known = known
        self.bind = bind
