"""What is told of a job's ends, and to whom: members of its record, so that they are exactly as durable as the end itself.

A *notice* is one event of a job; it has one *delivery* for each who is told. Both are written with the record that ends the job,
in its one commit; what becomes of a delivery is written into the record again. Nothing else remembers what is to be sent.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, Literal

from pydantic import Field

from service.jobs.status import EVENTS
from service.jobs.value import Moment, Value

if TYPE_CHECKING:
    from service.jobs.model import Job

_KEPT_TRIES: Final = 12  #: tries that a delivery remembers, the last ones
_KEPT_NOTICES: Final = 5  #: notices that a record remembers once nothing of them waits


class Kind(StrEnum):
    """How somebody is told."""

    WEBHOOK = "webhook"
    EMAIL = "email"


class Subscriber(Value):
    """Somebody who is to be told of an event."""

    to: str = Field(description="Id of the endpoint or of who signs; the address itself for e-mail.")
    kind: Kind
    address: str = Field(description="URL or e-mail address, as it was when the job ended.")


class Try(Value):
    """One try at a delivery."""

    at: Moment
    seconds: float
    status: int | None = Field(
        None, description="What the other side answered, if it did: an HTTP status or SMTP reply."
    )
    detail: str


class Delivery(Subscriber):
    """A notice on its way to one subscriber."""

    state: Literal["waiting", "delivered", "dead"] = "waiting"
    tries: int = 0
    due_at: Moment | None = Field(None, description="When it is tried next; null once nothing is tried any more.")
    log: tuple[Try, ...] = Field((), description="The last tries, oldest first.")

    def tried(self, attempt: Try, state: Literal["waiting", "delivered", "dead"], due_at: datetime | None) -> Delivery:
        """Return the delivery after one more try."""
        log = (*self.log, attempt)[-_KEPT_TRIES:]
        after: Delivery = self.evolve(state=state, tries=self.tries + 1, due_at=due_at, log=log)
        return after

    def replayed(self, now: datetime) -> Delivery:
        """Return the delivery as it is sent once more, with all its tries before it."""
        after: Delivery = self.evolve(state="waiting", tries=0, due_at=now)
        return after


class Notice(Value):
    """One event of a job, and its deliveries."""

    id: str = Field(description="The same in every delivery and at every try: receivers know doubles by it.")
    event: str
    at: Moment
    job: dict[str, Any] | None = Field(
        None, description="The job's document at the event, without links; null while the record still shows it."
    )
    deliveries: tuple[Delivery, ...]

    @property
    def is_open(self) -> bool:
        """Whether anything of it waits to be sent."""
        return any(delivery.state == "waiting" for delivery in self.deliveries)

    def public(self) -> dict[str, Any]:
        """Return what may be shown to whom the job belongs: of standing endpoints their ids, and not where they are."""
        shown = self.model_dump(mode="json", exclude={"job"})
        for delivery in shown["deliveries"]:
            if delivery["to"].startswith(("ep_", "em_")):
                delivery["address"] = None
        return shown

    def change(self, to: str, change: Callable[[Delivery], Delivery]) -> Notice:
        """Return the notice with the delivery to this subscriber changed."""
        after: Notice = self.evolve(deliveries=tuple(change(one) if one.to == to else one for one in self.deliveries))
        return after


def announced(job: Job, subscribers: Iterable[Subscriber], now: datetime) -> Job:
    """Return a job that has ended with the notice of that, if there is anybody to tell."""
    deliveries = tuple(Delivery(**dict(one), due_at=now) for one in subscribers)
    if not deliveries:
        return job
    name = f"msg_{job.id.replace('-', '')}_{job.version}"
    notice = Notice(id=name, event=EVENTS[job.status], at=job.finished_at or now, deliveries=deliveries)
    after: Job = job.evolve(notices=(*job.notices, notice))
    return after


def frozen(notices: tuple[Notice, ...], document: Callable[[], dict[str, Any]]) -> tuple[Notice, ...]:
    """Return the notices of a job that moves on: each keeps the document it tells of. Old ones without open deliveries go."""
    kept = [notice for notice in notices[:-_KEPT_NOTICES] if notice.is_open] + list(notices[-_KEPT_NOTICES:])
    return tuple(one if one.job is not None else one.evolve(job=document()) for one in kept)


def delivering(job: Job, notice_id: str, to: str, change: Callable[[Delivery], Delivery]) -> Job:
    """Return the job with one delivery changed. Its version stays: nothing that its document shows has changed."""
    changed = tuple(one.change(to, change) if one.id == notice_id else one for one in job.notices)
    after: Job = job if changed == job.notices else job.evolve(notices=changed)
    return after


def replayed(job: Job, now: datetime, *, delivered: bool) -> Job:
    """Return the job with all that was given up waiting again, and with ``delivered`` all that was delivered too."""
    states = ("dead", "delivered") if delivered else ("dead",)
    notices = tuple(
        notice.evolve(deliveries=tuple(one.replayed(now) if one.state in states else one for one in notice.deliveries))
        for notice in job.notices
    )
    after: Job = job if notices == job.notices else job.evolve(notices=notices)
    return after


def is_open(job: Job) -> bool:
    """Tell whether anything waits to be sent."""
    return any(notice.is_open for notice in job.notices)


def has_dead(job: Job) -> bool:
    """Tell whether anything was given up."""
    return any(delivery.state == "dead" for notice in job.notices for delivery in notice.deliveries)
