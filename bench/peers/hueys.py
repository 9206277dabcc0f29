"""The empty task of RQ and huey: count one more that has run."""

from __future__ import annotations

import os

import redis
from huey import RedisHuey

_BROKER = os.environ.get("PEER_BROKER", "redis://127.0.0.1:6379/0")
huey = RedisHuey("peers", url=_BROKER, results=False)
_store = redis.Redis.from_url(_BROKER)


def count() -> None:
    """Count."""
    _store.incr("ran")


huey.task(name="count")(count)
