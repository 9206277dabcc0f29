"""Whether the client is still there, for those who wait for something on its behalf."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from typing import TypeVar, cast

from starlette.types import Scope

from service.errors import ClientGone

T = TypeVar("T")


async def while_there(scope: Scope, work: Awaitable[T]) -> T:
    """Await the work as long as the client is there. Raises ClientGone.

    The connection tells (``service.protocol``): reading on until it ends would take a task for each who waits.
    """
    left: asyncio.Future[None] | None = scope["state"].get("left")
    if left is None:  # a server that does not tell
        return await work
    task, waits = cast("asyncio.Task[T]", asyncio.current_task()), True

    def leave(_: object) -> None:
        if waits:
            task.cancel()

    left.add_done_callback(leave)
    try:
        return await work
    except asyncio.CancelledError:
        if left.done() and not task.uncancel():
            raise ClientGone("The client left while it was waiting.") from None
        raise
    finally:
        waits = False
        left.remove_done_callback(leave)
