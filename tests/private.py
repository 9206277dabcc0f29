"""Servers for tests that are private: started from their programs, in short-lived folders, gone with whoever wanted them."""

from __future__ import annotations

import os
import pwd
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil


class PrivateServer:
    """Some processes with a folder. Those that refuse to be root run ``as nobody``, if root has started the tests."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.as_nobody: dict[str, Any] = {}
        self.process: subprocess.Popen[bytes] | None = None

    def give_to_nobody(self) -> None:
        """Have the folder, and what is in it by now, belong to ``nobody``, if this is root."""
        if os.geteuid() == 0:
            nobody = pwd.getpwnam("nobody")
            self.as_nobody = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
            for path in (self.folder, *self.folder.iterdir()):
                os.chown(path, nobody.pw_uid, nobody.pw_gid)

    @property
    def log(self) -> str:
        """What it has said."""
        return (self.folder / "server.log").read_text(errors="replace")

    def spawn(self, command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        """Start a process in the folder, in a session of its own."""
        with (self.folder / "server.log").open("ab") as log:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                start_new_session=True,
                **self.as_nobody,
                **options,
            )

    def pids(self) -> list[int]:
        """Return the processes that serve."""
        assert self.process is not None, "it does not run"
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(self.process.pid)
            return [process.pid, *(child.pid for child in process.children(recursive=True))]
        return []

    def kill(self) -> None:
        """End all its processes at once (SIGKILL), as a power cut would; what it had on disk stays."""
        if self.process is None:
            return
        processes = []
        for pid in self.pids():
            with suppress(psutil.NoSuchProcess):
                processes.append(psutil.Process(pid))
        for act in (psutil.Process.suspend, psutil.Process.kill):  # none sees another die, and acts on it
            for process in processes:
                with suppress(psutil.NoSuchProcess):
                    act(process)
        self.process.wait(60)
        psutil.wait_procs(processes, 60)
        self.process = None


@contextmanager
def short_lived(name: str) -> Iterator[Path]:
    """Give a folder that ``nobody`` can reach, and that is gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix=f"intake-{name}-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
