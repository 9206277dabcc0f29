"""Signed links: a URL that lets whoever has it do one thing until a moment, as the token that made it.

Signed are, each on a line, the method, the path, and all other parameters in order; among them are the moment it ends (``exp``,
Unix seconds), the key (``kid``), the token (``sub``), and for an upload its nonce and largest size. ``sig`` is the HMAC-SHA-256
of that in base64url. The key is made when it is first needed; without its file all links end, and a new key begins.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import os
import secrets
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, Protocol
from urllib.parse import urlencode

from service.durable import Disk
from service.errors import Forbidden

LONGEST: Final = timedelta(days=7)
#: Parameters that belong to a link and to nothing else.
PARAMETERS: Final = frozenset({"exp", "kid", "sub", "nonce", "max_size", "sig"})
BYTES: Final = 32  #: of the key


@dataclass(frozen=True, kw_only=True)
class Link:
    """A link that has been found good."""

    sub: str | None  #: id of the token that made it
    nonce: str | None = None  #: of an upload: it can be used once
    max_size: int | None = None  #: of an upload, in bytes
    exp: int  #: Unix seconds


class Links(Protocol):
    """What signing needs to be kept. Blocks."""

    def key(self) -> bytes:
        """Return the key; the same in every process, and after a restart."""

    def is_spent(self, link: Link) -> bool:
        """Tell whether the upload of this link has been made."""

    def spend(self, link: Link) -> None:
        """Remember that it has, until the link ends."""


class FileLinks:
    """The key in ``access/links.key``, and an empty file per link that was used in ``access/spent/``."""

    def __init__(self, root: Path, *, disk: Disk | None = None) -> None:
        self._folder = root / "access"
        self._spent = self._folder / "spent"
        self._disk = disk or Disk()
        self._spent.mkdir(parents=True, exist_ok=True)

    def key(self) -> bytes:
        """Return the key."""
        path = self._folder / "links.key"
        with suppress(FileNotFoundError):
            return bytes.fromhex(path.read_text(encoding="ascii"))
        fresh = path.with_name(f"links.key.{secrets.token_hex(8)}")
        self._disk.write(fresh, secrets.token_hex(BYTES).encode(), mode=0o600)
        with suppress(FileExistsError):  # another process was quicker: its key counts
            os.link(fresh, path)
        fresh.unlink()
        self._disk.sync_folder(self._folder)
        return self.key()

    def is_spent(self, link: Link) -> bool:
        """Tell whether it was used."""
        return (self._spent / name_of(link)).exists()

    def spend(self, link: Link) -> None:
        """Remember that it was used, and forget those that have ended."""
        now = datetime.now(UTC).timestamp()
        for path in self._spent.iterdir():
            with suppress(ValueError, FileNotFoundError):
                if int(path.name.partition("-")[0]) < now - 60:
                    path.unlink()
        (self._spent / name_of(link)).touch()
        self._disk.sync_folder(self._spent)


class MemoryLinks:
    """The same in memory, for tests."""

    def __init__(self) -> None:
        self._key = secrets.token_bytes(BYTES)
        self._spent: set[str] = set()

    def key(self) -> bytes:
        """Return the key."""
        return self._key

    def is_spent(self, link: Link) -> bool:
        """Tell whether it was used."""
        return name_of(link) in self._spent

    def spend(self, link: Link) -> None:
        """Remember that it was used."""
        self._spent.add(name_of(link))


def signed(key: bytes, method: str, path: str, query: Mapping[str, str], link: Link) -> str:
    """Return the query of a link, signature included."""
    claims = {**query, "exp": str(link.exp), "kid": _key_id(key)}
    claims |= {"sub": link.sub} if link.sub else {}
    claims |= {"nonce": link.nonce} if link.nonce else {}
    claims |= {"max_size": str(link.max_size)} if link.max_size is not None else {}
    return urlencode({**claims, "sig": _signature(key, method, path, claims.items())})


def verify(key: bytes, method: str, path: str, query: Iterable[tuple[str, str]], now: datetime) -> Link:
    """Return the link that the query of a request stands for. Raises Forbidden for a wrong one, and one that has ended."""
    claims = list(query)
    given = [value for name, value in claims if name == "sig"]
    others = [(name, value) for name, value in claims if name != "sig"]
    expected = _signature(key, "GET" if method == "HEAD" else method, path, others)
    if len(given) != 1 or not hmac.compare_digest(given[0].encode(), expected.encode()):
        raise Forbidden(
            "The link is not one of this service, or was changed.", code="link-invalid", hint="Ask for a new one."
        )
    known = dict(others)
    exp = int(known["exp"])
    if now.timestamp() >= exp:
        raise Forbidden("The link has expired.", code="link-expired", hint="Ask for a new one.")
    size = known.get("max_size")
    return Link(sub=known.get("sub"), nonce=known.get("nonce"), max_size=int(size) if size else None, exp=exp)


def used_up() -> Forbidden:
    """Return the refusal of a link that has been used."""
    return Forbidden(
        "The upload of this link has been made.", code="link-used", hint="Ask for a new one for another file."
    )


def _signature(key: bytes, method: str, path: str, query: Iterable[tuple[str, str]]) -> str:
    text = "\n".join([method, path, urlencode(sorted(query))])
    return base64.urlsafe_b64encode(hmac.digest(key, text.encode(), "sha256")).decode().rstrip("=")


def _key_id(key: bytes) -> str:
    return hashlib.sha256(b"key id of " + key).hexdigest()[:8]


def name_of(link: Link) -> str:
    """Return what a link that can be used once is told from others by."""
    return f"{link.exp}-{link.nonce}"
