"""How a job is written: one JSON object with its schema number and a sum of itself, and the way up from older ones.

The sum finds bytes that have changed and still parse. Who mends a record by hand writes ``"sum": null``; the next change, or
``intake fsck --repair``, puts the right one there.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from hashlib import blake2b
from typing import Any, Final

from service.errors import RecordCorrupt
from service.jobs.model import FileInfo, Job, Step
from service.jobs.value import Value

SCHEMA: Final = 2

#: From each older schema to the next: a pure function on the JSON object. A reader climbs all of them; a writer writes SCHEMA.
UPGRADES: dict[int, Callable[[dict[str, Any]], dict[str, Any]]] = {1: lambda raw: raw}  # 2 brought the sum

_SEALED: Final = re.compile(rb'\{"schema":([1-9][0-9]{0,3}),"sum":"([0-9a-f]{16})",')
_FIRST_SUMMED: Final = 2


class Overlay(Value):
    """Progress of a running attempt, written beside the record and never synced."""

    id: str
    attempt: int
    version: int
    file: FileInfo
    steps: tuple[Step, ...]

    @classmethod
    def of(cls, shown: Job, attempt: int, job: Job) -> Overlay:
        """Return the progress ``job`` as the next version of ``shown``. Raises StaleAttempt if another attempt runs."""
        shown.require_attempt(attempt)
        return cls(id=job.id, attempt=attempt, version=shown.version + 1, file=job.file, steps=job.steps)

    @classmethod
    def decode(cls, data: bytes) -> Overlay:
        """Return the progress that ``encode`` has written. Raises ValueError when it is not as it was written."""
        if not is_sealed(data):
            raise ValueError("the progress has changed since it was written")
        return cls.model_validate_json(data)

    def encode(self) -> bytes:
        """Return the progress as one line of JSON with its sum."""
        return _seal(self)

    def over(self, job: Job) -> Job:
        """Return the job with this progress, if it belongs to the job's running attempt and is newer."""
        if self.id != job.id or self.attempt != job.attempt or self.version <= job.version:
            return job
        shown: Job = job.evolve(version=self.version, file=self.file, steps=self.steps)
        return shown


def encode(job: Job) -> bytes:
    """Return the record of a job: one line of JSON."""
    return _seal(job)


def is_sealed(data: bytes) -> bool:
    """Tell whether these are, to the byte, what was written: the sum is that of all that follows it."""
    head = _SEALED.match(data)
    return head is not None and sum_of(data[head.end() :]) == head[2]


def decode(
    data: bytes, job_id: str, *, upgrades: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]] = UPGRADES
) -> Job:
    """Return the job ``job_id`` of a record, climbing from older schemas.

    Raises:
        RecordCorrupt: it is not a record, not of this job, has changed since it was written, or a newer version of the service
            wrote it.

    """
    try:
        job = (
            Job.model_validate_json(data) if _is_current(data) else _climb(json.loads(data), upgrades, is_sealed(data))
        )
        if job.id != job_id:
            raise ValueError(f"it is the record of job {job.id}")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise RecordCorrupt(
            f"The record cannot be read: {type(error).__name__}.",
            hint="Run `intake fsck`; the file itself is in the job's folder, beside its record.",
        ) from error
    return job


def _climb(raw: Any, upgrades: Mapping[int, Callable[[dict[str, Any]], dict[str, Any]]], sealed: bool) -> Job:
    written = schema = raw["schema"]
    if schema > SCHEMA:
        raise RecordCorrupt(
            f"The record has schema {schema}; this version reads up to {SCHEMA}.",
            hint="Run the version of the service that wrote it, or a newer one.",
        )
    if ("sum" in raw) != (schema >= _FIRST_SUMMED):
        raise ValueError("a sum where there is none, or none where there is one")
    while schema < SCHEMA:
        raw = upgrades[schema](raw)
        schema += 1
    job = Job.model_validate(raw)
    if written < _FIRST_SUMMED or sealed or raw["sum"] is None:
        return job
    if not encode(job).startswith(_head(raw["sum"])):  # other spaces do not matter, other values do
        raise RecordCorrupt(
            "The record has changed since it was written.",
            hint='Run `intake fsck`. If it was changed on purpose, write `"sum": null` into it.',
        )
    return job


def _is_current(data: bytes) -> bool:
    return data.startswith(b'{"schema":%d,' % SCHEMA) and is_sealed(data)


def _seal(value: Value) -> bytes:
    body = value.model_dump_json().encode()[1:] + b"\n"
    return _head(sum_of(body).decode()) + body


def _head(digest: object) -> bytes:
    return f'{{"schema":{SCHEMA},"sum":"{digest}",'.encode()


def sum_of(body: bytes) -> bytes:
    """Return the sum that finds whether these bytes have changed: hexadecimal, of 64 bits."""
    return blake2b(body, digest_size=8).hexdigest().encode()
