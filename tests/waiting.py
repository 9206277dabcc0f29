"""Waiting in tests: for something to become true, with a deadline, and never for a time to pass."""

from __future__ import annotations

import asyncio
import socket
import time
from typing import TYPE_CHECKING, NoReturn, TypeVar

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")

TIMEOUT = 15.0  # seconds; what is waited for takes well under one, but a busy machine may be slow
PAUSE = 0.01  # seconds between two looks


def wait_until(predicate: Callable[[], T], timeout: float = TIMEOUT, what: str = "") -> T:
    """Call ``predicate`` until it returns something true, and return that.

    Raises:
        AssertionError: it did not within ``timeout`` seconds. The message says ``what`` it was, and what came last.
    """
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() > deadline  # taken before the look, so that the last look comes after the deadline
        if value := predicate():
            return value
        if late:
            _give_up(predicate, timeout, what, value)
        time.sleep(PAUSE)


async def wait_until_async(predicate: Callable[[], Awaitable[T]], timeout: float = TIMEOUT, what: str = "") -> T:
    """Do as ``wait_until`` does, for a predicate that is a coroutine function."""
    deadline = time.monotonic() + timeout
    while True:
        late = time.monotonic() > deadline
        if value := await predicate():
            return value
        if late:
            _give_up(predicate, timeout, what, value)
        await asyncio.sleep(PAUSE)


def find_free_port() -> int:
    """Return a loopback TCP port that was free a moment ago. Only for programs that cannot take port 0 and tell."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _give_up(predicate: Callable[[], object], timeout: float, what: str, value: object) -> NoReturn:
    name = what or getattr(predicate, "__qualname__", repr(predicate))
    raise AssertionError(f"waited {timeout:g} s for {name}, and got {value!r} last")
