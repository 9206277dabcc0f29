"""How many requests a client may make in a time, counted within this process, and the fields that tell it (RateLimit draft -10)."""

from __future__ import annotations

import math
import time
from typing import Final

import limits
from fastapi import Request
from limits.aio.storage import MemoryStorage
from limits.aio.strategies import FixedWindowRateLimiter

from service.access.model import Principal
from service.errors import TooMany

_POLICY: Final = "requests"


class Rates:
    """Counts requests by token, and by address where there is none. A window begins with the first request in it.

    Every API process counts for itself, and a restart begins anew: it is there against programs that run wild.
    """

    def __init__(self, limit: str) -> None:
        self._limit = limits.parse(limit)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())

    async def count(self, request: Request, principal: Principal) -> None:
        """Count a request, and leave the fields for its answer in the state of the request. Raises TooMany."""
        client = principal.id or (request.client.host if request.client else "")
        allowed = await self._limiter.hit(self._limit, client)
        window = await self._limiter.get_window_stats(self._limit, client)
        seconds = max(1, math.ceil(window.reset_time - time.time()))
        request.state.rate_limit = {
            "RateLimit-Policy": f'"{_POLICY}";q={self._limit.amount};w={self._limit.get_expiry()}',
            "RateLimit": f'"{_POLICY}";r={max(0, window.remaining)};t={seconds}',
        }
        if not allowed:
            raise TooMany(
                f"The limit is {self._limit.amount} requests in {self._limit.get_expiry()} seconds.",
                code="rate-limited",
                hint="Wait for Retry-After; poll with If-None-Match, or wait for a job with Prefer: wait.",
                retry_after=seconds,
            )
