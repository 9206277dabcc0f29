"""The container files say nothing that the program or compose would not understand. No engine runs here: they are read.

The schema of compose.yaml below is the part of the Compose Specification that the file uses, each member with the types
the specification gives it; a member that is not in it is refused, so a new one is looked up before it is used.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from service.access.memory_store import MemoryTokenStore
from service.access.opening import require_tokens_or_loopback
from service.errors import ConfigError
from service.settings import PREFIX, Settings, parse_duration, parse_size

ROOT = Path(__file__).parents[2]

_STRINGS = {"type": "array", "items": {"type": "string"}, "uniqueItems": True}
_DURATION = {"type": "string", "pattern": r"^(\d+(us|ms|s|m|h))+$"}
_BYTES = {"type": "string", "pattern": r"^\d+(b|k|kb|m|mb|g|gb)$"}
_HEALTH_TEST = {
    "type": "array",
    "prefixItems": [{"enum": ["CMD", "CMD-SHELL"]}],
    "items": {"type": "string"},
    "minItems": 2,
}
_SCALARS = {"type": "object", "additionalProperties": {"type": ["string", "number", "null"]}}
_WORDS = {"type": "array", "items": {"type": "string"}}
_FILES = {  # of configs and secrets, at the top
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "required": ["file"],
        "additionalProperties": False,
        "properties": {"file": {"type": "string"}},
    },
}
_GRANTS = {  # of configs and secrets, in a service
    "type": "array",
    "items": {
        "oneOf": [
            {"type": "string"},
            {
                "type": "object",
                "additionalProperties": False,
                "properties": {"source": {"type": "string"}, "target": {"type": "string"}},
            },
        ]
    },
    "uniqueItems": True,
}
_COMPOSE = {
    "$schema": "https://json-schema.org/draft/2020-12/schema",
    "type": "object",
    "required": ["services"],
    "additionalProperties": False,
    "patternProperties": {"^x-": {}},
    "properties": {
        "configs": _FILES,
        "secrets": _FILES,
        "networks": {
            "type": "object",
            "additionalProperties": {
                "type": ["object", "null"],
                "additionalProperties": False,
                "properties": {"internal": {"type": "boolean"}},
            },
        },
        "name": {"type": "string", "pattern": "^[a-z0-9][a-z0-9_-]*$"},
        "services": {"type": "object", "additionalProperties": {"$ref": "#/$defs/service"}},
        "volumes": {"type": "object", "additionalProperties": {"type": ["object", "null"], "maxProperties": 0}},
    },
    "$defs": {
        "service": {
            "type": "object",
            "required": ["image"],
            "additionalProperties": False,
            "properties": {
                "build": {"type": "string"},
                "cap_add": _STRINGS,
                "cap_drop": _STRINGS,
                "command": _WORDS,
                "configs": _GRANTS,
                "cpus": {"type": ["number", "string"]},
                "depends_on": {
                    "type": "object",
                    "additionalProperties": {
                        "type": "object",
                        "required": ["condition"],
                        "additionalProperties": False,
                        "properties": {
                            "condition": {
                                "enum": ["service_started", "service_healthy", "service_completed_successfully"]
                            },
                            "required": {"type": "boolean"},
                        },
                    },
                },
                "deploy": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"replicas": {"type": "integer"}},
                },
                "entrypoint": _WORDS,
                "environment": _SCALARS,
                "healthcheck": {
                    "type": "object",
                    "required": ["test"],
                    "additionalProperties": False,
                    "properties": {
                        "test": _HEALTH_TEST,
                        "interval": _DURATION,
                        "timeout": _DURATION,
                        "start_period": _DURATION,
                        "retries": {"type": "integer", "minimum": 1},
                    },
                },
                "hostname": {"type": "string"},
                "image": {"type": "string"},
                "init": {"type": "boolean"},
                "logging": {
                    "type": "object",
                    "additionalProperties": False,
                    "properties": {"driver": {"type": "string"}, "options": _SCALARS},
                },
                "mem_limit": _BYTES,
                "networks": _STRINGS,
                "pids_limit": {"type": "integer", "minimum": 1},
                "ports": _STRINGS,
                "profiles": _STRINGS,
                "read_only": {"type": "boolean"},
                "restart": {"enum": ["no", "always", "on-failure", "unless-stopped"]},
                "secrets": _GRANTS,
                "security_opt": _STRINGS,
                "shm_size": _BYTES,
                "stop_grace_period": _DURATION,
                "tmpfs": _STRINGS,
                "ulimits": {
                    "type": "object",
                    "additionalProperties": {
                        "type": "object",
                        "required": ["soft", "hard"],
                        "additionalProperties": False,
                        "properties": {"soft": {"type": "integer"}, "hard": {"type": "integer"}},
                    },
                },
                "user": {"type": "string"},
                "volumes": _STRINGS,
            },
        }
    },
}


def _dockerfile() -> list[tuple[str, str]]:
    """Return the instructions of the final stage and their arguments, with continued lines joined."""
    text = re.sub(r"(?m)^\s*#.*\n", "", (ROOT / "Dockerfile").read_text())
    lines = [line.strip() for line in re.sub(r"\\\n", " ", text).splitlines() if line.strip()]
    instructions = [(name.upper(), rest.strip()) for name, _, rest in (line.partition(" ") for line in lines)]
    last = max(number for number, (name, _) in enumerate(instructions) if name == "FROM")
    return instructions[last:]


def _argument(name: str) -> str:
    found = [rest for instruction, rest in _dockerfile() if instruction == name]
    assert len(found) == 1, f"the final stage has {len(found)} {name}"
    return found[0]


def _image_environment() -> dict[str, str]:
    words = [word for name, rest in _dockerfile() if name == "ENV" for word in shlex.split(rest)]
    return dict(word.split("=", 1) for word in words)


def _compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return document


def _intake() -> dict[str, Any]:
    service: dict[str, Any] = _compose()["services"]["intake"]
    return service


def _commands() -> dict[str, list[str]]:
    """Return every command line in the container files, by where it stands, as arguments of `intake`."""
    entry, arguments = json.loads(_argument("ENTRYPOINT")), json.loads(_argument("CMD"))
    options, _, health = _argument("HEALTHCHECK").partition(" CMD ")
    assert re.fullmatch(r"(--(interval|timeout|start-period|start-interval|retries)=\w+ ?)+", options)
    service = _intake()
    commands = {
        "Dockerfile CMD": entry + arguments,
        "Dockerfile HEALTHCHECK": json.loads(health),
        "compose.yaml command": entry + service.get("command", arguments),
        "compose.yaml healthcheck": service["healthcheck"]["test"][1:],
    }
    assert {command[0] for command in commands.values()} == {"intake"}
    return {where: command[1:] for where, command in commands.items()}


def test_compose_file_follows_the_specification() -> None:
    jsonschema.validate(_compose(), _COMPOSE)


def test_compose_mounts_only_volumes_it_declares_and_the_data_goes_to_one() -> None:
    targets = dict(reversed(volume.split(":")) for volume in _intake()["volumes"])
    used = [
        volume.split(":")[0] for service in _compose()["services"].values() for volume in service.get("volumes", [])
    ]
    assert sorted(used) == sorted(_compose()["volumes"])
    assert targets[_argument("VOLUME")] == "data"


def test_data_directory_of_the_image_is_its_volume_and_no_relative_path() -> None:
    assert _image_environment()["INTAKE_DATA_DIR"] == _argument("VOLUME") == "/data"


@pytest.mark.parametrize(
    "where", ["Dockerfile CMD", "Dockerfile HEALTHCHECK", "compose.yaml command", "compose.yaml healthcheck"]
)
def test_the_program_knows_every_command_and_option_in_the_container_files(where: str) -> None:
    command = [sys.executable, "-m", "service.cli", *_commands()[where], "--help"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert answer.returncode == 0, answer.stderr


@pytest.mark.parametrize("where", ["Dockerfile", "compose.yaml", "both"])
def test_the_program_accepts_every_variable_in_the_container_files(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    image, service = _image_environment(), _intake()["environment"]
    chosen = {"Dockerfile": image, "compose.yaml": service, "both": image | service}[where]
    variables = {name: str(value) for name, value in chosen.items() if name.startswith(PREFIX)}
    assert {name.removeprefix(PREFIX).lower() for name in variables} <= set(Settings.model_fields)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    Settings.load()


def test_the_container_of_compose_starts_without_a_token_and_the_bare_image_needs_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in _image_environment().items():
        if name.startswith(PREFIX):
            monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="no token yet"):
        require_tokens_or_loopback(Settings.load(), MemoryTokenStore())
    for name, value in _intake()["environment"].items():
        monkeypatch.setenv(name, value)
    require_tokens_or_loopback(Settings.load(), MemoryTokenStore())


def test_the_published_port_is_the_one_listened_on_and_stays_on_this_machine() -> None:
    port = str(Settings.model_fields["port"].default)
    assert "INTAKE_PORT" not in _image_environment() | _intake()["environment"]
    assert _argument("EXPOSE") == port
    assert [published.split(":") for published in _intake()["ports"]] == [["127.0.0.1", port, port]]
    assert _image_environment()["INTAKE_HOST"] == "0.0.0.0"


def test_the_container_runs_without_privileges_on_a_read_only_root() -> None:
    service = _intake()
    assert service["user"] == _argument("USER") == "10001:10001"
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert [mount.split(":")[0] for mount in service["tmpfs"]] == ["/tmp"]


def test_the_engine_waits_longer_than_the_service_drains() -> None:
    drain = parse_duration(_intake()["environment"].get("INTAKE_DRAIN", Settings.model_fields["drain"].default))
    assert isinstance(drain, timedelta)
    assert parse_duration(_intake()["stop_grace_period"]) >= drain + timedelta(seconds=5)
    assert _argument("STOPSIGNAL") == "SIGTERM"


def test_the_memory_limit_holds_all_slots_and_a_gibibyte_for_the_rest() -> None:
    service = _intake()
    slots = int(service["environment"]["INTAKE_SLOTS"])
    each = parse_size(service["environment"]["INTAKE_ATTEMPT_MEMORY"])
    limit = parse_size(service["mem_limit"].replace("g", "GiB").replace("m", "MiB"))
    assert isinstance(each, int)
    assert limit >= slots * each + 2**30


def test_the_image_is_built_from_the_hashed_lock_on_the_oldest_supported_python() -> None:
    text = (ROOT / "Dockerfile").read_text()
    assert set(re.findall(r"(?m)^FROM (\S+)", text)) == {"python:3.11-slim"}
    locks = re.findall(r"pip install --require-hashes -r (\S+)", text)
    assert locks == ["requirements/scaled.txt", "requirements/build.txt"]
    assert re.findall(r"pip install (?!--require-hashes)(.*?)(?: /| \\|\n)", text) == ["--no-deps --no-index"]


def test_everything_the_image_copies_exists_and_is_not_ignored() -> None:
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    sources = [word for line in re.findall(r"(?m)^COPY (?!--from)(.*)$", text) for word in line.split()[:-1]]
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert source.split("/")[0] in let_through, source


def test_the_label_names_the_version_of_the_package() -> None:
    from service import __version__

    assert f'org.opencontainers.image.version="{__version__}"' in _argument("LABEL")
