"""The Celery worker: threads that each follow one attempt at a time.

Threads, not processes: the attempts are processes already, forked by a zygote of one thread that this process starts with ``exec``;
nothing here forks. So a worker is one process with a zygote, as a supervisor is, and Celery's own time limits, which need its
processes, are not used: the runner has a deadline and ends what goes beyond.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import threading
import warnings
from collections.abc import Callable
from typing import Any, Final

import structlog
from celery import Celery, signals
from celery.apps.worker import Worker
from celery.exceptions import CPendingDeprecationWarning
from celery.exceptions import Reject as PutBack
from celery.worker import state
from celery.worker.consumer import Consumer

from service.engines.celery.app import TASK, make_app, queue_name
from service.engines.celery.publisher import Publisher, connection_of, errors_of, told
from service.engines.dispatch import BrokerAway
from service.ids import is_id
from service.settings import Settings

log = structlog.get_logger(__name__)
Attempt = Callable[[str], bool]
_LEAVE_WITHIN: Final = 15.0  #: seconds from the interruption of attempts, which takes them five or so
_LEFT_OUT: Final = (
    "delayed_delivery:DelayedDelivery"  #: no message is delayed by a broker, so it needs no queues for that
)


class CeleryWorker:
    """Celery for one process that runs attempts."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def publisher(self) -> Publisher:
        """Return what tells the broker of jobs; whoever asked for it closes it."""
        return Publisher(make_app(self._settings), bulk_size=self._settings.bulk_size)

    def answers(self, timeout: float) -> bool:
        """Tell whether a worker of this machine, or container, says over the broker that it is there. Raises BrokerAway.

        ``timeout`` is in seconds; the connection may take as long again.
        """
        app = make_app(self._settings)
        with connection_of(app, timeout) as connection:
            try:
                connection.connect()
                asked = {"timeout": timeout, "limit": 1, "pattern": f"*@{socket.gethostname()}", "matcher": "glob"}
                return bool(app.control.inspect(connection=connection, **asked).ping())
            except errors_of(connection) as error:
                raise BrokerAway(told(error)) from error

    def work(self, attempt: Attempt, interrupt: threading.Event) -> int:
        """Run attempts until SIGTERM or SIGINT, and return the exit code.

        ``attempt`` runs one, in a thread, and tells whether the message should go to another worker. From the first signal on
        no more are begun; ``interrupt`` is set after ``INTAKE_DRAIN``, or at the second signal.
        """
        settings = self._settings
        app = make_app(settings)
        _define(app, attempt, interrupt)
        _quieten()
        drain = Drain(settings.drain.total_seconds(), interrupt)
        worker = _Worker(
            app=app,
            drain=drain,
            hostname=f"intake-{os.getpid()}@{socket.gethostname()}",
            queues=[queue_name(name) for name in settings.queue_names],
            concurrency=settings.slots,
            pool="threads",
            consumer_cls=_Consumer,
            without_gossip=True,  # workers need not know of each other
            without_mingle=True,
            loglevel=settings.log_level.upper(),
            quiet=True,
        )
        log.info("worker runs", queues=settings.queue_names, slots=settings.slots, pid=os.getpid())
        worker.start()
        drain.end()
        return int(worker.exitcode or 0)


class Drain:
    """What follows a signal: running attempts have ``seconds`` to finish, then ``interrupt`` is set; at the second, at once.

    The process is gone a quarter of a minute after that: Celery waits for a broker that hangs without end.
    """

    def __init__(self, seconds: float, interrupt: threading.Event) -> None:
        self._seconds = seconds
        self._interrupt = interrupt
        self._begun = False
        self._over = threading.Event()

    def begin(self, *_: object) -> None:
        """Begin it. Made to be a signal handler."""
        if self._begun:
            self._interrupt.set()
        else:
            self._begun = True
            log.info("running attempts have their chance to finish", seconds=self._seconds)
            threading.Thread(target=self._wait, name="drain", daemon=True).start()
        state.should_stop = 0  # the exit code; Celery's consumer looks at it

    def end(self) -> None:
        """Let the process go on: Celery has stopped."""
        self._over.set()

    def _wait(self) -> None:
        self._interrupt.wait(self._seconds)
        self._interrupt.set()
        if not self._over.wait(_LEAVE_WITHIN):
            log.error("the broker or an attempt keeps this worker from leaving in order; it leaves")
            os._exit(1)


class _Worker(Worker):  # type: ignore[misc]
    """Celery's worker with our signals: its own restart the program at SIGHUP, and wait for tasks without a bound."""

    def __init__(self, *, drain: Drain, **options: Any) -> None:
        self._drain = drain
        super().__init__(**options)

    def install_platform_tweaks(self, worker: object) -> None:  # noqa: ARG002
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._drain.begin)


class _Consumer(Consumer):  # type: ignore[misc]
    class Blueprint(Consumer.Blueprint):  # type: ignore[misc]
        default_steps = tuple(step for step in Consumer.Blueprint.default_steps if not step.endswith(_LEFT_OUT))

    def on_connection_error_after_connected(self, exc: Exception) -> None:
        """Let attempts go on; the broker sends their messages again, to somebody who then finds their jobs taken or done.

        What was received over the lost connection is never acknowledged: kombu 5.7 cannot do that for Redis, nor close such a
        connection, and Celery takes either for its own end.
        """
        for request in (*state.reserved_requests, *state.active_requests):
            request.acknowledged = True
        try:
            super().on_connection_error_after_connected(exc)
        except Exception as error:  # noqa: BLE001 - whatever it is, the connection is gone
            log.debug("what is left of a lost connection is dropped", error=str(error))


def _define(app: Celery, attempt: Attempt, interrupt: threading.Event) -> None:
    def run(job_id: object) -> None:
        """Run an attempt of a job. Ends well whatever becomes of it: the record tells."""
        if not isinstance(job_id, str) or not is_id(job_id):
            log.error("a message holds no id of a job", message=repr(job_id)[:100])
            return
        try:
            elsewhere = interrupt.is_set() or attempt(job_id)
        except Exception:
            log.exception("an attempt could not be made; the reconciler finds the job", job_id=job_id)
            return
        if elsewhere:
            raise PutBack("the worker stops", requeue=True)

    app.task(name=TASK, ignore_result=True, acks_late=True, shared=False)(run)
    app.finalize()


def _quieten() -> None:
    """Let Celery log through what is configured, and not warn of what was decided."""
    signals.setup_logging.connect(_keep_logging, weak=False)
    for name in ("celery.app.trace", "celery.worker.strategy", "kombu", "amqp"):
        logging.getLogger(name).setLevel(logging.WARNING)  # a line for each message says nothing that ours do not
    warnings.filterwarnings("ignore", category=CPendingDeprecationWarning)
    warnings.filterwarnings("ignore", "You're running the worker with superuser privileges")


def _keep_logging(**_: object) -> None:
    """Take the place of Celery's own configuration."""
