r"""A real service for your tests: start it, upload to it, kill it, read its records.

Installed as a pytest plugin, so ``intake_server`` and ``intake_client`` are there without an import::

    def test_upload(intake_server, intake_client):
        job = intake_client.submit(b"one two\n", name="t.txt")
        assert job.wait(timeout=10).status == "succeeded"
        assert intake_server.record(job.id)["file"]["size"] == 8

Settings come from the fixture ``intake_settings``, which a module or class overrides::

    @pytest.fixture
    def intake_settings():
        return {"max_upload": "1MiB", "slots": 1}

Without pytest, use ``Server`` as a context manager. Importing this module is cheap: it loads nothing of the service.

Doubles of its parts, for tests without a process or a disk, are loaded when they are asked for: ``build_in_memory``,
``MemoryJobStore``, ``MemoryStorage``, ``ImmediateEngine``, ``HeldClock``.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    import pytest

    from service.client import Client
    from service.clock import HeldClock as HeldClock
    from service.engines.immediate import ImmediateEngine as ImmediateEngine
    from service.jobs.memory_store import MemoryJobStore as MemoryJobStore
    from service.storage.memory import MemoryStorage as MemoryStorage
    from service.wiring import build_in_memory as build_in_memory

_DOUBLES = {
    "HeldClock": "service.clock",
    "ImmediateEngine": "service.engines.immediate",
    "MemoryJobStore": "service.jobs.memory_store",
    "MemoryStorage": "service.storage.memory",
    "build_in_memory": "service.wiring",
}
#: Settings a test server has unless told otherwise: a teardown that does not wait for long attempts.
DEFAULTS: dict[str, Any] = {"host": "127.0.0.1", "drain": "2s"}
_MARK = "INTAKE_TEST_SERVER"  # in the environment of every process of one server, which is how they are found again
_PAUSE = 0.01  # seconds between two looks at a file or process that is waited for


class Server:
    """``intake serve`` in processes of its own, on a free loopback port, with a private data directory.

    Args:
        folder: holds the data directory (``uploads``) and the log; kept afterwards. Without one, a temporary folder is
            made and removed on leaving the ``with`` block.
        env: more environment variables for the server.
        args: more arguments for ``intake serve``.
        timeout: seconds a start may take.
        settings: any setting by its name, such as ``slots=1`` or ``max_upload="1MiB"``. None leaves the default. The
            caller's own ``INTAKE_`` variables do not reach the server.

    A server started again after ``stop`` or ``kill`` keeps its data and its port, so that addresses of jobs stay good.
    The dictionary ``settings`` may be changed between two starts. Not safe for use from several threads.

    """

    def __init__(
        self,
        folder: Path | None = None,
        *,
        env: Mapping[str, str] | None = None,
        args: Sequence[str] = (),
        timeout: float = 30,
        **settings: Any,
    ) -> None:
        self._temporary = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="intake-")) if folder is None else folder.resolve()
        self.folder.mkdir(parents=True, exist_ok=True)
        self.settings: dict[str, Any] = DEFAULTS | {"port": 0, "data_dir": self.folder / "uploads"} | settings
        self.env = dict(env or {})
        self.args = list(args)
        self.timeout = timeout
        self.process: subprocess.Popen[bytes] | None = None
        self._url = ""
        self._mark = uuid.uuid4().hex

    @property
    def url(self) -> str:
        """Address of the service, without a slash at its end. Known from the first start on."""
        assert self._url, "the server has not been started"
        return self._url

    @property
    def data_dir(self) -> Path:
        """The data directory; it exists once the server has been started."""
        return Path(self.settings["data_dir"])

    @property
    def log(self) -> str:
        """All the server has written to its standard error, over all its starts."""
        path = self.folder / "server.log"
        return path.read_text(errors="replace") if path.exists() else ""

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self._close()
            raise

    def __exit__(self, *_: object) -> None:
        self._close()

    def start(self) -> Self:
        """Start the server and return once it takes uploads.

        Raises:
            RuntimeError: it ended, or was not ready in time; the message holds the end of its log.

        """
        assert self.process is None or self.process.poll() is not None, "the server is running"
        ready = self.folder / "ready"
        command = [sys.executable, "-P", "-m", "service.cli", "serve", "--ready", "json", *self.args]
        with ready.open("wb") as out, (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                command,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=log,
                start_new_session=True,
            )
        if not _poll(lambda: self._exited() or b"\n" in ready.read_bytes(), self.timeout) or self._exited():
            code = self.process.poll()
            self.kill()
            why = f"was not ready within {self.timeout:g} s" if code is None else f"ended with exit code {code}"
            raise RuntimeError(f"intake serve {why}:\n{self.log[-4000:]}")
        self._url = str(json.loads(ready.read_bytes().splitlines()[0])["url"]).rstrip("/")
        self.settings["port"] = int(self._url.rpartition(":")[2].partition("/")[0])
        return self

    def stop(self, *, timeout: float = 15) -> int:
        """Ask the API, then whatever it left behind, to end (SIGTERM); kill what has not after ``timeout`` seconds.

        Returns:
            The exit code of ``intake serve``, negative for the signal that ended it.

        """
        assert self.process is not None, "the server has not been started"
        deadline = time.monotonic() + timeout
        if self.process.poll() is None:
            self.process.terminate()
            _poll(self._exited, timeout)
        processes = _processes(self._mark)
        _signal([pid for pid, parent in processes.items() if parent not in processes], signal.SIGTERM)
        _poll(lambda: not _processes(self._mark), deadline - time.monotonic())
        self.kill()
        return self.process.wait()

    def kill(self) -> None:
        """End API, supervisor and running attempts at once (SIGKILL), as a power cut would."""
        while processes := _processes(self._mark):
            _signal(list(processes), signal.SIGKILL)
            self._exited()  # reaps the API, which would stay as a zombie
            time.sleep(_PAUSE)
        if self.process is not None:
            if self.process.poll() is None:  # no /proc here: at least the API and its group
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()

    def pids(self) -> list[int]:
        """Return the process ids of all that runs for this server now, the API first. Needs ``/proc``."""
        return sorted(_processes(self._mark), key=lambda pid: (self.process is None or pid != self.process.pid, pid))

    def environment(self) -> dict[str, str]:
        """Return the variables the server starts with; commands run with them act on the same data directory."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("INTAKE_")}
        settings = {f"INTAKE_{name.upper()}": _text(v) for name, v in self.settings.items() if v is not None}
        return inherited | settings | self.env | {_MARK: self._mark}

    def token(self, *scopes: str, name: str = "test") -> str:
        """Return a new token with these scopes, ``admin`` unless told; from the first one on, the server asks everybody for one.

        It may be made before the first start.
        """
        from service.access.model import Scope, new_token
        from service.settings import Settings
        from service.shared import build_tokens

        self.data_dir.mkdir(parents=True, exist_ok=True)
        wanted = frozenset(Scope(scope) for scope in scopes or ("admin",))
        text, kept = new_token(name, wanted, datetime.now(UTC))
        where = {name: self.settings.get(name) for name in ("records", "records_file")}
        build_tokens(Settings.load(data_dir=self.data_dir, durability="none", **where)).add(kept)
        return text

    def client(self, **options: Any) -> Client:
        """Return a new ``service.client.Client`` of this server, made with ``options``; the caller closes it."""
        from service.client import Client

        return Client(self.url, **options)

    def job_dir(self, job_id: str) -> Path:
        """Return the folder of a job, whose date is the millisecond timestamp in its UUIDv7 (RFC 9562, section 5.7)."""
        created = datetime.fromtimestamp((uuid.UUID(job_id).int >> 80) / 1000, UTC)
        return self.data_dir / "jobs" / f"{created:%Y}" / f"{created:%m}" / f"{created:%d}" / job_id

    def record(self, job_id: str) -> dict[str, Any]:
        """Return the stored record of a job, read from its ``job.json``; FileNotFoundError when there is none."""
        record: dict[str, Any] = json.loads((self.job_dir(job_id) / "job.json").read_bytes())
        return record

    def _exited(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def _close(self) -> None:
        if self.process is not None:
            self.stop()
        if self._temporary:
            shutil.rmtree(self.folder, ignore_errors=True)


def __getattr__(name: str) -> Any:
    if name not in _DOUBLES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_DOUBLES[name]), name)


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _poll(condition: Callable[[], bool], timeout: float) -> bool:
    """Wait until ``condition()`` is true; tell whether it came true within ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(_PAUSE)
    return True


def _processes(mark: str) -> dict[int, int]:
    """Map the live processes that carry ``mark`` in their environment, and their descendants, to their parents."""
    parents: dict[int, int] = {}
    found: set[int] = set()
    needle = f"{_MARK}={mark}".encode()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            state, parent = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state not in "ZX":
                parents[int(folder.name)] = int(parent)
                if needle in (folder / "environ").read_bytes().split(b"\0"):
                    found.add(int(folder.name))
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return {pid: parents[pid] for pid in sorted(found)}


def _signal(pids: Sequence[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


if "pytest" in sys.modules:  # loaded as its plugin: without pytest there is nobody to give fixtures to
    import pytest

    @pytest.fixture
    def intake_settings() -> dict[str, Any]:
        """Return the settings of ``intake_server``; override it to change them."""
        return {}

    @pytest.fixture
    def intake_server(intake_settings: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
        """Give each test a running service of its own, ended with all its processes afterwards."""
        with Server(tmp_path_factory.mktemp("intake"), **intake_settings) as server:
            yield server

    @pytest.fixture
    def intake_client(intake_server: Server) -> Iterator[Client]:
        """Give a client of ``intake_server``, closed afterwards."""
        with intake_server.client() as client:
            yield client
