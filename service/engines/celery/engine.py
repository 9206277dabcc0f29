"""The engine in an API process: tells the broker of jobs, and knows whether anybody runs them."""

from __future__ import annotations

import asyncio

from service import faults
from service.engines.base import EngineHealth
from service.engines.celery.app import make_app
from service.engines.celery.publisher import Publisher
from service.engines.dispatch import Dispatcher
from service.jobs.store import JobStore
from service.settings import Settings


class CeleryEngine:
    """Has each job published by a thread of its own. It starts no worker: those are ``intake worker``, on any machine."""

    def __init__(self, settings: Settings, store: JobStore) -> None:
        self._store = store
        self._publisher = Publisher(make_app(settings), bulk_size=settings.bulk_size)
        self._dispatcher: Dispatcher | None = None

    async def start(self) -> None:  # noqa: D102
        self._dispatcher = Dispatcher(self._tell, self._look)
        self._dispatcher.start()

    async def stop(self) -> None:  # noqa: D102
        dispatcher, self._dispatcher = self._dispatcher, None
        if dispatcher is not None:
            await asyncio.to_thread(dispatcher.stop)

    async def notify(self, job_id: str) -> None:  # noqa: D102
        try:
            faults.reach("bell.ring")
        except OSError:
            return
        if self._dispatcher is not None:
            self._dispatcher.ring(job_id)

    async def health(self) -> EngineHealth:  # noqa: D102
        if self._dispatcher is None:
            return EngineHealth(ok=False, detail="stopped")
        if problem := self._dispatcher.problem:
            return EngineHealth(ok=False, detail=f"the broker does not answer, jobs wait for it: {problem}")
        if not await asyncio.to_thread(self._is_led):
            return EngineHealth(ok=False, detail="no worker runs; start one with `intake worker`")
        return EngineHealth(ok=True, detail="the broker answers, and workers run")

    def _tell(self, job_id: str) -> None:
        job = self._store.get(job_id)
        if not job.done:
            self._publisher.publish(job)

    def _look(self) -> None:
        self._publisher.waiting()

    def _is_led(self) -> bool:
        try:
            return self._store.is_led()
        except OSError:
            return False
