"""The port to what gets jobs run. An engine knows when to run, never what a job is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True, kw_only=True)
class EngineHealth:
    """Whether jobs are being run at this moment."""

    ok: bool
    detail: str


class Engine(Protocol):
    """Gets jobs run, sooner when it is told."""

    async def start(self) -> None:
        """Begin; called once when the API starts."""

    async def stop(self) -> None:
        """End; what this process started is drained first."""

    async def notify(self, job_id: str) -> None:
        """Ring the bell for a job: takes microseconds, never raises, may be lost."""

    async def health(self) -> EngineHealth:
        """Tell how it is."""
