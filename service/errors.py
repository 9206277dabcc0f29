"""Every error the service raises on purpose, with its stable code. No HTTP here: ``api/problems.py`` assigns the statuses.

The tree::

    IntakeError
    ├── ConfigError            a setting, pipeline or command-line value is wrong; the start stops
    ├── BadRequest             the request cannot be understood
    │   ├── DigestMismatch     the bytes are not the ones the client announced
    │   ├── Truncated          the body ended before it was whole
    │   ├── HeadersTooLarge    the header section is over INTAKE_MAX_HEADER
    │   └── UriTooLong
    ├── Invalid                the request is understood and asks for something impossible
    │   ├── EmptyFile
    │   ├── UnknownPipeline
    │   └── KeyReused          the Idempotency-Key belongs to another upload
    ├── Unauthorized           the request has no credentials, or wrong ones
    ├── Forbidden              the credentials do not allow this
    ├── Misdirected            the request was meant for another host
    ├── Unsupported            the kind of body is not taken here
    ├── TooLarge               the file is over INTAKE_MAX_UPLOAD
    ├── TooSlow                the client sent too little for too long
    │   └── RequestTimeout     the header did not arrive within INTAKE_HEADER_TIMEOUT
    ├── NotFound
    │   └── Gone               it was there and has expired
    ├── Conflict               the job's status forbids it
    │   └── KeyInFlight        the first request with this Idempotency-Key is still running
    ├── TooMany                a quota or a rate of the client is used up
    ├── PreconditionFailed     If-Match names another version
    ├── Unavailable            try again later
    │   ├── QueueFull
    │   ├── TooManyConnections
    │   ├── TooManyStreams
    │   ├── OutcomeUnknown     the disk failed after the commit point
    │   └── StorageFull
    ├── RecordCorrupt          a stored record cannot be read
    ├── StaleAttempt           a runner that lost its job tried to write to it
    └── ClientGone             nobody is left to answer
"""

from __future__ import annotations

from typing import Any, ClassVar


class IntakeError(Exception):
    """Base of the tree. The message says what happened, ``hint`` what to do, ``extras`` are members of the problem document."""

    code: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"

    def __init__(
        self,
        detail: str | None = None,
        *,
        hint: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        **extras: Any,
    ) -> None:
        super().__init__(detail or self.title)
        self.detail = detail or self.title
        self.hint = hint
        self.problem = code or self.code
        self.retry_after = retry_after
        self.extras = extras


class ConfigError(IntakeError):
    """A setting is wrong. The message names the variable or file to change."""

    code = "configuration-error"
    title = "Wrong configuration"


class BadRequest(IntakeError):
    """The body or a header cannot be parsed."""

    code = "malformed-request"
    title = "Malformed request"


class DigestMismatch(BadRequest):
    """A digest the client sent differs from that of the received bytes; nothing was kept."""

    code = "digest-mismatch"
    title = "Digest mismatch"


class Truncated(BadRequest):
    """The body ended early; nothing was kept."""

    code = "truncated-body"
    title = "Truncated body"


class HeadersTooLarge(BadRequest):
    """The header section is longer than INTAKE_MAX_HEADER."""

    code = "headers-too-large"
    title = "Request header fields too large"


class UriTooLong(BadRequest):
    """The request's target is longer than 48 KiB."""

    code = "uri-too-long"
    title = "URI too long"


class Invalid(IntakeError):
    """A value is out of its range, or a name is unknown."""

    code = "validation-error"
    title = "Invalid value"


class EmptyFile(Invalid):
    """The file has no bytes."""

    code = "empty-file"
    title = "Empty file"


class UnknownPipeline(Invalid):
    """No pipeline has this name."""

    code = "unknown-pipeline"
    title = "Unknown pipeline"


class KeyReused(Invalid):
    """The Idempotency-Key was used for another upload."""

    code = "idempotency-key-reused"
    title = "Idempotency-Key reused"


class Unauthorized(IntakeError):
    """The request has no credentials, or they are unknown, expired or revoked."""

    code = "unauthorized"
    title = "Unauthorized"


class Forbidden(IntakeError):
    """The credentials are good and do not allow this."""

    code = "forbidden"
    title = "Forbidden"


class Misdirected(IntakeError):
    """The Host of the request is none that this service answers to."""

    code = "misdirected-request"
    title = "Misdirected request"


class Unsupported(IntakeError):
    """The Content-Type or Content-Encoding of the request is not taken here."""

    code = "unsupported-media-type"
    title = "Unsupported media type"


class TooLarge(IntakeError):
    """The file is larger than INTAKE_MAX_UPLOAD."""

    code = "file-too-large"
    title = "File too large"


class TooSlow(IntakeError):
    """The body stopped arriving, or arrives too slowly."""

    code = "upload-timeout"
    title = "Upload timed out"


class RequestTimeout(TooSlow):
    """The header of a request did not arrive within INTAKE_HEADER_TIMEOUT."""

    code = "request-timeout"
    title = "Request timed out"


class NotFound(IntakeError):
    """There is no such job, artifact, token or page."""

    code = "not-found"
    title = "Not found"


class Gone(NotFound):
    """The job has expired and was deleted."""

    code = "job-expired"
    title = "Job expired"


class Conflict(IntakeError):
    """The job's status does not allow this."""

    code = "conflict"
    title = "Conflict"


class KeyInFlight(Conflict):
    """An upload with the same Idempotency-Key is being received at this moment."""

    code = "idempotency-key-in-use"
    title = "Idempotency-Key in use"


class TooMany(IntakeError):
    """A quota of the client, or the rate of its requests, is used up for now."""

    code = "too-many-requests"
    title = "Too many requests"


class PreconditionFailed(IntakeError):
    """The job has changed since the version named by If-Match."""

    code = "precondition-failed"
    title = "Precondition failed"


class Unavailable(IntakeError):
    """The service cannot do this now; trying later may work."""

    code = "unavailable"
    title = "Unavailable"


class QueueFull(Unavailable):
    """INTAKE_QUEUE_LIMIT jobs are waiting or running."""

    code = "queue-full"
    title = "Queue full"


class TooManyConnections(Unavailable):
    """INTAKE_MAX_CONNECTIONS are open, and each is at work on a request."""

    code = "too-many-connections"
    title = "Too many connections"


class TooManyStreams(Unavailable):
    """INTAKE_MAX_STREAMS are open in this process."""

    code = "too-many-streams"
    title = "Too many event streams"


class OutcomeUnknown(Unavailable):
    """The disk failed after the job may have become visible: it either exists or it does not, whole in both cases."""

    code = "outcome-unknown"
    title = "Outcome unknown"


class StorageFull(Unavailable):
    """Free space is down to the reserve INTAKE_MIN_FREE."""

    code = "storage-full"
    title = "Storage full"


class RecordCorrupt(IntakeError):
    """The stored record of a job cannot be read; the job is out of the queue until somebody looks at it."""

    code = "record-corrupt"
    title = "Record corrupt"


class StaleAttempt(IntakeError):
    """The attempt that writes is no longer the job's current one. Never seen by a client."""

    code = "stale-attempt"
    title = "Stale attempt"


class ClientGone(IntakeError):
    """The client closed the connection before its request was whole."""

    code = "client-closed-request"
    title = "Client closed request"
