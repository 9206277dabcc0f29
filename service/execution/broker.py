"""Connections that an attempt's process cannot open by itself: it asks over its channel and gets a descriptor, or a no.

A confined process has no right to make a socket. What it may talk to is what a step of its pipeline names in ``needs`` and the
operator has configured; the connecting is done out here, and the process is handed that one connection.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from service.execution import wire

_CONNECT_TIMEOUT: Final = 2.0  #: seconds
_MOST: Final = 16  #: connections of one attempt
_YES: Final = b"+"
_NO: Final = b"-"


class Broker:
    """Connects one attempt to the helpers of its pipeline: names, and the Unix sockets they listen on."""

    def __init__(self, helpers: Mapping[str, Path]) -> None:
        self._helpers = helpers
        self._left = _MOST

    def answer(self, channel: socket.socket, frame: Mapping[str, object]) -> None:
        """Answer the request ``frame`` that came over ``channel``. Raises ValueError when it may not be asked."""
        helper, self._left = frame.get("helper"), self._left - 1
        if not isinstance(helper, str) or helper not in self._helpers or self._left < 0:
            raise ValueError("a request for a connection that is not this attempt's")
        try:
            with connect(self._helpers[helper]) as connection:
                socket.send_fds(channel, [_YES], [connection.fileno()])
        except OSError:
            with suppress(OSError):  # it has left, or does not read; neither is served better by waiting
                channel.send(_NO)


def connect(path: Path) -> socket.socket:
    """Connect to a Unix socket. Raises OSError, also for a helper that takes no connection within two seconds."""
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(_CONNECT_TIMEOUT)
        connection.connect(str(path))
        connection.settimeout(None)
    except BaseException:
        connection.close()
        raise
    return connection


def ask(channel: socket.socket, helper: str) -> socket.socket:
    """In the attempt's process: return a connection to ``helper``. Raises ConnectionRefusedError when there is none."""
    wire.send(channel, {"event": "connect", "helper": helper})
    data, descriptors, _, _ = socket.recv_fds(channel, 1, 1)
    if data != _YES or not descriptors:
        raise ConnectionRefusedError(f"{helper} cannot be reached")
    return socket.socket(fileno=descriptors[0])
