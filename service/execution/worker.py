"""``intake worker`` with the engine ``celery``: takes jobs from the broker, runs their attempts, and stands for the lead."""

from __future__ import annotations

import threading
from contextlib import closing
from functools import partial
from typing import Final

import structlog

from service import faults
from service.clock import UnhurriedClock
from service.durable import keep_private
from service.engine import build_worker
from service.errors import IntakeError
from service.execution.attempt import AttemptRunner
from service.execution.reconcile import Reconciler
from service.execution.station import running_attempts
from service.execution.upkeep import Upkeep
from service.jobs.model import JobStatus
from service.logs import configure
from service.maintenance import collect
from service.sending import build_outbox
from service.settings import Settings
from service.wiring import Services, build

log = structlog.get_logger(__name__)
_PATIENCE: Final = 5  #: looks at the records, until a message may be missed


def serve(settings: Settings) -> int:
    """Work until signalled, and return the exit code. Raises ConfigError when the settings cannot work."""
    configure(settings)
    keep_private()
    faults.arm(settings.faults)
    celery = build_worker(settings)
    services = build(settings)
    interrupt = threading.Event()
    with running_attempts(settings, services) as runner, closing(celery.publisher()) as publisher:
        poll = settings.poll.total_seconds()
        expiry = UnhurriedClock(services.clock)
        upkeep = Upkeep(
            store=services.store,
            reconciler=lambda told: Reconciler(
                store=services.store,
                storage=services.storage,
                publish=publisher.publish,
                waiting=publisher.waiting,
                judge=runner.judge,
                clock=services.clock,
                told=told,
                patience=_PATIENCE * poll,
            ),
            outbox=partial(build_outbox, settings, services),
            tidy=lambda over: collect(services, now=expiry(), stopped=over),
            poll=poll,
        )
        upkeep.start()
        try:
            code = celery.work(partial(_attempt, services, runner, interrupt), interrupt)
        finally:
            upkeep.stop()
    log.info("worker has left")
    return code


def _attempt(services: Services, runner: AttemptRunner, interrupt: threading.Event, job_id: str) -> bool:
    """Run one attempt if the job is due; tell whether its message should go to another worker."""
    try:
        job = runner.run(job_id, interrupt)
    except (IntakeError, OSError) as error:
        log.warning("an attempt could not be made; the reconciler finds the job", job_id=job_id, error=str(error))
        return False
    if job is None:
        log.warning("a message names a job that is not here", job_id=job_id, data_dir=str(services.settings.data_dir))
        return False
    return interrupt.is_set() and job.status is JobStatus.QUEUED and job.is_due(services.clock())
