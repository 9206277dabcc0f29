"""The port to the ways of telling somebody, and the one rule of whom the end of a job is told to."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Protocol

from service.clock import Clock
from service.jobs.model import Job
from service.jobs.notices import Delivery, Notice, Subscriber, announced
from service.jobs.status import EVENTS, JobStatus

#: The events that can be told of.
END_EVENTS: Final = tuple(EVENTS[status] for status in (JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED))


@dataclass(frozen=True, kw_only=True)
class Letter:
    """What is sent once: a notice to one subscriber."""

    notice: Notice
    delivery: Delivery
    job: dict[str, Any]  #: the job's document at the event, with links
    owner: str | None  #: of the job
    at: datetime  #: the moment of this try


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one try."""

    ok: bool
    detail: str  #: for people, without secrets
    status: int | None = None  #: what the other side answered, if it did
    retry_after: float | None = None  #: seconds that it asked for
    final: bool = False  #: no further try can do better


class Sender(Protocol):
    """One way of telling. ``send`` ends within a bounded time and raises nothing on purpose."""

    async def send(self, letter: Letter) -> Outcome:
        """Try once."""

    async def close(self) -> None:
        """Let go of what is held open."""


class Ending:
    """What every end of a job brings with it, whoever ends it: when it will be deleted, and who is told.

    It is applied within the change that ends the job, so it stands in the record from its commit on, and nowhere else.
    """

    def __init__(
        self, *, retention: timedelta | None, subscribers: Callable[[Job], Iterable[Subscriber]], clock: Clock
    ) -> None:
        self._retention = retention
        self._subscribers = subscribers
        self._clock = clock

    def __call__(self, job: Job) -> Job:
        """Return a job that has just ended with all that follows; one that has not as it is. Raises OSError."""
        if not job.done:
            return job
        return announced(job.expiring(self._retention), self._subscribers(job), self._clock())
