"""Celery's configuration for each broker, and the queues. Whatever is not set here is left as Celery 5.7 has it.

A message is a hint: it holds the id of a job, and may be lost, doubled or late. So nothing here tries to make a broker reliable
beyond what costs nothing, and everything is bounded in time.
"""

from __future__ import annotations

from typing import Any, Final

from celery import Celery
from kombu import Exchange, Queue

from service.engines.routes import DEFAULT, QUEUES
from service.settings import Settings

TASK: Final = "intake.attempt"  #: its one argument is the id of a job
DEAD: Final = "intake.dead"  #: where RabbitMQ puts what it gives up
_DELIVERIES: Final = 5  #: of one message, until RabbitMQ gives it up
_DEAD_FOR: Final = 7 * 86400  #: seconds that a dead message is kept for somebody to look at
_DEAD_MOST: Final = 10_000
_HEARTBEAT: Final = 30  #: seconds; a broker that is gone without a word is noticed within a minute
_AFTER_DEADLINE: Final = (
    60.0  #: seconds that an attempt may take beyond its deadline: to be killed, stored and recorded
)

#: Of whoever publishes: nothing takes longer than a few seconds, and nothing is tried twice.
PUBLISHING: Final[dict[str, dict[str, Any]]] = {
    "amqp": {"confirm_publish": True, "connect_timeout": 2, "read_timeout": 5, "write_timeout": 5, "max_retries": 0},
    "redis": {"socket_timeout": 3, "socket_connect_timeout": 2, "retry_on_timeout": False},
}
CONFIRM_WITHIN: Final = 3.0  #: seconds


def kind_of(url: str) -> str:
    """Return ``amqp`` or ``redis`` for the URL of a broker."""
    return "amqp" if url.startswith("amqp") else "redis"


def queue_name(name: str) -> str:
    """Return what the broker calls a queue."""
    return f"intake.{name}"


def make_app(settings: Settings) -> Celery:
    """Return the application, configured; it connects to nothing."""
    assert settings.broker_url is not None, "settings with the engine celery have one"
    url = settings.broker_url.get_secret_value()
    kind = kind_of(url)
    app = Celery("intake", set_as_current=False)
    app.conf.update(
        broker_url=url,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,  # a worker outlives any outage
        broker_connection_timeout=4,
        broker_heartbeat=_HEARTBEAT,
        broker_transport_options=_transport_options(kind, settings),
        task_serializer="json",
        accept_content=["json"],  # no pickle, ever
        task_ignore_result=True,  # the record is the truth; there is no result backend
        task_acks_late=True,
        task_acks_on_failure=True,  # the record holds the failure; a message that came back would loop
        task_acks_on_timeout=True,
        task_reject_on_worker_lost=True,
        task_create_missing_queues=False,
        task_default_queue=queue_name(DEFAULT),
        task_queues=[_queue(kind, queue_name(name)) for name in QUEUES],
        task_send_sent_event=True,  # for Flower
        worker_send_task_events=True,
        worker_prefetch_multiplier=1,
        # The record tells a redelivered message apart, so an attempt goes on while the broker is away, and runs once.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_enable_prefetch_count_reduction=False,
        worker_soft_shutdown_timeout=settings.drain.total_seconds(),  # at SIGQUIT; SIGTERM has our own drain
        worker_enable_soft_shutdown_on_idle=True,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
    )
    return app


def dead_letters() -> Queue:
    """Return the queue of what RabbitMQ has given up. Nobody needs to read it: the records know all jobs."""
    arguments = {"x-queue-type": "quorum", "x-message-ttl": _DEAD_FOR * 1000, "x-max-length": _DEAD_MOST}
    return Queue(DEAD, Exchange(DEAD, type="fanout"), queue_arguments=arguments)


def _queue(kind: str, name: str) -> Queue:
    arguments = {
        "x-queue-type": "quorum",
        "x-delivery-limit": _DELIVERIES,
        "x-dead-letter-exchange": DEAD,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",  # which that strategy asks for
    }
    return Queue(name, Exchange("intake"), name, queue_arguments=arguments if kind == "amqp" else None)


def _transport_options(kind: str, settings: Settings) -> dict[str, Any]:
    if kind == "amqp":
        return {"confirm_publish": True}
    limit = settings.deadline.total_seconds() + _AFTER_DEADLINE
    return {
        "visibility_timeout": 2 * limit,  # or Redis would give a running job's message to somebody else
        "unacked_restore_interval": 5,
        "unacked_restore_throttle": 1,
        "socket_timeout": 5,  # without it a broker that hangs is waited for without end
        "socket_connect_timeout": 2,
        "socket_keepalive": True,
        "retry_on_timeout": False,
        "health_check_interval": 25,
        "queue_order_strategy": "priority",
        "global_keyprefix": "intake:",
    }
