"""Tokens in memory, for tests."""

from __future__ import annotations

import threading
from collections.abc import Callable

from service.access.model import Token
from service.access.store import no_such_token


class MemoryTokenStore:
    """A token store without files: gone with its process."""

    waits = False

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tokens: dict[str, Token] = {}

    def add(self, token: Token) -> None:
        """Keep a new token."""
        with self._lock:
            self._tokens[token.id] = token

    def get(self, token_id: str) -> Token | None:
        """Return a token, if there is one."""
        return self._tokens.get(token_id)

    def all(self) -> list[Token]:
        """Return all tokens, oldest first."""
        return sorted(self._tokens.values(), key=lambda token: (token.created_at, token.id))

    def change(self, token_id: str, change: Callable[[Token], Token]) -> Token:
        """Replace a token."""
        with self._lock:
            if token_id not in self._tokens:
                raise no_such_token(token_id)
            self._tokens[token_id] = change(self._tokens[token_id])
            return self._tokens[token_id]

    def any(self) -> bool:
        """Tell whether there is a token."""
        return bool(self._tokens)
