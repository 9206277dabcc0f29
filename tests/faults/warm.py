"""A process that has the service loaded and forks one per line of its input, which holds the environment: starts in milliseconds.

``--without folders`` leaves the syncs of folders out, to see a rig go red.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

import service.app
import service.server
from service.durable import Disk
from service.settings import Settings


def main() -> None:
    if "folders" in sys.argv:
        Disk.sync_folder = lambda self, folder: None  # type: ignore[method-assign]
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        told = json.loads(line)
        pid = os.fork()
        if pid == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.setsid()
            log = os.open(Path(told["log"]), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ.update(told["environment"])
            os._exit(service.server.serve(Settings.load(), ready="off"))
        sys.stdout.write(f"{pid}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
