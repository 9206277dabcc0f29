"""Looking at a machine and its data directory: can the service run well here, and what is wrong."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

from service.durable import Disk, free_bytes
from service.engine import build_worker
from service.engines.dispatch import BrokerAway
from service.errors import IntakeError
from service.findings import Finding
from service.fsck import Fsck
from service.fsck_webhooks import WebhookFsck
from service.inspection import Inspection
from service.jobs.lease import is_led
from service.settings import Settings
from service.wiring import Services, build, load_catalogue


def diagnose(settings: Settings) -> list[Finding]:
    """Look at settings, disk, supervisor, processors and records, and say what is wrong with them."""
    return list(_diagnose(settings))


def _diagnose(settings: Settings) -> Iterator[Finding]:
    root = settings.data_dir.resolve()
    try:
        catalogue = load_catalogue(settings)
        found = f"{len(catalogue.registry)} processors, {len(catalogue.pipelines)} pipelines"
        yield Finding(level="ok", subject="pipelines", detail=found)
        services = build(settings, catalogue=catalogue)
        yield _sync_time(settings)
    except (IntakeError, OSError) as error:
        yield Finding(level="fail", subject="start", detail=str(error), hint="Nothing starts before this is right.")
        return
    with closing(services):
        yield from _examine(settings, services, root)


def _examine(settings: Settings, services: Services, root: Path) -> Iterator[Finding]:
    free = free_bytes(root)
    level: Literal["ok", "fail"] = "ok" if free > settings.min_free else "fail"
    hint = None if level == "ok" else "Uploads are refused; free space or lower INTAKE_MIN_FREE."
    yield Finding(level=level, subject="disk", detail=f"{free / 2**30:.1f} GiB free in {root}", hint=hint)
    if settings.bucket is not None:
        yield _answer_time(settings, services)
    is_local = settings.engine == "local"
    alive = is_led(root) if is_local else services.store.is_led()
    waiting = len(services.store.pending())
    yield Finding(
        level="ok" if alive or not waiting else "warn",
        subject="supervisor" if is_local else "workers",
        detail=f"{'running' if alive else 'not running'}, {waiting} jobs not done",
        hint=None if alive else "It starts with `intake serve` or `intake worker`.",
    )
    if not is_local:
        yield _broker(settings)
    yield from examine(services)


def _broker(settings: Settings) -> Finding:
    with closing(build_worker(settings).publisher()) as publisher:
        try:
            waiting = publisher.waiting()
        except BrokerAway as error:
            hint = "Uploads are taken; jobs wait until it answers. See INTAKE_BROKER_URL."
            return Finding(level="fail", subject="broker", detail=f"it does not answer: {error}", hint=hint)
    return Finding(level="ok", subject="broker", detail=f"answers, {waiting} messages wait")


def examine(services: Services, *, deep: bool = False, repair: bool = False) -> Iterator[Finding]:
    """Yield what is wrong with records and bytes, wherever the records are; ``deep`` reads all bytes, ``repair`` mends."""
    yield from WebhookFsck(services, repair=repair).run()
    kind = Fsck if services.settings.records.get_secret_value() == "files" else Inspection
    yield from kind(services, deep=deep, repair=repair).run()


def _answer_time(settings: Settings, services: Services) -> Finding:
    began = time.perf_counter()
    try:
        services.storage.probe()
    except OSError as error:
        hint = "Uploads and downloads are refused until it works again."
        return Finding(level="fail", subject="storage", detail=f"{settings.bucket}: {error}", hint=hint)
    took = (time.perf_counter() - began) * 1000
    return Finding(
        level="ok", subject="storage", detail=f"{settings.bucket}, {took:.0f} ms to write and remove an object"
    )


def _sync_time(settings: Settings) -> Finding:
    probe = settings.data_dir / "engine" / f"doctor-{os.getpid()}"
    began = time.perf_counter()
    Disk(sync=True).write(probe, b"doctor")
    took = (time.perf_counter() - began) * 1000
    probe.unlink()
    slow = took > 100
    hint = "Each upload waits for a few of these." if slow else None
    return Finding(
        level="warn" if slow else "ok", subject="sync", detail=f"{took:.1f} ms for one durable write", hint=hint
    )
