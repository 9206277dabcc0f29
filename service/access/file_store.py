"""Tokens as files: ``access/tokens/<id>.json``, readable by the service alone, read anew for each request."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from service.access.model import Token, is_token_id
from service.access.store import no_such_token
from service.durable import Disk, hand_over, locked

log = structlog.get_logger(__name__)
_SUFFIX: Final = ".json"
_SETTLED: Final = 1_000_000_000  #: nanoseconds after which no further change of a folder bears the time of the last one


class FileTokenStore:
    """The tokens of one data directory. A file of some 300 bytes is read for a request; of tokens nothing is remembered."""

    waits = False

    def __init__(self, root: Path, *, disk: Disk | None = None) -> None:
        self._root = root
        self._disk = disk or Disk()
        self._folder = root / "access" / "tokens"
        self._found = (-1, False)  # time of the folder's last change, and whether there was a token
        if not self._folder.is_dir():
            self._disk.make_folders(self._folder)
            self._folder.parent.chmod(0o700)
            hand_over(self._folder.parent, root)
            hand_over(self._folder, root)

    def add(self, token: Token) -> None:
        """Keep a new token."""
        with locked(self._folder):
            self._write(token)

    def get(self, token_id: str) -> Token | None:
        """Return a token, if there is one."""
        if not is_token_id(token_id):
            return None
        try:
            token = Token.model_validate_json((self._folder / (token_id + _SUFFIX)).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError:
            log.error("the record of a token cannot be read; the token counts as unknown", token=token_id)
            return None
        return token if token.id == token_id else None

    def all(self) -> list[Token]:
        """Return all tokens, oldest first."""
        found = [self.get(name.removesuffix(_SUFFIX)) for name in self._names()]
        return sorted(filter(None, found), key=lambda token: (token.created_at, token.id))

    def change(self, token_id: str, change: Callable[[Token], Token]) -> Token:
        """Replace a token."""
        with locked(self._folder):
            token = self.get(token_id)
            if token is None:
                raise no_such_token(token_id)
            after = change(token)
            self._write(after)
            return after

    def any(self) -> bool:
        """Tell whether there is a token; a record that cannot be read counts."""
        mark = os.stat(self._folder).st_mtime_ns  # noqa: PTH116 - for every request, and twice as quick
        known, found = self._found
        if mark != known:
            with os.scandir(self._folder) as entries:
                found = any(entry.name.endswith(_SUFFIX) for entry in entries)
            if time.time_ns() - mark > _SETTLED:  # else it may change once more, and still bear the same time
                self._found = (mark, found)
        return found

    def _names(self) -> list[str]:
        return [name for name in os.listdir(self._folder) if name.endswith(_SUFFIX)]  # noqa: PTH208 - names are enough

    def _write(self, token: Token) -> None:
        path = self._folder / (token.id + _SUFFIX)
        self._disk.write(path, token.model_dump_json().encode() + b"\n", mode=0o600)
        hand_over(path, self._root)
