"""What went wrong in a step, in the words of a report: reason, code, a sentence, a hint."""

from __future__ import annotations

import errno
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Literal, TypeAlias

from processors.contract import Reject, RetryLater
from processors.plaintext import plain_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydantic import JsonValue

Reason: TypeAlias = Literal["rejected", "error", "memory", "retry", "lost_input"]

MAX_DETAIL = 500
"""Most characters of a detail or hint."""

#: The folders of an absolute path: where this machine keeps things is nobody's business.
_FOLDERS = re.compile(r"(?<![\w.~:/])/(?:[^/\s'\"]+/)+")


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a step failed. `detail` and `hint` are one plain line each; `retry_after` is in seconds."""

    reason: Reason
    code: str
    detail: str
    hint: str | None = None
    retry_after: float | None = None

    def document(self) -> dict[str, JsonValue]:
        """Return the fields as JSON."""
        return asdict(self)


class StepError(Exception):
    """A step broke a rule that the runner keeps, such as the size of its facts."""

    def __init__(self, code: str, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.hint = hint


def failure_of(error: BaseException, *, input_path: str) -> Failure:
    """Return what `error`, raised by a step that read `input_path`, means for the job.

    What it was raised from counts too: a library that wraps a MemoryError still ran out of memory. No traceback and no
    control character gets through.
    """
    if isinstance(error, Reject):
        hint = None if error.hint is None else plain_line(error.hint, MAX_DETAIL)
        return Failure(reason="rejected", code=error.code, detail=plain_line(error.message, MAX_DETAIL), hint=hint)
    if isinstance(error, RetryLater):
        detail = plain_line(error.message, MAX_DETAIL)
        return Failure(reason="retry", code="retry-later", detail=detail, retry_after=error.seconds)
    if isinstance(error, StepError):
        return Failure(reason="error", code=error.code, detail=plain_line(str(error), MAX_DETAIL), hint=error.hint)
    for cause in _chain(error):
        known = _of_the_machine(cause, input_path)
        if known is not None:
            return known
    message = _FOLDERS.sub("…/", plain_line(str(error), MAX_DETAIL - 100))
    name = type(error).__name__
    return Failure(
        reason="error",
        code="processor-failed",
        detail=f"The processor raised {name}: {message}" if message else f"The processor raised {name}.",
        hint="The traceback is in the log.",
    )


def lost_input() -> Failure:
    """Return the failure of a step whose input is gone."""
    return Failure(reason="error", code="lost-input", detail="The file to process is gone from the disk.")


def _of_the_machine(error: BaseException, input_path: str) -> Failure | None:
    """Return what an error of the machine, or of a limit on it, means; None for any other."""
    if isinstance(error, MemoryError):
        return Failure(
            reason="memory",
            code="out-of-memory",
            detail="The file needs more memory than one attempt may use.",
            hint="Raise INTAKE_ATTEMPT_MEMORY, or send a smaller file.",
        )
    if not isinstance(error, OSError):
        return None
    if error.errno == errno.ENOMEM:
        return _of_the_machine(MemoryError(), input_path)
    if error.errno == errno.EFBIG:
        return Failure(
            reason="error",
            code="output-too-large",
            detail="The step wrote more than one attempt may write.",
            hint="Raise INTAKE_MAX_OUTPUT.",
        )
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return Failure(
            reason="error",
            code="disk-full",
            detail="There is no space left for the step's artifacts.",
            hint="Free some space on the disk of the data directory; the job can be retried then.",
        )
    if isinstance(error, FileNotFoundError) and str(error.filename) == input_path:
        return lost_input()
    return None


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error, what it was raised from, and so on; each once, as chains may be circular."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
