"""Blocking work that is done once for all who wait for it at that moment: a hop to a thread, a lock, a sync shared by many."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Generic, TypeVar

T = TypeVar("T")


class Batch(Generic[T]):
    """Does ``work`` on everything that has been asked for since the last time, in a thread of its own, once at a time.

    ``work`` gets up to ``most`` items in the order they came, and returns for each what went wrong, None for nothing. It begins as
    soon as anybody waits, so that one alone waits for nobody, and many share it by themselves: they have come meanwhile.
    """

    def __init__(self, work: Callable[[list[T]], Sequence[BaseException | None]], *, name: str, most: int = 64) -> None:
        self._work = work
        self._most = most
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._waiting: list[tuple[T, asyncio.Future[None]]] = []
        self._task: asyncio.Task[None] | None = None

    async def do(self, item: T) -> None:
        """Return when the work on this item is done, or raise what went wrong. It is done also for who is cancelled meanwhile."""
        loop = asyncio.get_running_loop()
        done: asyncio.Future[None] = loop.create_future()
        self._waiting.append((item, done))
        if self._task is None or self._task.done() or self._task.get_loop() is not loop:
            self._task = loop.create_task(self._run(loop))
        await done

    def close(self) -> None:
        """End the thread, when it has nothing more to do."""
        self._thread.shutdown()

    async def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._waiting:
            batch, self._waiting = self._waiting[: self._most], self._waiting[self._most :]
            try:
                outcomes = await loop.run_in_executor(self._thread, self._work, [item for item, _ in batch])
            except Exception as error:  # noqa: BLE001 - it is told to each who has asked
                outcomes = [error] * len(batch)
            for (_, done), outcome in zip(batch, outcomes, strict=True):
                if done.done():
                    continue
                if outcome is None:
                    done.set_result(None)
                else:
                    done.set_exception(outcome)
