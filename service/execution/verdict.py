"""How an attempt's process ended, and what follows from it: its own last word, what we ended it for, or its exit status."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from service.execution.live import LiveJob
from service.jobs.model import Reason

_DETAILS: Final = {
    "output-too-large": "Processing wrote more than an attempt may write.",
    "bad-report": "The process of this attempt broke its contract with the service.",
}
_HINTS: Final = {"output-too-large": "Raise INTAKE_MAX_OUTPUT, or ask the pipeline for less."}


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """How the process ended and what follows from it."""

    reason: Reason
    step: str | None = None
    code: str | None = None
    detail: str | None = None
    hint: str | None = None
    retry_after: float | None = None
    exit_status: int | None = None
    max_rss: int | None = None
    cpu_seconds: float | None = None
    sandbox: tuple[str, ...] = ()


def verdict(
    live: LiveJob,
    ended: Mapping[str, Any] | None,
    *,
    over: bool = False,
    ending: tuple[Reason, str | None] | None,
    memory: int,
) -> Verdict:
    """Judge an attempt by what it reported and how it ended.

    ``ended`` has the exit ``status`` as wait(2) gives it to Python, ``rss`` in bytes and ``cpu`` in seconds; None when nobody saw
    the end, or when it is not the process that is ``over``, but its part in this attempt. ``ending`` is why we ended it, with the
    code of the problem; ``memory`` is how much it had, in bytes, 0 for no bound.
    """
    facts: dict[str, Any] = {"sandbox": live.confined}
    running = live.job.progress.step
    status, rss = 0, 0
    if ended is not None:
        status, rss = ended["status"], ended["rss"]
        facts |= {"exit_status": status, "max_rss": rss, "cpu_seconds": round(ended["cpu"], 3)}
    if live.succeeded and status == 0 and (over or ended is not None):
        return Verdict(reason=Reason.SUCCEEDED, **facts)
    if ending is not None:
        reason, code = ending
        detail, hint = _DETAILS.get(code or ""), _HINTS.get(code or "")
        return Verdict(reason=reason, code=code, detail=detail, hint=hint, step=running, **facts)
    if ended is None and not over:
        return Verdict(reason=Reason.LOST)
    if live.outcome is not None and live.outcome.reason is not None:
        told = live.outcome.model_dump(include={"step", "code", "detail", "hint", "retry_after"})
        return Verdict(reason=Reason(live.outcome.reason), **told, **facts)
    return Verdict(reason=_cause(status, rss, memory), detail=_epitaph(status), step=running, **facts)


def _cause(status: int, rss: int, memory: int) -> Reason:
    if status == -signal.SIGXCPU:
        return Reason.TIMEOUT
    if status == -signal.SIGTERM:  # not from us: an operator stops everything, or the file does it to itself
        return Reason.LOST
    if status == -signal.SIGKILL and memory and rss > memory * 0.8:
        return Reason.MEMORY
    return Reason.CRASHED


def _epitaph(status: int) -> str:
    if status >= 0:
        return f"The process that worked on this file ended with exit status {status} and no result."
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = f"signal {-status}"
    return f"The process that worked on this file was ended by {name}."
