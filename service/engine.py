"""The engine that the settings ask for: a part of the composition root."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from service.engines.base import Engine
from service.engines.local import LocalEngine
from service.jobs.store import JobStore
from service.placement import extra
from service.settings import Settings

if TYPE_CHECKING:
    from service.engines.celery.worker import CeleryWorker


def build_engine(settings: Settings, root: Path, store: JobStore) -> Engine:
    """Build what an API process tells of jobs. Raises ConfigError without the extra."""
    if settings.engine == "celery":
        with extra("celery", "INTAKE_ENGINE"):
            from service.engines.celery.engine import CeleryEngine
        return CeleryEngine(settings, store)
    return LocalEngine(root, environment=settings.environment(), drain=settings.drain.total_seconds())


def build_worker(settings: Settings) -> CeleryWorker:
    """Build what takes jobs from a broker, for the engine ``celery``. Raises ConfigError without the extra."""
    with extra("celery", "INTAKE_ENGINE"):
        from service.engines.celery.worker import CeleryWorker
    return CeleryWorker(settings)


def require_engine(settings: Settings) -> None:
    """Raise ConfigError when what the engine needs is not installed."""
    if settings.engine == "celery":
        build_worker(settings)
