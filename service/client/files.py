"""The files of uploads and downloads: opened, read in pieces, put in place whole."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import httpx

from service.client.errors import ClientError

#: Called with the bytes moved so far and their total, which is None while nobody knows it.
Progress = Callable[[int, int | None], None]
Ends = Literal["failure", "success", "both"]  #: Which ends of a job an e-mail is for.
Content = str | os.PathLike[str] | bytes | BinaryIO  #: What can be uploaded.
PIECE = 256 * 1024  # bytes read from a file at a time


class Body(httpx.SyncByteStream, httpx.AsyncByteStream):
    """An open file as a request's body, for either client; at most ``size`` bytes, as a growing file has more."""

    def __init__(self, file: BinaryIO, size: int | None, progress: Progress | None = None) -> None:
        self._read: Callable[[int], bytes] = getattr(file, "read1", file.read)  # a pipe's bytes go out as they come
        self._size = size
        self._progress = progress
        self._sent = 0

    def __iter__(self) -> Iterator[bytes]:
        while piece := self._read(self._wanted()):
            yield self._counted(piece)

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while piece := await asyncio.to_thread(self._read, self._wanted()):
            yield self._counted(piece)

    def _wanted(self) -> int:
        return PIECE if self._size is None else min(PIECE, self._size - self._sent)

    def _counted(self, piece: bytes) -> bytes:
        self._sent += len(piece)
        if self._progress:
            self._progress(self._sent, self._size)
        return piece


@dataclass(frozen=True)
class Source:
    """What is uploaded: a path, bytes or a binary file object, which can be opened again unless it is a pipe.

    A file object is read from where it stands and is never closed.
    """

    content: Path | bytes | BinaryIO
    name: str
    repeatable: bool = True
    start: int = 0

    @classmethod
    def of(cls, content: Content, name: str | None) -> Source:
        """Look at ``content``; an unreadable path raises OSError, a file opened as text TypeError."""
        if isinstance(content, bytes):
            return cls(content, name or "upload.bin")
        if isinstance(content, str | os.PathLike):
            path = Path(content)
            if path.is_dir():
                raise IsADirectoryError(21, "Is a directory", str(path))
            return cls(path, name or path.name, repeatable=path.is_file())
        nothing: Any = content.read(0) if hasattr(content, "read") else None
        if not isinstance(nothing, bytes):
            raise TypeError("submit takes a path, bytes, or a file opened in binary mode")
        own = getattr(content, "name", None)
        name = name or (Path(own).name if isinstance(own, str) and not own.startswith("<") else "") or "upload.bin"
        seekable = content.seekable() if hasattr(content, "seekable") else False
        return cls(content, name, repeatable=seekable, start=content.tell() if seekable else 0)

    @contextlib.contextmanager
    def opened(self) -> Iterator[tuple[BinaryIO, int | None]]:
        """Give the file at its start, and the bytes in it, or None when only its end will tell."""
        match self.content:
            case bytes():
                yield io.BytesIO(self.content), len(self.content)
            case Path():
                with self.content.open("rb") as file:
                    regular = file.seekable()  # a named pipe is not
                    yield file, os.fstat(file.fileno()).st_size if regular else None
            case _ if self.repeatable:
                size = self.content.seek(0, io.SEEK_END) - self.start
                self.content.seek(self.start)
                yield self.content, max(0, size)
            case _:
                yield self.content, None


@contextlib.contextmanager
def whole_file(target: Path) -> Iterator[BinaryIO]:
    """Give a file that gets the name ``target`` only if the block ends well, and leaves nothing behind if not."""
    part = target.with_name(f".{target.name[:100]}.{os.urandom(6).hex()}.part")
    try:
        with part.open("xb") as file:
            yield file
        part.replace(target)
    except BaseException:
        part.unlink(missing_ok=True)
        raise


def place(to: str | os.PathLike[str], name: str) -> Path:
    """Return where a file goes: to ``to``, or into it, as ``name``, if it is a directory or ends with a slash."""
    target = Path(to)
    if target.is_dir() or os.fspath(to).endswith("/"):
        target.mkdir(parents=True, exist_ok=True)
        safe = Path(name.replace("\\", "/")).name  # what a service says never leads out of the directory
        if safe in ("", ".", ".."):
            raise ClientError(
                f"the service calls the file {name!r}, which cannot be a name here", hint="name the target"
            )
        return target / safe
    return target
