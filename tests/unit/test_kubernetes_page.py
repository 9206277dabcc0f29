"""The manifests of docs/how-to/run-on-kubernetes.md name what the program knows, and their times and memory fit each other."""

from __future__ import annotations

import re
import subprocess
import sys
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from service.app import create_app
from service.settings import PREFIX, Settings, parse_duration, parse_size

PAGE: Final = Path(__file__).parents[2] / "docs" / "how-to" / "run-on-kubernetes.md"
NAMES: Final = ("intake-api", "intake-worker", "intake-migrate")
PROBES: Final = ("startupProbe", "livenessProbe", "readinessProbe")


@cache
def manifests() -> dict[str, dict[str, Any]]:
    found = [yaml.safe_load(block) for block in re.findall(r"(?ms)^```yaml\n(.*?)^```$", PAGE.read_text())]
    assert [one["apiVersion"] for one in found] == ["apps/v1", "apps/v1", "batch/v1"]
    return {one["metadata"]["name"]: one for one in found}


def pod(name: str) -> dict[str, Any]:
    spec: dict[str, Any] = manifests()[name]["spec"]["template"]["spec"]
    return spec


def container(name: str) -> dict[str, Any]:
    (one,) = pod(name)["containers"]
    assert isinstance(one, dict)
    return one


def variables(name: str) -> dict[str, str]:
    return {one["name"]: one["value"] for one in container(name)["env"]}


def size(text: str) -> int:
    found = parse_size(re.sub("[MG]i$", r"\g<0>B", text))
    assert isinstance(found, int)
    return found


def test_there_are_the_three_parts_and_their_labels_agree() -> None:
    assert tuple(manifests()) == NAMES
    for name in NAMES[:2]:
        spec = manifests()[name]["spec"]
        assert spec["selector"]["matchLabels"] == spec["template"]["metadata"]["labels"]


@pytest.mark.parametrize("name", NAMES)
def test_the_program_knows_all_arguments_and_commands(name: str) -> None:
    runs = [container(name)["args"]]
    for probe in PROBES:
        if command := container(name).get(probe, {}).get("exec", {}).get("command"):
            assert command[0] == "intake"
            runs.append(command[1:])
    for words in runs:
        done = subprocess.run(
            [sys.executable, "-m", "service.cli", *words, "--help"], capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", NAMES)
def test_the_settings_load(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mounted,) = [mount["mountPath"] for mount in container(name)["volumeMounts"] if mount["name"] == "secrets"]
    (tmp_path / "records").write_text("postgresql://db.example.org/intake")
    (tmp_path / "broker_url").write_text("amqp://mq.example.org/intake")
    for variable, value in variables(name).items():
        assert variable.removeprefix(PREFIX).lower() in Settings.model_fields
        monkeypatch.setenv(variable, value.replace(mounted, str(tmp_path)))
    assert Settings.load().records.get_secret_value().startswith("postgresql://")


def test_api_and_worker_agree_on_what_they_share() -> None:
    own = {"INTAKE_SHUTDOWN_NOTICE", "INTAKE_SLOTS", "INTAKE_ATTEMPT_MEMORY"}
    api, worker = variables("intake-api"), variables("intake-worker")
    assert {key: api[key] for key in api if key not in own} == {key: worker[key] for key in worker if key not in own}


def test_probes_ask_what_they_are_for(tmp_path: Path) -> None:
    api, worker = container("intake-api"), container("intake-worker")
    paths = {probe: api[probe]["httpGet"]["path"] for probe in PROBES}
    assert paths == {"startupProbe": "/livez", "livenessProbe": "/livez", "readinessProbe": "/readyz"}
    assert set(paths.values()) <= set(create_app(Settings.load(data_dir=tmp_path)).openapi()["paths"])
    ports = {port["name"]: port["containerPort"] for port in api["ports"]}
    assert ports == {"http": Settings.model_fields["port"].default}
    assert {api[probe]["httpGet"]["port"] for probe in PROBES} == {"http"}
    assert "livenessProbe" not in worker
    ready = worker["readinessProbe"]
    assert 2 * float(ready["exec"]["command"][-1]) < ready["timeoutSeconds"] < ready["periodSeconds"]


@pytest.mark.parametrize("name", NAMES[:2])
def test_a_pod_has_time_for_all_that_follows_its_signal(name: str) -> None:
    notice = parse_duration(variables(name).get("INTAKE_SHUTDOWN_NOTICE", "0s"))
    assert isinstance(notice, timedelta)
    drain = Settings.model_fields["drain"].default
    assert pod(name)["terminationGracePeriodSeconds"] >= (notice + 2 * drain).total_seconds() + 5


def test_readiness_is_lost_before_the_socket_closes() -> None:
    probe = container("intake-api")["readinessProbe"]
    notice = parse_duration(variables("intake-api")["INTAKE_SHUTDOWN_NOTICE"])
    assert isinstance(notice, timedelta)
    assert notice.total_seconds() >= probe["periodSeconds"] * probe["failureThreshold"]


def test_a_worker_has_memory_for_all_its_slots() -> None:
    slots, each = (
        int(variables("intake-worker")["INTAKE_SLOTS"]),
        size(variables("intake-worker")["INTAKE_ATTEMPT_MEMORY"]),
    )
    assert size(container("intake-worker")["resources"]["limits"]["memory"]) >= slots * each + 2**30


@pytest.mark.parametrize("name", NAMES)
def test_a_pod_is_confined_and_writes_where_it_may(name: str) -> None:
    assert pod(name)["securityContext"] == {
        "runAsNonRoot": True,
        "runAsUser": 10001,
        "runAsGroup": 10001,
        "fsGroup": 10001,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
    assert pod(name)["enableServiceLinks"] is pod(name)["automountServiceAccountToken"] is False
    assert container(name)["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    volumes = {volume["name"]: volume for volume in pod(name)["volumes"]}
    mounts = {mount["mountPath"]: volumes[mount["name"]] for mount in container(name)["volumeMounts"]}
    assert "emptyDir" in mounts["/data"]
    assert "emptyDir" in mounts["/tmp"]
    assert "memory" in container(name)["resources"]["limits"]
