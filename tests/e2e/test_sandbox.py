"""What an attempt's process can reach: its input, its own folder, and nothing else."""

import socket
import stat
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from service.errors import ConfigError
from service.execution import landlock, sandbox, seccomp
from service.settings import Settings
from service.testing import Server
from service.wiring import build, build_runner
from tests.e2e.rig import supervisor

HERE = Path(__file__).parent
LAYERS = ["rlimits", "no_new_privs", "landlock", "seccomp"]
pytestmark = pytest.mark.skipif(bool(sandbox.missing()), reason="this system has no Landlock or no seccomp")


@pytest.fixture
def listening(tmp_path: Path) -> Iterator[tuple[int, Path]]:
    """Listen on a TCP port, the UDP port of the same number, and on a Unix socket beside the data."""
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(str(tmp_path / "open.sock"))
        local.listen()
        yield server.getsockname()[1], tmp_path / "open.sock"


def escape(
    folder: Path, listening: tuple[int, Path], *, only: str = "", **settings: object
) -> tuple[dict[str, Any], list[str]]:
    """Upload a file and a processor that tries to escape; return the facts of its tries, and the layers around it."""
    places = {"processors_dir": HERE / "breakout", "pipelines": HERE / "breakout.toml"}
    port, unix = listening
    with Server(folder, **places, **settings) as server, server.client() as client:
        other = client.submit(b"a secret", name="other.txt", pipeline="checksum")
        other.wait(timeout=20)
        victim = supervisor(server)
        job = client.submit(f"{other.id} {port} {unix} {victim} {only}".encode(), name="try.txt", pipeline="escape")
        job.wait(timeout=20)
        record = server.record(job.id)
        assert record["status"] == "succeeded", record["error"]
        assert supervisor(server) == victim
        for path in (
            server.job_dir(other.id) / "source",
            server.job_dir(job.id) / "source",
            server.job_dir(job.id) / "job.json",
        ):
            assert stat.S_IMODE(path.stat().st_mode) & 0o400, "its mode is as before"
        return record["steps"][0]["facts"], record["attempts"][0]["sandbox"]


def test_an_attempt_reaches_nothing_but_its_input_and_its_folder(tmp_path: Path, listening: tuple[int, Path]) -> None:
    facts, layers = escape(tmp_path, listening, sandbox="strict")
    tries = facts["tries"]

    assert layers == LAYERS
    assert len(tries) >= 50
    assert tries.pop("clone3") == "ENOSYS"
    assert tries.pop("rename the record") in ("EXDEV", "PermissionError")  # Landlock's way to refuse
    assert tries.pop("link the record") in ("EXDEV", "PermissionError")
    assert {name: told for name, told in tries.items() if told != "PermissionError"} == {}
    assert facts["capabilities"] in (0, 1 << 1)


def test_a_shared_process_reaches_nothing_but_the_source_it_was_handed(tmp_path: Path) -> None:
    places = {"processors_dir": HERE / "breakout", "pipelines": HERE / "breakout.toml"}
    with Server(tmp_path, **places, sandbox="strict", slots=1) as server, server.client() as client:
        other = client.submit(b"a secret", name="other.txt", pipeline="checksum")
        other.wait(timeout=20)
        facts = []
        for _ in range(2):  # the second one in the process of the first
            job = client.submit(other.id.encode(), name="try.txt", pipeline="escape_shared")
            job.wait(timeout=20)
            record = server.record(job.id)
            assert record["status"] == "succeeded", record["error"]
            assert record["attempts"][0]["sandbox"] == LAYERS
            source = server.job_dir(job.id) / "source"
            assert source.read_text() == other.id
            assert stat.S_IMODE(source.stat().st_mode) & 0o400, "its mode is as before"
            facts.append(record["steps"][0]["facts"])

    assert facts[0]["pid"] == facts[1]["pid"]
    for told in facts:
        assert told["tries"].pop("hide its input") == "allowed"  # and without effect
        assert {name: answer for name, answer in told["tries"].items() if answer != "PermissionError"} == {}


def test_without_the_sandbox_the_same_tries_succeed_and_the_record_says_so(
    tmp_path: Path, listening: tuple[int, Path]
) -> None:
    facts, layers = escape(tmp_path, listening, sandbox="off", only="harmless")

    assert layers == ["rlimits"]
    assert set(facts["tries"].values()) == {"allowed"}
    assert len(facts["tries"]) >= 15


def test_a_strict_sandbox_does_not_start_where_a_layer_is_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = Settings.load(data_dir=tmp_path, sandbox="strict")
    services = build(settings)
    with monkeypatch.context() as patched:
        patched.setattr(landlock, "abi", lambda: 2)
        with pytest.raises(ConfigError, match="INTAKE_SANDBOX=strict: this system lacks Landlock"):
            build_runner(settings, services)
    with monkeypatch.context() as patched:
        patched.setattr(seccomp, "is_available", lambda: False)
        with pytest.raises(ConfigError, match="INTAKE_SANDBOX=strict: this system lacks seccomp"):
            build_runner(settings, services)


@pytest.mark.skipif(sys.platform != "linux", reason="the layers are Linux's")
def test_a_strict_sandbox_starts_where_all_layers_are_there() -> None:
    assert sandbox.layers("strict") == LAYERS
