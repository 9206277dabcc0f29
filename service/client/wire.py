"""Sending, sleeping and reading, and nothing else: what a synchronous and an asynchronous client do differently.

All decisions are made by generators (``service.client.operations``). They yield what they want done and are sent what came
of it, so that each is written once, and a test can drive it without a network or a clock.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, AsyncIterator, Generator, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import httpx

T = TypeVar("T")


@dataclass(frozen=True)
class Send:
    """Send a request. The answer is sent back, or the ``httpx.TransportError`` is raised at the yield.

    With ``stream``, the body of a good answer is left for ``Read``, and redirects are followed, to other hosts without the token.
    The next Send, or the end, closes the answer.
    """

    request: httpx.Request
    stream: bool = False


@dataclass(frozen=True)
class Read:
    """Read the next bytes of the streamed answer; none at its end."""


@dataclass(frozen=True)
class Sleep:
    """Do nothing for some seconds."""

    seconds: float


@dataclass(frozen=True)
class Tell:
    """Hand a value to whoever is interested before there is a result."""

    value: Any


Operation = Generator[Send | Read | Sleep | Tell, Any, T]


def run(http: httpx.Client, operation: Operation[T]) -> T:
    """Carry an operation out in this thread and return its result; errors it raises pass through."""
    driven = each(http, operation)
    while True:
        try:
            next(driven)
        except StopIteration as stop:
            value: T = stop.value
            return value


def each(http: httpx.Client, operation: Operation[T]) -> Generator[Any, None, T]:
    """Carry an operation out in this thread, yield what it tells, and return its result."""
    result: object = None
    error: httpx.TransportError | None = None
    with contextlib.ExitStack() as stack:
        chunks: Iterator[bytes] | None = None
        while True:
            try:
                effect = operation.throw(error) if error else operation.send(result)
            except StopIteration as stop:
                value: T = stop.value
                return value
            result = error = None
            try:
                match effect:
                    case Tell(told):
                        yield told
                    case Sleep(seconds):
                        time.sleep(seconds)
                    case Read():
                        result = next(chunks, b"") if chunks else b""
                    case Send(request, stream):
                        stack.close()
                        result = response = http.send(request, stream=stream, follow_redirects=stream)
                        stack.callback(response.close)
                        if response.is_error:
                            response.read()
                        chunks = response.iter_raw() if stream and not response.is_error else None
            except httpx.TransportError as failure:
                error = failure


async def run_async(http: httpx.AsyncClient, operation: Operation[T]) -> T:
    """Do the same as ``run`` in the running event loop."""
    async with contextlib.aclosing(_each_async(http, operation)) as driven:
        async for told in driven:
            if isinstance(told, _Result):
                value: T = told.value
                return value
    raise AssertionError("an operation ends with a result")


async def each_async(http: httpx.AsyncClient, operation: Operation[Any]) -> AsyncGenerator[Any, None]:
    """Do the same as ``each`` in the running event loop; the result is dropped."""
    async with contextlib.aclosing(_each_async(http, operation)) as driven:
        async for told in driven:
            if not isinstance(told, _Result):
                yield told


@dataclass(frozen=True)
class _Result:
    value: Any


async def _each_async(http: httpx.AsyncClient, operation: Operation[Any]) -> AsyncGenerator[Any, None]:
    result: object = None
    error: httpx.TransportError | None = None
    async with contextlib.AsyncExitStack() as stack:
        chunks: AsyncIterator[bytes] | None = None
        while True:
            try:
                effect = operation.throw(error) if error else operation.send(result)
            except StopIteration as stop:
                yield _Result(stop.value)
                return
            result = error = None
            try:
                match effect:
                    case Tell(told):
                        yield told
                    case Sleep(seconds):
                        await asyncio.sleep(seconds)
                    case Read():
                        result = await anext(chunks, b"") if chunks else b""
                    case Send(request, stream):
                        await stack.aclose()
                        result = response = await http.send(request, stream=stream, follow_redirects=stream)
                        stack.push_async_callback(response.aclose)
                        if response.is_error:
                            await response.aread()
                        chunks = response.aiter_raw() if stream and not response.is_error else None
            except httpx.TransportError as failure:
                error = failure
