"""The Celery application of the peers: late acks on Redis, a task that does nothing and one that hashes a file."""

from __future__ import annotations

import os
from typing import Any

from celery import Celery

from bench.peers.naive import process

app = Celery("peers", broker=os.environ.get("PEER_BROKER", "redis://127.0.0.1:6379/0"))
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=1,
    task_ignore_result=True,
    broker_connection_retry_on_startup=True,
)


@app.task
def nothing() -> None:
    """Count one more task that has run."""
    import redis

    global _counter
    if _counter is None:
        _counter = redis.Redis.from_url(app.conf.broker_url)
    _counter.incr("ran")


_counter: Any = None


@app.task
def hash_file(job: dict[str, Any]) -> None:
    """Hash the file and write its record."""
    process(job)
