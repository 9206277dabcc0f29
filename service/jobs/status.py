"""Where jobs and steps stand, how attempts end, and the names under which changes of a job are told."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Final

from pydantic import Field

from service.jobs.value import Moment, Value


class JobStatus(StrEnum):
    """Where a job stands."""

    QUEUED = "queued"  #: waits for a slot, or for ``retry_at``
    RUNNING = "running"  #: an attempt has been counted and holds the lease
    SUCCEEDED = "succeeded"  #: every step succeeded or was skipped
    FAILED = "failed"  #: ``error`` says why
    CANCELED = "canceled"  #: somebody asked for it


#: In these a job is done.
ENDS: Final = frozenset({JobStatus.SUCCEEDED, JobStatus.FAILED, JobStatus.CANCELED})


class StepStatus(StrEnum):
    """Where a step stands."""

    WAITING = "waiting"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    SKIPPED = "skipped"  #: its processor does not take this type of file


class Reason(StrEnum):
    """How an attempt ended."""

    SUCCEEDED = "succeeded"
    REJECTED = "rejected"  #: the file is bad; never retried
    LOST_INPUT = "lost_input"  #: the stored bytes are gone; never retried
    RETRY = "retry"  #: the processor asked to be run again later
    ERROR = "error"  #: the processor raised
    TIMEOUT = "timeout"  #: over its deadline or its CPU time
    MEMORY = "memory"  #: over its memory
    CRASHED = "crashed"  #: its process died
    LOST = "lost"  #: the supervisor died with it; nobody knows how it ended
    INTERRUPTED = "interrupted"  #: the service was stopped; not charged
    CANCELED = "canceled"


class StatusChange(Value):
    """A move of a job to another status, as its record remembers it."""

    version: int = Field(ge=1, description="Of the record that showed it first.")
    status: JobStatus
    attempt: int = Field(ge=0, description="Attempts begun by then.")
    at: Moment


#: How many changes a record remembers, oldest forgotten first: of an ordinary job there are three.
REMEMBERED: Final = 50

#: What a change of the status is called wherever it is told: in event streams, in webhooks, in e-mail.
EVENTS: Final[Mapping[JobStatus, str]] = {
    JobStatus.QUEUED: "job.queued",
    JobStatus.RUNNING: "job.started",
    JobStatus.SUCCEEDED: "job.succeeded",
    JobStatus.FAILED: "job.failed",
    JobStatus.CANCELED: "job.canceled",
}
CHANGED: Final = "job.changed"  #: its steps differ, or a cancel was asked for; streams of one job tell it
PROGRESS: Final = "job.progress"  #: a running step has got further; streams of one job tell it
