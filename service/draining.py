"""Knowing that this process is about to end, before its server closes the socket."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, Final

import structlog

log = structlog.get_logger(__name__)
_SIGNALS: Final = (signal.SIGTERM, signal.SIGINT)


class Draining:
    """Whether this process has been told to stop; ``ending`` is called in the loop when its server closes the socket."""

    def __init__(self, ending: Callable[[], None] = lambda: None) -> None:
        self.begun = False
        self._ending = ending

    @contextmanager
    def watched(self, notice: float) -> Iterator[None]:
        """Hear the signals to stop before those who handle them, and let them have the first one ``notice`` seconds later.

        The second one reaches them at once. Does nothing outside of a process's main thread.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        loop = asyncio.get_running_loop()
        before = {number: signal.getsignal(number) for number in _SIGNALS}

        def end(number: int, handler: Callable[[int, FrameType | None], Any]) -> None:
            handler(number, None)
            self._ending()

        def hear(number: int, frame: FrameType | None) -> None:
            handler = before[signal.Signals(number)]
            if not callable(handler):  # nobody waits for it: the process ends as it would have
                signal.signal(number, handler or signal.SIG_DFL)
                signal.raise_signal(number)
            elif self.begun or notice <= 0:
                self.begun = True
                handler(number, frame)
                loop.call_soon_threadsafe(self._ending)
            else:
                self.begun = True
                log.info("told to stop; not ready any more", seconds=notice)
                loop.call_soon_threadsafe(loop.call_later, notice, end, number, handler)

        for number in _SIGNALS:
            signal.signal(number, hear)
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
