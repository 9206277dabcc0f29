"""The port to the tokens, and the one way to judge one."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from datetime import datetime
from typing import Final, Protocol

from service.access.model import Principal, Token, digest, id_of
from service.errors import NotFound

_NOBODY: Final = digest("")  #: compared with when there is no such token, so that this takes as long


class TokenStore(Protocol):
    """Tokens. Every method blocks, reads what is there now, and may raise OSError: whoever asks then refuses."""

    @property
    def waits(self) -> bool:
        """Whether ``any`` may wait for a server; without that an event loop may ask it."""

    def add(self, token: Token) -> None:
        """Keep a new token; it counts from now on, in every process, and survives a power cut."""

    def get(self, token_id: str) -> Token | None:
        """Return a token, None when there is none with this id, or its record cannot be read."""

    def all(self) -> list[Token]:
        """Return all tokens, expired and revoked ones included, oldest first."""

    def change(self, token_id: str, change: Callable[[Token], Token]) -> Token:
        """Replace a token by what ``change`` makes of it. Raises NotFound."""

    def any(self) -> bool:
        """Tell whether there is a token, valid or not: a service whose last token is revoked does not open.

        Asked for every request without a token, and quick enough for that.
        """


def judge(store: TokenStore, text: str, now: datetime) -> Principal | None:
    """Return whom a token stands for; None for one that is unknown, mistyped, expired or revoked.

    The time it takes tells nothing of the secret, and as good as nothing of whether there is such an id.
    """
    token_id = id_of(text)
    token = store.get(token_id) if token_id else None
    same = hmac.compare_digest(token.sha256 if token else _NOBODY, digest(text))
    return _principal(token, now) if same else None


def stands_for(store: TokenStore, token_id: str, now: datetime) -> Principal | None:
    """Return whom the token of this id stands for, as long as it is good."""
    return _principal(store.get(token_id), now)


def _principal(token: Token | None, now: datetime) -> Principal | None:
    if token is None or not token.is_valid(now):
        return None
    return Principal(id=token.id, scopes=token.scopes, token=token)


def no_such_token(token_id: str) -> NotFound:
    """Return what a store raises for a token it does not have."""
    return NotFound(f"There is no token {token_id[:64]!r}.", hint="`intake tokens list` shows them all.")
