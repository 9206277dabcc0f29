"""What the exit code of a command means, and which error ends it with which code and words."""

from __future__ import annotations

import sys
from enum import IntEnum
from typing import TYPE_CHECKING

from service.errors import ConfigError, IntakeError

if TYPE_CHECKING:
    from service.client import ClientError


class Code(IntEnum):
    """The exit codes. Part of the interface: scripts rely on them."""

    OK = 0
    """Done; all jobs waited for have succeeded."""
    ERROR = 1
    """Any other error."""
    USAGE = 2
    """The command line or the configuration is wrong."""
    FAILED = 3
    """At least one job failed or was canceled."""
    DENIED = 4
    """The service does not let this client in."""
    TEMPORARY = 5
    """The service is away, busy or full: another try later may work."""
    REFUSED = 6
    """Refused for good: too large, unknown pipeline, a file no processor can read."""
    NOT_FOUND = 7
    """No such job or result, or it has expired."""
    TIMEOUT = 8
    """Waiting took longer than --timeout."""
    INTERRUPTED = 130
    """Ended by Ctrl-C."""


class Fail(Exception):
    """Ends a command with a code, a sentence and a hint; commands raise it for errors of their own."""

    def __init__(self, message: str, *, hint: str | None = None, code: Code = Code.ERROR) -> None:
        super().__init__(message)
        self.hint = hint
        self.code = code


def explain(error: Exception) -> tuple[Code, str, str | None] | None:
    """Return exit code, sentence and hint for an expected error; None for one that is a bug."""
    if isinstance(error, Fail):
        return error.code, str(error), error.hint
    if isinstance(error, ConfigError):
        return Code.USAGE, error.detail, error.hint
    if isinstance(error, IntakeError):
        return Code.ERROR, error.detail, error.hint
    if "service.client" in sys.modules:  # else no client ran, and nothing of it can have been raised
        from service.client import ClientError

        if isinstance(error, ClientError):
            return _client_code(error), str(error), error.hint
    if isinstance(error, OSError) and error.strerror:
        name = f"{error.filename}: " if error.filename else ""
        return Code.ERROR, f"{name}{error.strerror}", None
    return None


def _client_code(error: ClientError) -> Code:
    from service.client import JobFailed, NotAllowed, NotFound, Refused, Unreachable, WaitTimeout

    match error:
        case WaitTimeout():
            return Code.TIMEOUT
        case JobFailed():
            return Code.FAILED
        case NotAllowed():
            return Code.DENIED
        case NotFound():
            return Code.NOT_FOUND
        case Unreachable():
            return Code.TEMPORARY
        case Refused() if error.temporary:
            return Code.TEMPORARY
        case Refused() if error.status not in (409, 412):  # those speak of the job's status now, not of the request
            return Code.REFUSED
    return Code.ERROR
