"""Who is told of the end of a job: the standing endpoints that want the event, and whom the job itself names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

from service.jobs.model import Job, JobStatus
from service.jobs.notices import Kind, Subscriber
from service.jobs.status import EVENTS
from service.notify.base import END_EVENTS
from service.notify.endpoints import Endpoints, callback_id

#: Which events an e-mail is sent for.
ON: Final[Mapping[str, tuple[str, ...]]] = {
    "failure": (EVENTS[JobStatus.FAILED],),
    "success": (EVENTS[JobStatus.SUCCEEDED],),
    "both": END_EVENTS,
}


class Subscribers:
    """The one answer to whom an end is told. Called under the lock of the job's record; without any it reads no file."""

    def __init__(self, *, endpoints: Endpoints, email_to: Sequence[str] = (), email_on: str = "both") -> None:
        self._endpoints = endpoints
        self._email_to = email_to
        self._email_on = email_on

    def __call__(self, job: Job) -> list[Subscriber]:
        """Return the subscribers of a job that has just ended. Raises OSError."""
        event = EVENTS[job.status]
        told = [
            Subscriber(to=one.id, kind=Kind.WEBHOOK, address=one.url)
            for one in self._endpoints.standing()
            if one.url is not None and one.disabled_at is None and (not one.events or event in one.events)
        ]
        if job.callback_url is not None:
            told.append(Subscriber(to=callback_id(job.owner), kind=Kind.WEBHOOK, address=job.callback_url))
        if event in ON[self._email_on]:
            told += [
                Subscriber(to=f"em_{number}", kind=Kind.EMAIL, address=address)
                for number, address in enumerate(self._email_to, 1)
            ]
        if job.notify_email is not None and event in ON[job.notify_on]:
            told.append(Subscriber(to="email", kind=Kind.EMAIL, address=job.notify_email))
        return told
