"""Private message brokers for tests, from Debian's binaries: on free loopback ports, in temporary folders, gone with the test.

RabbitMQ is a node of its own, with its own cookie, and its own port mapper (epmd), which would otherwise outlive it.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from service.engines.routes import DEFAULT, QUEUES
from tests.needs import need, need_library
from tests.private import PrivateServer, short_lived
from tests.waiting import find_free_port, wait_until

PASSWORD: Final = "mq-s3cret"  #: required by both; tests look for it where it must not be
_START: Final = 120.0  #: seconds; RabbitMQ takes some five of them on a machine that does nothing else
_RABBIT: Final = """
listeners.tcp.default = 127.0.0.1:{port}
default_user = intake
default_pass = {password}
loopback_users = none
disk_free_limit.absolute = 1MB
vm_memory_high_watermark.absolute = 512MB
log.file.level = warning
raft.wal_max_size_bytes = 4000000
"""


class Broker(PrivateServer):
    """A broker's processes; ``pids`` are all of them."""

    kind: str
    url: str

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.port = find_free_port()

    def start(self) -> None:
        """Start it, with what it had on disk, and return once it takes connections."""
        raise NotImplementedError

    def wait(self) -> None:
        def there() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log[-2000:]
            with suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 1):
                return True
            return False

        wait_until(there, _START, f"{self.kind} on port {self.port}")

    @contextmanager
    def hung(self) -> Iterator[None]:
        """Hold it (SIGSTOP): it takes connections, by the kernel's grace, and says nothing."""
        pids = self.pids()
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in pids:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGCONT)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Have it gone (SIGKILL), and back afterwards, if nobody has started it meanwhile."""
        self.kill()
        try:
            yield
        finally:
            if self.process is None:
                self.start()

    def close(self) -> None:
        """End it for good."""
        self.kill()

    def empty(self) -> None:
        """Throw away every message that waits; what was given up stays, and whoever counts it takes the difference.

        A RabbitMQ 3.10 that was killed comes back without a leader of that queue at times, and a purge would wait 30 s for one.
        """
        from kombu import Connection

        from service.engines.celery.app import queue_name

        with Connection(self.url, connect_timeout=30, transport_options=self.options) as connection:
            for name in map(queue_name, QUEUES):
                with suppress(Exception), closing(connection.channel()) as channel:
                    channel.queue_purge(name)

    @property
    def options(self) -> dict[str, Any]:
        return {}

    def send(self, argument: object, times: int = 1, *, task: str | None = None) -> None:
        """Put messages for a task into the queue for all kinds of files, as anybody might who can reach the broker."""
        from celery import Celery
        from kombu import Exchange, Queue

        from service.engines.celery.app import TASK, queue_name

        app = Celery(broker=self.url, set_as_current=False)
        app.conf.update(broker_transport_options=self.options, task_ignore_result=True)
        name = queue_name(DEFAULT)
        target = Queue(name, Exchange("intake"), name, no_declare=True)
        with closing(app.connection_for_write()) as connection:
            for _ in range(times):
                app.send_task(task or TASK, (argument,), connection=connection, queue=target, declare=[])


class Rabbit(Broker):
    """RabbitMQ."""

    kind = "rabbitmq"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = f"amqp://intake:{PASSWORD}@127.0.0.1:{self.port}//"
        self._epmd: subprocess.Popen[bytes] | None = None
        (folder / "rabbit.conf").write_text(_RABBIT.format(port=self.port, password=PASSWORD))
        (folder / "plugins").write_text("[].")
        self.give_to_nobody()
        mapper = find_free_port()
        self._environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "LANG": "C.UTF-8",
            "ERL_EPMD_PORT": str(mapper),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODENAME": f"intake{self.port}@localhost",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_DIST_PORT": str(find_free_port()),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbit.conf"),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
        }

    def start(self) -> None:
        if self._epmd is None:
            mapper = [need("epmd"), "-port", self._environment["ERL_EPMD_PORT"], "-address", "127.0.0.1"]
            self._epmd = self.spawn(mapper, env=self._environment)
        self.process = self.spawn([_rabbitmq_server()], env=self._environment)
        self.wait()

    def close(self) -> None:
        self.kill()
        if self._epmd is not None:
            self._epmd.kill()
            self._epmd.wait(60)

    def configure(self, text: str) -> None:
        """Add to its configuration; the last word on a key counts."""
        with (self.folder / "rabbit.conf").open("a") as file:
            file.write(text)

    def diagnose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run ``rabbitmq-diagnostics`` as its own user."""
        own = Path("/usr/lib/rabbitmq/bin/rabbitmq-diagnostics")
        command = [str(own) if own.exists() else "rabbitmq-diagnostics", *arguments]
        return subprocess.run(
            command, env=self._environment, capture_output=True, text=True, timeout=120, check=False, **self.as_nobody
        )

    def dead(self) -> int:
        """Return how many messages it has given up."""
        from kombu import Connection

        from service.engines.celery.app import DEAD

        with Connection(self.url) as connection, closing(connection.channel()) as channel:
            return int(channel.queue_declare(DEAD, passive=True).message_count)


class RedisServer(Broker):
    """Redis, which keeps what it had in an append-only file, unless told to forget."""

    kind = "redis"

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.url = f"redis://:{PASSWORD}@127.0.0.1:{self.port}/0"

    @property
    def options(self) -> dict[str, Any]:
        return {"global_keyprefix": "intake:"}

    def start(self) -> None:
        settings = {
            "port": self.port,
            "bind": "127.0.0.1",
            "requirepass": PASSWORD,
            "dir": self.folder,
            "save": "",
            "appendonly": "yes",
        }
        command = [
            need("redis-server"),
            *(str(word) for name, value in settings.items() for word in (f"--{name}", value)),
        ]
        self.process = self.spawn(command)
        self.wait()

    def empty(self) -> None:
        """Throw away everything."""
        from redis import Redis

        with Redis(host="127.0.0.1", port=self.port, password=PASSWORD) as client:
            client.flushall()


BROKERS: Final = {"rabbitmq": Rabbit, "redis": RedisServer}
NEEDS: Final = {"rabbitmq": ("rabbitmq-server", "epmd"), "redis": ("redis-server",)}


@contextmanager
def running(kind: str) -> Iterator[Broker]:
    """Run a broker of its own, in a short-lived folder."""
    need_library("celery")
    for name in NEEDS[kind]:
        need(name)
    with short_lived(kind) as folder:
        broker = BROKERS[kind](folder)
        try:
            broker.start()
            yield broker
        finally:
            broker.close()


def _rabbitmq_server() -> str:
    """Return the server's own script: Debian's on PATH is a wrapper that changes the user."""
    own = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
    return str(own) if own.exists() else need("rabbitmq-server")
