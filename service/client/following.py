"""Following a job: by its event stream, and where there is none, by requests that wait, and where they do not, by looking."""

from __future__ import annotations

import codecs
import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Final

import httpx

from service.client.document import Snapshot
from service.client.operations import Api, job_path
from service.client.wire import Operation, Read, Send, Sleep, Tell

if TYPE_CHECKING:
    from collections.abc import Generator

_SILENCE: Final = 20.0  #: seconds; the service breaks a longer one with a comment
_TRIES: Final = 3  #: streams in a row that tell nothing, until it is done without them
_STREAM: Final = "text/event-stream"
_PROGRESS: Final = "job.progress"


class Events:
    """Reads a stream of server-sent events (HTML standard, section 9.2.6), piece by piece."""

    def __init__(self) -> None:
        self.last_id: str | None = None
        self.count = 0  #: of events so far
        self.begin()

    def begin(self) -> None:
        """Begin another stream; what the one before left unfinished is dropped."""
        self._decode = codecs.getincrementaldecoder("utf-8")(errors="replace").decode
        self._rest = ""
        self._name, self._data = "", list[str]()
        self._id: str | None = None

    def feed(self, piece: bytes) -> Iterator[tuple[str, str]]:
        """Yield name and data of each event that is whole now. The service ends its lines with LF alone."""
        *lines, self._rest = (self._rest + self._decode(piece)).split("\n")
        for line in lines:
            name, _, value = line.partition(":")
            value = value.removeprefix(" ")
            if name == "event":
                self._name = value
            elif name == "data":
                self._data.append(value)
            elif name == "id":
                self._id = value
            elif not line:
                self.last_id = self._id if self._id is not None else self.last_id
                told, self._name, self._data, self._id = (self._name, "\n".join(self._data)), "", [], None
                if told[1]:
                    self.count += 1
                    yield told


def follow(api: Api, last: Snapshot, *, timeout: float | None = None) -> Operation[None]:
    """Tell the job after each change that is seen, up to its end.

    Raises:
        WaitTimeout: it has not ended within ``timeout`` seconds.

    """
    deadline = None if timeout is None else api.clock() + timeout
    events, failures = Events(), 0
    while not last.document["done"] and failures < _TRIES:
        left = None if deadline is None else deadline - api.clock()
        if left is not None and left < 1:
            break
        before = events.count
        supported, last = yield from _listen(api, last, events, left)
        if not supported:
            break
        failures = failures + 1 if events.count == before else 0
        if failures:
            yield Sleep(api.backoff * 2 ** (failures - 1))
    while not last.document["done"]:
        last = yield from api.poll(last, deadline=deadline)
        yield Tell(last)


def _listen(
    api: Api, last: Snapshot, events: Events, left: float | None
) -> Generator[Send | Read | Sleep | Tell, Any, tuple[bool, Snapshot]]:
    """Tell what one stream tells; return whether there are such streams, and the job as it was told last."""
    events.begin()
    headers = {"Accept": _STREAM}
    if events.last_id is not None:
        headers["Last-Event-ID"] = events.last_id
    if left is not None:
        headers["Prefer"] = f"wait={int(left)}"
    request = api.request("GET", f"{job_path(str(last.document['id']))}/events", headers=headers)
    silence = max(api.timeout, _SILENCE)
    request.extensions["timeout"]["read"] = silence if left is None else min(silence, left + 1)
    try:
        response: httpx.Response = yield Send(request, True)
    except httpx.TransportError:
        return True, last
    if response.status_code != httpx.codes.OK or not response.headers.get("Content-Type", "").startswith(_STREAM):
        return False, last  # the next look says why, or is good enough
    while True:
        try:
            piece: bytes = yield Read()
        except httpx.TransportError:
            return True, last
        if not piece:
            return True, last
        for name, data in events.feed(piece):
            now = _seen(last, name, data)
            if now.document != last.document:
                last = now
                yield Tell(last)
            if last.document["done"]:
                return True, last


def _seen(last: Snapshot, name: str, data: str) -> Snapshot:
    """Return the job after an event; a status that had passed when it was told changes nothing, the next event does."""
    told = json.loads(data)
    if name == _PROGRESS:
        further = {step["name"]: step["progress"] for step in told["steps"]}
        steps = [
            step | {"progress": further.get(step["name"], step.get("progress"))} for step in last.document["steps"]
        ]
        return Snapshot({**last.document, "version": told["version"], "progress": told["progress"], "steps": steps})
    return Snapshot(told) if "file" in told else last
