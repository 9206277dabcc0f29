"""What every process that runs attempts needs: a runner with its launcher and traces, let go of in order at the end."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from service import telemetry
from service.execution.attempt import AttemptRunner
from service.settings import Settings
from service.wiring import Services, build_runner


@contextmanager
def running_attempts(settings: Settings, services: Services) -> Iterator[AttemptRunner]:
    """Give a runner whose launcher is warm; at the end everything it has started is ended, and the services are closed."""
    provider = telemetry.start(settings)
    tell = telemetry.AttemptSpans(provider).tell if provider else lambda _: None
    runner, launcher = build_runner(settings, services, tell=tell)
    launcher.warm()
    try:
        yield runner
    finally:
        launcher.stop()
        services.close()
        telemetry.stop(provider)
