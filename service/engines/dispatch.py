"""Telling a message broker of jobs, from a thread of its own: nobody who has something to tell ever waits for the broker.

What cannot be told waits here, in bounds, while the broker is away; beyond that it is dropped, as a bell may lose anything: the
reconciler finds it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from queue import Empty, Full, Queue
from typing import Final

import structlog

from service.errors import IntakeError

log = structlog.get_logger(__name__)
_ROOM: Final = 10_000  #: ids that wait; more are dropped
_LONGEST: Final = 30.0  #: seconds between two tries at a broker that is away
_LOOK_EVERY: Final = 5.0  #: seconds between two looks at a broker that nobody has anything to tell
_LAST: Final = 2.0  #: seconds for what is left when it stops


class BrokerAway(OSError):
    """The broker did not take it in time, or at all. Whether it has it is not known."""


class Dispatcher:
    """A thread that tells of jobs: ``tell`` does it, ``look`` sees whether the broker is there; both raise BrokerAway.

    They are called in its thread alone, and must end within seconds. After a failure the next try waits 1 s, then twice as long
    each time, up to half a minute.
    """

    def __init__(
        self, tell: Callable[[str], None], look: Callable[[], None], *, room: int = _ROOM, first_wait: float = 1.0
    ) -> None:
        self._tell = tell
        self._look = look
        self._waiting: Queue[str] = Queue(room)  # an empty text wakes the thread
        self._first_wait = first_wait
        self._wait = 0.0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._serve, name="dispatcher", daemon=True)
        self._problem: str | None = "the broker has not been asked yet"
        self._dropped = 0

    @property
    def problem(self) -> str | None:
        """What is wrong with the broker, as of the last try; None when it answers."""
        return self._problem

    def start(self) -> None:
        """Begin; once."""
        self._thread.start()

    def stop(self) -> None:
        """Tell what is left while the broker answers, and end; in a few seconds at most."""
        self._stopping.set()
        self.ring("")
        if self._thread.is_alive():
            self._thread.join(2 * _LAST)

    def ring(self, job_id: str) -> bool:
        """Have a job told of: takes microseconds, from any thread. False when there is no room, and it is dropped."""
        try:
            self._waiting.put_nowait(job_id)
        except Full:
            self._dropped += 1
            return False
        return True

    def _serve(self) -> None:
        job_id: str | None = None
        while not self._stopping.is_set():
            if self._wait and self._stopping.wait(self._wait):
                break
            if job_id is None:
                job_id = self._next()
            if self._try(job_id):
                job_id = None
        until = time.monotonic() + _LAST
        while self._problem is None and time.monotonic() < until and self._try(job_id):
            try:
                job_id = self._waiting.get_nowait()
            except Empty:
                break

    def _next(self) -> str | None:
        try:
            return self._waiting.get(timeout=_LOOK_EVERY) or None
        except Empty:
            return None

    def _try(self, job_id: str | None) -> bool:
        """Tell of the job, or look without one; tell whether it need not be tried again."""
        try:
            self._tell(job_id) if job_id else self._look()
        except BrokerAway as error:
            self._failed(error)
            return False
        except (OSError, IntakeError) as error:  # of this job's record
            log.warning("a job could not be told of; the reconciler finds it", job_id=job_id, error=str(error))
            return True
        except Exception as error:
            log.exception("a job could not be told of; the reconciler finds it", job_id=job_id)
            self._failed(error)
            return True
        if self._wait:
            log.info("the broker answers again", waiting=self._waiting.qsize(), dropped=self._dropped)
        self._wait, self._problem, self._dropped = 0.0, None, 0
        return True

    def _failed(self, error: Exception) -> None:
        if not self._wait:
            log.warning("the broker does not answer; jobs wait for it", error=str(error))
        self._problem = str(error) or type(error).__name__
        self._wait = min(self._wait * 2 or self._first_wait, _LONGEST)
