"""Housekeeping now and then, in a thread of its own: it may take long, and nothing waits for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final, Self

import structlog

log = structlog.get_logger(__name__)
_EVERY: Final = 30.0  #: seconds between two rounds


class Janitor:
    """Calls ``tidy`` when it is asked and its time has come, one round at a time. Leaving waits for the round that is under way."""

    def __init__(self, tidy: Callable[[], object]) -> None:
        self._tidy = tidy
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="janitor")
        self._round: Future[None] | None = None
        self.next_at = 0.0  #: of the monotonic clock

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._thread.shutdown()

    def call(self) -> None:
        """Begin a round if it is time for one and none is under way."""
        if time.monotonic() >= self.next_at:
            self.next_at = time.monotonic() + _EVERY
            if self._round is None or self._round.done():
                self._round = self._thread.submit(self._work)

    def _work(self) -> None:
        try:
            self._tidy()
        except Exception:
            log.exception("housekeeping failed; it is tried again")
