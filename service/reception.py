"""Receiving one upload: fields in any order, one file, digests that must agree, and a job that exists once at most per key."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass
from typing import Any

import structlog

from service.acceptance import Acceptance, Accepting
from service.access.quota import Allowance
from service.clock import Clock
from service.errors import (
    DigestMismatch,
    EmptyFile,
    Invalid,
    KeyInFlight,
    KeyReused,
    NotFound,
    OutcomeUnknown,
    TooLarge,
)
from service.fields import Fields
from service.ids import created_at, new_id
from service.jobs.model import FileInfo, Job, Step, Trace
from service.jobs.store import JobStore, KeyHold
from service.names import display_name
from service.settings import format_size
from service.storage.base import Storage, Stored, Upload
from service.wiring import Catalogue

log = structlog.get_logger(__name__)

InThread = Callable[..., Awaitable[Any]]


@dataclass(frozen=True, kw_only=True)
class Digest:
    """A digest the client announced. ``algorithm`` is hashlib's name, ``value`` the raw digest."""

    algorithm: str
    value: bytes


class Reception:
    """One upload from its first field to its job. Ends with ``finish``, or with ``abort``, which leaves nothing behind."""

    def __init__(
        self,
        *,
        store: JobStore,
        storage: Storage,
        accepting: Accepting,
        catalogue: Catalogue,
        in_thread: InThread,
        clock: Clock,
        max_upload: int,
        max_attempts: int,
        owner: str | None = None,
        allowance: Allowance | None = None,
        request_id: str | None,
        key: str | None = None,
        hold: KeyHold | None = None,
        known: Job | None = None,
        callback: Callable[[str], str],
        email: Callable[[str], str],
    ) -> None:
        self._store = store
        self._storage = storage
        self._accepting = accepting
        self._catalogue = catalogue
        self._in_thread = in_thread
        self._clock = clock
        self._max_upload = max_upload
        self._max_attempts = max_attempts
        self._owner = owner
        self._allowance = allowance
        self._request_id = request_id
        self.trace: Trace | None = None  #: that the upload belongs to
        self._key = key
        self._hold = hold
        self._known = known  # the job that the key already belongs to
        self._fields = Fields(catalogue, callback, email)
        self._job_id = new_id(clock())
        self._upload: Upload | None = None
        self._name = ""
        self._declared_type: str | None = None

    def field(self, name: str, value: str) -> None:
        """Take a form field, before or after the file. Raises what ``Fields.take`` raises."""
        self._fields.take(name, value)

    def begin(self, name: str | None, declared_type: str | None) -> None:
        """Take the name and type of the file; its bytes follow. A second file is refused."""
        if self._upload is not None:
            raise Invalid("The request has more than one file.", hint="Send one request per file.", field="file")
        self._name = display_name(name)
        self._declared_type = _claim(declared_type)
        self._upload = self._storage.receive(self._job_id)

    async def write(self, data: bytes) -> None:
        """Take the next bytes of the file. Raises TooLarge as soon as there are too many."""
        assert self._upload is not None, "bytes follow begin()"
        if self._upload.size + len(data) > self._max_upload:
            raise too_large(self._max_upload)
        await self._upload.write(data)

    async def finish(self) -> tuple[Job, bool]:
        """Check everything, commit the job and return it; True when the key has led to a job that was there before."""
        if self._upload is None:
            raise Invalid(
                "The request has no file.",
                hint="Send it as the form field `file`: curl -F file=@photo.jpg",
                field="file",
            )
        if self._upload.size == 0:
            raise EmptyFile("The file is empty.", hint="Check the path and send it again.")
        stored = await self._upload.digest()
        self._verify(stored)
        job = self._job(stored)
        if self._known is not None:
            return await self._replayed(self._known, job), True
        upload, self._upload = self._upload, None  # from here on its end is the commit's business alone
        await _uninterrupted(self._commit(job, upload))
        return job, False

    @property
    def is_repeated(self) -> bool:
        """Whether the key belongs to a job already."""
        return self._known is not None

    def contradicts(self, announced: list[Digest], size: int | None) -> bool:
        """Tell whether what is known before the file differs from the job that the same key has made."""
        if self._known is None:
            return False
        file = self._known.file
        said = [self._fields.sha256, *(digest.value.hex() for digest in announced if digest.algorithm == "sha256")]
        return any(value is not None and value != file.sha256 for value in said) or size not in (None, file.size)

    async def abort(self) -> None:
        """Leave nothing behind; after ``finish`` nothing happens."""
        if self._upload is not None:
            upload, self._upload = self._upload, None
            await upload.abort()

    async def _replayed(self, known: Job, job: Job) -> Job:
        """Return the job that was there before, made as durable as a new one."""
        await self.abort()
        if known.fingerprint != job.fingerprint:
            raise key_reused()
        try:
            confirmed: Job = await self._in_thread(self._store.confirm, known.id)
        except NotFound:
            raise KeyInFlight(
                "The job of this Idempotency-Key is being deleted.", hint="Send the same request again.", retry_after=1
            ) from None
        return confirmed

    async def _commit(self, job: Job, upload: Upload) -> None:
        try:
            await self._accepting.accept(Acceptance(upload=upload, job=job, hold=self._hold, allowance=self._allowance))
        except OutcomeUnknown:
            await _closed(upload)  # the record may be visible: its bytes stay, whatever comes
            raise
        except BaseException:
            await upload.abort()
            raise
        await _closed(upload)

    def _job(self, stored: Stored) -> Job:
        pipeline = self._catalogue.pipelines[self._fields.pipeline]
        file = FileInfo(name=self._name, size=stored.size, declared_type=self._declared_type, sha256=stored.sha256)
        return Job(
            id=self._job_id,
            max_attempts=self._max_attempts,
            created_at=created_at(self._job_id),
            file=file,
            pipeline=pipeline.name,
            labels=self._fields.labels,
            callback_url=self._fields.callback_url,
            notify_email=self._fields.notify_email,
            notify_on=self._fields.notify_on,
            steps=tuple(Step(name=step.name, processor=step.processor) for step in pipeline.steps),
            owner=self._owner,
            request_id=self._request_id,
            trace=self.trace,
            key=self._key,
            fingerprint=_fingerprint(file, pipeline.name, self._fields) if self._key else None,
        )

    def _verify(self, stored: Stored) -> None:
        if self._fields.sha256 not in (None, stored.sha256):
            raise digest_mismatch("sha256")


def too_large(limit: int, declared: int | None = None) -> TooLarge:
    """Return the refusal of a file over the limit."""
    size = f"{declared} bytes" if declared is not None else "more"
    return TooLarge(
        f"The file has {size}; the limit is {format_size(limit)}.",
        hint="Send a smaller file, or have the operator raise INTAKE_MAX_UPLOAD.",
        max_size=limit,
    )


def digest_mismatch(algorithm: str) -> DigestMismatch:
    """Return the refusal of bytes that are not the announced ones."""
    return DigestMismatch(
        f"The received bytes do not have the {algorithm} you sent; nothing was kept.",
        hint="The file was changed on its way, or while it was read. Send it again.",
        algorithm=algorithm,
    )


def key_reused() -> KeyReused:
    """Return the refusal of a key that belongs to another upload."""
    return KeyReused(
        "This Idempotency-Key was used for another file or other fields.", hint="Use a new key for every new upload."
    )


async def _uninterrupted(work: Coroutine[Any, Any, None]) -> None:
    """Do the work to its end, also when the request is cancelled meanwhile: a thread at work on the disk cannot be."""
    task = asyncio.ensure_future(work)
    try:
        await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


async def _closed(upload: Upload) -> None:
    try:
        await upload.close()
    except OSError as error:  # the job is committed all the same; a sweep finds what is left
        log.warning("an upload could not be closed", error=str(error))


def _fingerprint(file: FileInfo, pipeline: str, fields: Fields) -> str:
    members = [file.sha256, file.size, file.name, file.declared_type, pipeline, sorted(fields.labels.items())]
    wishes = [fields.callback_url, fields.notify_email, fields.notify_on]
    members += wishes if any(wishes[:2]) else []
    return hashlib.sha256(json.dumps(members).encode()).hexdigest()


def _claim(declared_type: str | None) -> str | None:
    """Return what the client says the type is, None for what cannot be a type: it is shown on terminals."""
    if not declared_type or not declared_type.isascii() or not declared_type.isprintable():
        return None
    return declared_type[:255]
