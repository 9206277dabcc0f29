"""The servers beside the service take what compose.yaml gives them, and their health checks answer: with Debian's, no container."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from kombu import Connection
from redis import Redis
from redis.exceptions import AuthenticationError

from tests.brokers import Rabbit
from tests.needs import need
from tests.postgres import PostgresServer
from tests.unit.test_deployment_scaled import ROOT, services
from tests.waiting import find_free_port, wait_until

CONFIGURATIONS = ROOT / "deploy" / "compose"


def check(name: str) -> list[str]:
    """Return the health check of a service, as words or as one line for a shell."""
    words: list[str] = services()[name]["healthcheck"]["test"][1:]
    return words


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    subprocess.run([CONFIGURATIONS / "make-secrets", "valkey"], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path / "secrets"


@pytest.fixture
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    folder = tmp_path_factory.mktemp("rabbit")
    for path in (folder, *folder.parents[:3]):
        path.chmod(0o755)  # it runs as somebody else
    rabbit = Rabbit(folder)
    try:
        yield rabbit
    finally:
        rabbit.close()


@pytest.mark.needs("rabbitmq-server", "epmd")
def test_rabbitmq_takes_its_configuration_and_its_health_check_answers(rabbit: Rabbit, secrets: Path) -> None:
    rabbit.configure((CONFIGURATIONS / "rabbitmq.conf").read_text())
    rabbit.configure((secrets / "rabbitmq.conf").read_text())
    rabbit.configure("disk_free_limit.absolute = 1MB\n")
    program, *arguments = check("rabbitmq")
    assert program == "rabbitmq-diagnostics"
    assert rabbit.diagnose(*arguments).returncode != 0
    rabbit.start()
    wait_until(lambda: rabbit.diagnose(*arguments).returncode == 0, 120, "RabbitMQ's health")
    assert "{consumer_timeout,3600000}" in rabbit.diagnose("environment").stdout.replace(" ", "").replace("\n", "")
    password = (secrets / "rabbitmq.conf").read_text().split()[-1]
    with Connection(f"amqp://intake:{password}@127.0.0.1:{rabbit.port}//", connect_timeout=30) as connection:
        connection.connect()


@pytest.mark.needs("redis-server")
def test_the_server_for_redis_takes_its_configuration_and_its_health_check_answers(
    secrets: Path, tmp_path: Path
) -> None:
    """Debian's Redis stands for Valkey, which has its options and its client under another name."""
    port = find_free_port()
    text = (CONFIGURATIONS / "valkey.conf").read_text()
    text = text.replace("dir /data", f"dir {tmp_path}").replace("/run/secrets", str(secrets))
    (tmp_path / "redis.conf").write_text(f"{text}\nport {port}\nbind 127.0.0.1\n")
    assert services()["valkey"]["command"][0] == "valkey-server"
    (line,) = check("valkey")
    client = Path(shutil.which("redis-cli") or need("redis-server").replace("redis-server", "redis-cli"))
    line = line.replace("valkey-cli", f"{client} -h 127.0.0.1 -p {port}")
    assert subprocess.run(["sh", "-c", line], timeout=30).returncode != 0
    server = subprocess.Popen([need("redis-server"), tmp_path / "redis.conf"], stdout=subprocess.DEVNULL)
    try:
        wait_until(lambda: subprocess.run(["sh", "-c", line], timeout=30).returncode == 0, 30, "Redis's health")
        password = (secrets / "valkey.conf").read_text().split()[-1]
        with Redis(port=port, password=password) as redis:
            assert redis.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}
            assert redis.config_get("appendonly") == {"appendonly": "yes"}
        with Redis(port=port) as redis, pytest.raises(AuthenticationError):
            redis.ping()
    finally:
        server.kill()
        server.wait()


@pytest.mark.needs("postgres")
def test_the_health_check_of_postgresql_answers(postgres: PostgresServer) -> None:
    program, *arguments = check("postgres")
    found = Path(need("postgres")).resolve().with_name(program)
    assert subprocess.run([found, *arguments, "-p", str(postgres.port)], timeout=30).returncode == 0
    assert subprocess.run([found, *arguments, "-p", str(find_free_port())], timeout=30).returncode != 0
