"""The wall clock as a value that is passed in, so that tests can hold it."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Final

import structlog

Clock = Callable[[], datetime]
log = structlog.get_logger(__name__)
_JUMP: Final = timedelta(seconds=10)  #: ahead of what was expected
_HOUR: Final = 3600.0


def utc_now() -> datetime:
    """Return the time now, aware, in UTC, cut to milliseconds: the precision of every stored moment."""
    now = datetime.now(UTC)
    return now.replace(microsecond=now.microsecond // 1000 * 1000)


class UnhurriedClock:
    """A clock for what cannot be undone, such as deleting: where another is put forward, it follows an hour later.

    Until then it goes on from where it was, by ``monotonic``, and follows at once when the other is put back.
    """

    def __init__(self, clock: Clock, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._monotonic = monotonic
        self._now, self._ticks = clock(), monotonic()
        self._since: float | None = None  # when it began to stay behind

    def __call__(self) -> datetime:
        """Return the time."""
        told, ticks = self._clock(), self._monotonic()
        expected = self._now + timedelta(seconds=ticks - self._ticks)
        if told - expected <= _JUMP:
            self._since = None
        elif self._since is None:
            log.warning(
                "the clock was put forward; nothing expires by it for an hour",
                seconds=(told - expected).total_seconds(),
            )
            self._since = ticks
        follows = self._since is None or ticks - self._since >= _HOUR
        self._now, self._ticks = told if follows else expected, ticks
        return self._now


class HeldClock:
    """A clock that stands until it is moved: for tests of waiting, expiry and retries that do not wait."""

    def __init__(self, now: datetime | None = None) -> None:
        self.now = now or utc_now()

    def __call__(self) -> datetime:
        """Return the time as it was last set."""
        return self.now

    def advance(self, by: timedelta | float) -> datetime:
        """Move on by a duration, or by seconds, and return the new time."""
        self.now += by if isinstance(by, timedelta) else timedelta(seconds=by)
        return self.now
