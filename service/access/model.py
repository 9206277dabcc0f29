"""Tokens, scopes and principals: frozen values, and the form in which a token is written.

A token is written ``fik_<id>_<secret><check>``. The id finds its record and may stand in logs; the secret has 178 bits and is shown
once; the check is the CRC-32 of all before it, so that a mistyped token, or a scanner's find, is judged without any record.
Only the SHA-256 of a token is kept: a slow hash is for what people think up, not for 178 random bits.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import string
import zlib
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Final

from pydantic import BaseModel, ConfigDict, Field

PREFIX: Final = "fik"
_DIGITS: Final = string.digits + string.ascii_uppercase + string.ascii_lowercase
_ID: Final = 10  #: lower case and digits only: it is a file name, also where those know no case
_SECRET: Final = 30
_CHECK: Final = 6
_TOKEN: Final = re.compile(
    rf"({PREFIX}_([0-9a-z]{{{_ID}}})_[0-9A-Za-z]{{{_SECRET}}})([0-9A-Za-z]{{{_CHECK}}})", re.ASCII
)
_TOKEN_ID: Final = re.compile(rf"[0-9a-z]{{{_ID}}}", re.ASCII)


class Scope(StrEnum):
    """What a token allows."""

    WRITE = "jobs:write"  #: upload, cancel, retry
    READ = "jobs:read"  #: look at jobs, download
    DELETE = "jobs:delete"  #: delete jobs that are done
    ADMIN = "admin"  #: all of these, on everybody's jobs; metrics and details of probes


class Token(BaseModel):
    """What is kept of a token."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    id: str
    name: str = Field(description="For people: who or what uses it.")
    scopes: frozenset[Scope]
    sha256: str = Field(description="Of the whole token, hexadecimal.")
    created_at: datetime
    expires_at: datetime | None = None
    revoked_at: datetime | None = None
    quota_jobs: int | None = Field(None, description="Jobs a day, in place of INTAKE_QUOTA_JOBS; 0 for no limit.")
    quota_bytes: int | None = Field(None, description="Bytes a day, in place of INTAKE_QUOTA_BYTES.")
    quota_active: int | None = Field(None, description="Jobs at a time, in place of INTAKE_QUOTA_ACTIVE.")

    def revoked(self, now: datetime) -> Token:
        """Return the token as revoked; twice is the same as once."""
        return self if self.revoked_at else self.model_copy(update={"revoked_at": now})

    def is_valid(self, now: datetime) -> bool:
        """Tell whether it has neither expired nor been revoked."""
        return self.revoked_at is None and (self.expires_at is None or now < self.expires_at)


@dataclass(frozen=True, kw_only=True)
class Principal:
    """Who makes a request. ``id`` is that of the token and owns the jobs it makes; nobody in particular has none."""

    id: str | None
    scopes: frozenset[Scope]
    token: Token | None = field(default=None, compare=False)  #: what is kept of it

    def may(self, scope: Scope) -> bool:
        """Tell whether the scope is allowed, by itself or as a part of ``admin``."""
        return scope in self.scopes or Scope.ADMIN in self.scopes

    def sees(self, owner: str | None) -> bool:
        """Tell whether the jobs of this owner exist for this principal."""
        return Scope.ADMIN in self.scopes or (owner is not None and owner == self.id)

    @property
    def only(self) -> str | None:
        """The one owner whose jobs it sees; None when it sees all."""
        return None if Scope.ADMIN in self.scopes else self.id or "nobody"


#: Everybody, while there is no token.
ANYBODY: Final = Principal(id=None, scopes=frozenset(Scope))


def new_token(
    name: str, scopes: frozenset[Scope], now: datetime, *, expires_at: datetime | None = None
) -> tuple[str, Token]:
    """Return the text of a fresh token, which nobody can ever be shown again, and what is kept of it."""
    token_id = "".join(secrets.choice(string.digits + string.ascii_lowercase) for _ in range(_ID))
    text = _text(token_id)
    kept = Token(id=token_id, name=name, scopes=scopes, sha256=digest(text), created_at=now, expires_at=expires_at)
    return text, kept


def rotated(token: Token) -> tuple[str, Token]:
    """Return a new text for a token, and what is then kept of it: its jobs stay its own, and its old text is unknown."""
    text = _text(token.id)
    return text, token.model_copy(update={"sha256": digest(text)})


def id_of(text: str) -> str | None:
    """Return the id within a token; None for what cannot be a token, or was mistyped."""
    match = _TOKEN.fullmatch(text)
    return match[2] if match and secrets.compare_digest(match[3], _check(match[1])) else None


def is_token_id(text: str) -> bool:
    """Tell whether ``text`` has the form of a token's id."""
    return _TOKEN_ID.fullmatch(text) is not None


def digest(text: str) -> str:
    """Return what is kept of the text of a token."""
    return hashlib.sha256(text.encode()).hexdigest()


def _text(token_id: str) -> str:
    body = f"{PREFIX}_{token_id}_" + "".join(secrets.choice(_DIGITS) for _ in range(_SECRET))
    return body + _check(body)


def _check(body: str) -> str:
    rest, found = zlib.crc32(body.encode()), ""
    for _ in range(_CHECK):
        rest, digit = divmod(rest, len(_DIGITS))
        found = _DIGITS[digit] + found
    return found
