"""Scanners for tests: one that answers as it is told, and Debian's own with a signature of ours."""

from __future__ import annotations

import socket
import struct
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final, Literal

from tests.needs import need
from tests.waiting import wait_until

#: What the real scanner takes for malware.
BAD: Final = b"THIS-IS-NO-MALWARE-BUT-THE-TESTS-OF-FILE-INTAKE-SAY-SO"
LIMIT: Final = 2**20  #: bytes that the real scanner takes

Behavior = Literal["answer", "early", "hang", "half", "close"]


class FakeClamd:
    """Listens on a Unix socket, and does with every scan what ``behavior`` says.

    ``answer`` reads all and sends ``text``; ``early`` sends it before it has read much, and closes; ``hang`` never answers;
    ``half`` breaks off within the answer; ``close`` closes at once.
    """

    def __init__(self, path: Path, *, behavior: Behavior = "answer", text: bytes = b"stream: OK\0") -> None:
        self.path = path
        self.behavior: Behavior = behavior
        self.text = text
        self.received: list[bytes] = []  #: files that came whole
        self.commands: list[bytes] = []
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen(16)
        self._open: list[socket.socket] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def close(self) -> None:
        """Stop listening, and let go of scans that hang."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.path.unlink(missing_ok=True)
        for connection in self._open:
            connection.close()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._open.append(connection)
                with suppress(OSError, EOFError):
                    self._scan(connection)
                if self.behavior != "hang":
                    connection.close()

    def _scan(self, connection: socket.socket) -> None:
        if self.behavior == "close":
            return
        with connection.makefile("rb") as stream:
            self.commands.append(stream.read(10))
            if self.behavior == "early":
                stream.read(1000)
                connection.sendall(self.text)
                return
            data = bytearray()
            while size := struct.unpack("!I", _exactly(stream.read(4), 4))[0]:
                data += _exactly(stream.read(size), size)
            self.received.append(bytes(data))
            if self.behavior == "answer":
                connection.sendall(self.text)
            elif self.behavior == "half":
                connection.sendall(b"stream: OK")


def _exactly(data: bytes, size: int) -> bytes:
    if len(data) < size:
        raise EOFError
    return data


@contextmanager
def real_clamd(folder: Path) -> Iterator[Path]:
    """Run Debian's clamd with a database of one line, and give its socket. It takes about a second to start."""
    program, path = need("clamd"), folder / "clamd.sock"
    database = folder / "database"
    database.mkdir()
    (database / "intake.ndb").write_text(f"Intake.Test:0:*:{BAD.hex()}\n")
    (folder / "clamd.conf").write_text(
        f"LocalSocket {path}\nDatabaseDirectory {database}\nTemporaryDirectory {folder}\nForeground yes\n"
        f"StreamMaxLength {LIMIT}\nMaxFileSize {LIMIT}\nMaxScanSize {LIMIT}\nAlertExceedsMax yes\nAlertEncrypted yes\n"
        "MaxScanTime 60000\n"
    )
    with (folder / "clamd.log").open("wb") as log:
        process = subprocess.Popen([program, "-c", str(folder / "clamd.conf")], stdout=log, stderr=log)
    try:
        wait_until(lambda: path.exists() or process.poll() is not None, 60, "clamd")
        assert process.poll() is None, (folder / "clamd.log").read_text()
        yield path
    finally:
        process.terminate()
        process.wait(20)
