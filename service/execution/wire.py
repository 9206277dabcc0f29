"""What an attempt's process and its runner say to each other over a socket: one request down, then reports up.

Frames are a length (4 bytes, big-endian) and that many bytes of JSON. The process may be hostile: its frames are capped.
"""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from service.execution.sandbox import ProcessLimits

MAX_FRAME: Final = 2**20
MAX_LOG_LINES: Final = 200  #: of one attempt
_FOLLOWED: Final = ("succeeded", "failed", "skipped")  #: of a step: the next one begins, or there is the outcome
_HEAD: Final = struct.Struct("!I")


class WireError(Exception):
    """A frame is too long, or is not a JSON object."""


@dataclass(frozen=True, kw_only=True)
class Request:
    """All that an attempt's process needs to know."""

    job_id: str
    attempt: int
    source: dict[str, Any]  #: path, filename, declared_type, size
    sha256: str  #: of the source, hexadecimal
    workdir: str  #: empty for a process that is shared, as none of its steps makes anything
    steps: list[dict[str, Any]]  #: name, processor, options, input
    finished: dict[str, dict[str, Any]]  #: by step: facts, and artifacts as name -> [path, media type, size, SHA-256]
    limits: dict[str, int]  #: members of processors.Limits
    process: ProcessLimits
    code: list[str] = field(default_factory=list)  #: folders of processors that are not installed
    descriptor: int | None = None  #: the source, open for reading, for a process that is shared

    @property
    def is_shared(self) -> bool:
        """Whether the process may be one that works on others too."""
        return self.descriptor is not None

    def files(self) -> Iterator[str]:
        """Yield the paths of the artifacts that steps may read."""
        for done in self.finished.values():
            yield from (path for path, *_ in done["artifacts"].values())

    def send(self, channel: socket.socket) -> None:
        """Send the request; blocks until the process has taken it."""
        send(channel, {**vars(self), "process": vars(self.process)})
        if self.descriptor is not None:
            socket.send_fds(channel, [b"s"], [self.descriptor])

    @classmethod
    def receive(cls, channel: socket.socket) -> Request:
        """Read the request. Raises EOFError when the runner is gone."""
        size = _HEAD.unpack(_exactly(channel, _HEAD.size))[0]
        raw = json.loads(_exactly(channel, size))
        if raw["descriptor"] is not None:
            _, received, _, _ = socket.recv_fds(channel, 1, 1)
            if not received:
                raise EOFError
            raw["descriptor"] = received[0]
        return cls(**{**raw, "process": ProcessLimits(**raw["process"])})


def send(channel: socket.socket, value: dict[str, Any]) -> None:
    """Send one frame."""
    channel.sendall(_framed(value))


class Reports:
    """Sends what an attempt reports, from any thread. What another report follows at once waits for it: each wakes the runner."""

    def __init__(self, channel: socket.socket) -> None:
        self.channel = channel
        self._lock = threading.Lock()
        self._held = b""

    def tell(self, event: dict[str, Any]) -> None:
        """Send a report: one of the pipeline's runner (``processors.runner``), or of the process itself."""
        with self._lock:
            self._held += _framed(event)
            if event["event"] != "confined" and event.get("status") not in _FOLLOWED:
                self.channel.sendall(self._held)
                self._held = b""


class FrameReader:
    """Cuts a stream of bytes into frames."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    @property
    def is_empty(self) -> bool:
        """Whether nothing has begun to arrive."""
        return not self._buffer

    def feed(self, data: bytes) -> Iterator[dict[str, Any]]:
        """Take bytes and yield the frames that are whole now. Raises WireError after the frames that are good."""
        self._buffer += data
        while len(self._buffer) >= _HEAD.size:
            size = _HEAD.unpack_from(self._buffer)[0]
            if size > MAX_FRAME:
                raise WireError(f"a frame of {size} bytes")
            if len(self._buffer) < _HEAD.size + size:
                break
            frame = bytes(self._buffer[_HEAD.size : _HEAD.size + size])
            del self._buffer[: _HEAD.size + size]
            try:
                value = json.loads(frame)
            except (ValueError, RecursionError) as error:
                raise WireError("a frame that is not JSON") from error
            if not isinstance(value, dict):
                raise WireError("a frame that is not an object")
            yield value


def _framed(value: dict[str, Any]) -> bytes:
    data = json.dumps(value, separators=(",", ":")).encode()
    return _HEAD.pack(len(data)) + data


def _exactly(channel: socket.socket, size: int) -> bytes:
    data = bytearray()
    while len(data) < size:
        piece = channel.recv(min(size - len(data), 2**16))
        if not piece:
            raise EOFError
        data += piece
    return bytes(data)
