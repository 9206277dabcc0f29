"""Endpoints: who gets webhooks, and the secrets that sign them.

A standing endpoint gets the events of all jobs. Besides, each owner of jobs can have one secret for the ``callback_url`` of its
jobs: that is kept as an endpoint without a URL. Secrets are shown when they are made, and never again; they are kept as they are,
as signing needs them, in files that the service alone may read.
"""

from __future__ import annotations

import base64
import re
import secrets
import string
import threading
from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

import structlog
from pydantic import Field

from service.durable import Disk, hand_over, locked
from service.errors import NotFound
from service.jobs.record import sum_of
from service.jobs.value import Moment, Value

log = structlog.get_logger(__name__)
_ID: Final = re.compile(r"(ep|cb)_[0-9a-z]{1,20}")
_SEALED: Final = re.compile(rb'\{"sum":"([0-9a-f]{16})",')
_DIGITS: Final = string.digits + string.ascii_lowercase
_BYTES: Final = 32  #: of a secret; Standard Webhooks wants 24 to 64
_SUFFIX: Final = ".json"
KEPT: Final = timedelta(days=1)  #: how long an old secret signs beside a new one, unless told


class Secret(Value):
    """A secret that signs until a moment, or for ever."""

    value: str = Field(repr=False)
    until: Moment | None = None


class Endpoint(Value):
    """Who is told by webhook."""

    id: str
    url: str | None = Field(None, description="Null where each job names its own.")
    events: tuple[str, ...] = Field((), description="Names of events; all where it is empty.")
    description: str = ""
    secrets: tuple[Secret, ...] = ()
    created_at: Moment
    disabled_at: Moment | None = None
    disabled_because: str | None = None

    def public(self) -> dict[str, Any]:
        """Return what may be shown of it."""
        shown = self.model_dump(mode="json", exclude={"secrets"})
        return {**shown, "state": "disabled" if self.disabled_at else "ok"}

    def valid_secrets(self, now: datetime) -> list[str]:
        """Return the secrets that sign at this moment, the newest first."""
        return [one.value for one in self.secrets if one.until is None or now < one.until]

    def rotated(self, now: datetime, keep: timedelta) -> tuple[str, Endpoint]:
        """Return a new secret and the endpoint with it; those before it sign along for ``keep``."""
        fresh = new_secret()
        old = [one.evolve(until=min(one.until or now + keep, now + keep)) for one in self.secrets]
        valid = [one for one in old if one.until > now]
        return fresh, self.evolve(secrets=(Secret(value=fresh), *valid))


def new_secret() -> str:
    """Return a fresh secret as Standard Webhooks writes it."""
    return "whsec_" + base64.b64encode(secrets.token_bytes(_BYTES)).decode()


def new_endpoint(url: str, now: datetime, *, events: tuple[str, ...] = (), description: str = "") -> Endpoint:
    """Return a standing endpoint without a secret; ``rotated`` gives it one."""
    name = "ep_" + "".join(secrets.choice(_DIGITS) for _ in range(12))
    return Endpoint(id=name, url=url, events=events, description=description, created_at=now)


def callback_id(owner: str | None) -> str:
    """Return the id under which the secret for the callbacks of this owner's jobs is kept."""
    return f"cb_{owner or 'anybody'}"


def no_such_endpoint(name: str) -> NotFound:
    """Return what is raised for an endpoint that is not there."""
    return NotFound(f"There is no webhook endpoint {name[:64]!r}.", hint="`intake webhooks list` shows them all.")


def encode(endpoint: Endpoint) -> bytes:
    """Return the record of an endpoint: one line of JSON, with the sum of all bytes that follow it, as that of a job has it."""
    body = endpoint.model_dump_json().encode()[1:] + b"\n"
    return b'{"sum":"%b",' % sum_of(body) + body


def decode(data: bytes, name: str) -> Endpoint:
    """Return the endpoint of a record. Raises ValueError for what is not as it was written; by hand, ``"sum":null`` will do."""
    if not by_hand(data):
        head = _SEALED.match(data)
        if head is None or sum_of(data[head.end() :]) != head[1]:
            raise ValueError("it has changed since it was written")
    endpoint = Endpoint.model_validate_json(data)
    if endpoint.id != name:
        raise ValueError(f"it is the record of endpoint {endpoint.id}")
    return endpoint


def by_hand(data: bytes) -> bool:
    """Tell whether somebody has changed a record on purpose, and says so."""
    return re.match(rb'\{\s*"sum"\s*:\s*null\s*,', data) is not None


def standing(endpoints: Iterable[Endpoint]) -> list[Endpoint]:
    """Return those that have a URL, oldest first."""
    return sorted((one for one in endpoints if one.url is not None), key=lambda one: (one.created_at, one.id))


class Endpoints(Protocol):
    """Where endpoints are kept. Every method blocks and reads what is there now; it may raise OSError."""

    def put(self, endpoint: Endpoint) -> None:
        """Keep an endpoint, new or changed; it counts from now on, in every process, and survives a power cut."""

    def get(self, name: str) -> Endpoint | None:
        """Return an endpoint, None when there is none or its record cannot be read."""

    def all(self) -> list[Endpoint]:
        """Return all of them, in no order."""

    def standing(self) -> list[Endpoint]:
        """Return those that have a URL, oldest first."""

    def change(self, name: str, change: Callable[[Endpoint], Endpoint]) -> Endpoint:
        """Replace an endpoint by what ``change`` makes of it. Raises NotFound."""

    def remove(self, name: str) -> None:
        """Forget an endpoint: what is on its way to it is given up. Raises NotFound."""


class FileEndpoints:
    """Endpoints as files: ``webhooks/<id>.json``, readable by the service alone."""

    def __init__(self, root: Path, *, disk: Disk | None = None) -> None:
        self._root = root
        self._disk = disk or Disk()
        self._folder = root / "webhooks"

    def put(self, endpoint: Endpoint) -> None:
        """Keep it."""
        if not self._folder.is_dir():
            self._disk.make_folders(self._folder)
            self._folder.chmod(0o700)
            hand_over(self._folder, self._root)
        with locked(self._folder):
            self._write(endpoint)

    def get(self, name: str) -> Endpoint | None:
        """Return it."""
        if not _ID.fullmatch(name):
            return None
        try:
            return decode((self._folder / (name + _SUFFIX)).read_bytes(), name)
        except FileNotFoundError:
            return None
        except ValueError:
            log.error("the record of a webhook endpoint cannot be read; it counts as unknown", endpoint=name)
            return None

    def all(self) -> list[Endpoint]:
        """Return all of them."""
        return self._found("")

    def standing(self) -> list[Endpoint]:
        """Return those with a URL. A service without endpoints has no folder for them, and this is one failing look."""
        return standing(self._found("ep_"))

    def change(self, name: str, change: Callable[[Endpoint], Endpoint]) -> Endpoint:
        """Replace it."""
        if self.get(name) is None:  # also where there is no folder yet
            raise no_such_endpoint(name)
        with locked(self._folder):
            found = self.get(name)
            if found is None:
                raise no_such_endpoint(name)
            after = change(found)
            self._write(after)
            return after

    def remove(self, name: str) -> None:
        """Forget it."""
        if self.get(name) is None:
            raise no_such_endpoint(name)
        with locked(self._folder):
            (self._folder / (name + _SUFFIX)).unlink(missing_ok=True)
            self._disk.sync_folder(self._folder)

    def _found(self, prefix: str) -> list[Endpoint]:
        try:
            names = [path.name.removesuffix(_SUFFIX) for path in self._folder.iterdir()]
        except FileNotFoundError:
            return []
        return [one for name in names if name.startswith(prefix) and (one := self.get(name)) is not None]

    def _write(self, endpoint: Endpoint) -> None:
        path = self._folder / (endpoint.id + _SUFFIX)
        self._disk.write(path, encode(endpoint), mode=0o600)
        hand_over(path, self._root)


class MemoryEndpoints:
    """Endpoints in memory, for tests."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._endpoints: dict[str, Endpoint] = {}

    def put(self, endpoint: Endpoint) -> None:
        """Keep it."""
        with self._lock:
            self._endpoints[endpoint.id] = endpoint

    def get(self, name: str) -> Endpoint | None:
        """Return it."""
        return self._endpoints.get(name)

    def all(self) -> list[Endpoint]:
        """Return all of them."""
        with self._lock:
            return list(self._endpoints.values())

    def standing(self) -> list[Endpoint]:
        """Return those with a URL."""
        return standing(self.all())

    def change(self, name: str, change: Callable[[Endpoint], Endpoint]) -> Endpoint:
        """Replace it."""
        with self._lock:
            if name not in self._endpoints:
                raise no_such_endpoint(name)
            self._endpoints[name] = change(self._endpoints[name])
            return self._endpoints[name]

    def remove(self, name: str) -> None:
        """Forget it."""
        with self._lock:
            if self._endpoints.pop(name, None) is None:
                raise no_such_endpoint(name)
