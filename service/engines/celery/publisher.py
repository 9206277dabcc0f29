"""Publishing jobs: one connection, for one thread; a try ends within a few seconds whatever the broker does."""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import Any

from celery import Celery
from kombu import Connection, Producer
from kombu.exceptions import KombuError

from service.engines.celery.app import CONFIRM_WITHIN, PUBLISHING, TASK, dead_letters, kind_of, queue_name
from service.engines.dispatch import BrokerAway
from service.engines.routes import queue_of
from service.jobs.model import Job


class Publisher:
    """Connects when it has something to say, and again after any failure. All methods raise BrokerAway alone."""

    def __init__(self, app: Celery, *, bulk_size: int) -> None:
        self._app = app
        self._bulk_size = bulk_size
        self._kind = kind_of(app.conf.broker_url)
        self._connection: Connection | None = None
        self._producer: Producer | None = None
        self._errors: tuple[type[BaseException], ...] = (OSError, KombuError)

    def publish(self, job: Job) -> None:
        """Put the id of a job into its queue; when this returns the broker has confirmed it."""
        queue = queue_name(queue_of(job.file, bulk_size=self._bulk_size))
        task_id = f"{job.id}.{job.attempt + 1}.{uuid.uuid4().hex[:8]}"  # the attempt it asks for; Flower shows it

        def send(producer: Producer) -> None:
            self._app.send_task(
                TASK,
                (job.id,),
                task_id=task_id,
                queue=queue,
                producer=producer,
                retry=False,
                ignore_result=True,
                confirm_timeout=CONFIRM_WITHIN,
            )

        self._with_producer(send)

    def waiting(self) -> int:
        """Return how many messages wait in all queues; those that workers hold are not counted."""
        total = 0

        def count(producer: Producer) -> None:
            nonlocal total
            total = sum(self._declare(producer, queue) for queue in self._app.amqp.queues.values())

        self._with_producer(count)
        return total

    def close(self) -> None:
        """Hang up, without a word."""
        connection, self._connection, self._producer = self._connection, None, None
        if connection is not None:
            with suppress(Exception):
                connection.collect(socket_timeout=0.1)

    def _declare(self, producer: Producer, queue: Any) -> int:
        channel = producer.channel
        arguments = channel.prepare_queue_arguments(queue.queue_arguments or {})
        told = channel.queue_declare(queue=queue.name, durable=True, auto_delete=False, arguments=arguments)
        return int(told[1])

    def _with_producer(self, work: Any) -> None:
        fresh = self._producer is None
        try:
            work(self._producer or self._connect())
            return
        except self._errors as error:
            self.close()
            if fresh or isinstance(error, TimeoutError):
                raise BrokerAway(told(error)) from error
        try:  # the connection was an old one: the broker may just have been started anew
            work(self._connect())
        except self._errors as error:
            self.close()
            raise BrokerAway(told(error)) from error

    def _connect(self) -> Producer:
        connection = self._connection = connection_of(self._app, timeout=2)
        self._errors = errors_of(connection)
        connection.connect()
        producer = self._app.amqp.Producer(connection, auto_declare=False)
        if self._kind == "amqp":
            dead_letters()(producer.channel).declare()
        for queue in self._app.amqp.queues.values():
            queue(producer.channel).declare()
        self._producer = producer
        return producer


def connection_of(app: Celery, timeout: float) -> Connection:
    """Return a connection to the broker for short messages, not made yet; ``timeout`` is in seconds."""
    options = app.conf.broker_transport_options | PUBLISHING[kind_of(app.conf.broker_url)]
    return app.connection_for_write(transport_options=options, connect_timeout=timeout, heartbeat=0)


def errors_of(connection: Connection) -> tuple[type[BaseException], ...]:
    """Return what is raised on a connection while its broker is away, or does not do what it should."""
    return (OSError, KombuError, *connection.connection_errors, *connection.channel_errors)


def told(error: BaseException) -> str:
    """Return an error in words; none of them holds the URL."""
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
