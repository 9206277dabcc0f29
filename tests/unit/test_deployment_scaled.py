"""The scaled service of compose.yaml fits together: who starts after whom, who may reach whom, and which secret opens what.

No container engine runs here. What can be run of it is: the script that makes the secrets, the one that makes the bucket, and, in
``tests/e2e/test_compose_servers.py``, the servers' configurations and health checks.
"""

from __future__ import annotations

import configparser
import json
import os
import re
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlsplit

import pytest
import yaml

from service.settings import PREFIX, Settings, parse_size
from tests.s3 import S3Server, proxy

ROOT: Final = Path(__file__).parents[2]
OURS: Final = ("intake", "api", "worker", "migrate", "bucket")
#: The health check of each image that is not ours, and why it says that the service can be used.
CHECKS: Final = {
    "proxy": (
        ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8080/livez"],
        "Alpine's wget; an API answers through it",
    ),
    "postgres": (
        ["pg_isready", "-q", "-h", "127.0.0.1", "-U", "intake", "-d", "intake"],
        "part of PostgreSQL: 0 when connections are taken",
    ),
    "rabbitmq": (
        ["rabbitmq-diagnostics", "-q", "check_port_connectivity"],
        "part of RabbitMQ: connects to each listener",
    ),
    "valkey": (["valkey-cli ping | grep -Eq 'PONG|NOAUTH'"], "part of Valkey; the answer is LOADING before it serves"),
    "s3": (
        ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:8333/healthz"],
        "Alpine's wget; the gateway's own probe",
    ),
    "flower": (
        ["wget", "-q", "-O", "/dev/null", "http://127.0.0.1:5555/healthcheck"],
        "Alpine's wget; Flower's own probe",
    ),
}
#: Variables of what is not our program, by service, and what reads them.
VARIABLES: Final = {
    "postgres": {
        "POSTGRES_USER": "the image's entrypoint",
        "POSTGRES_DB": "the image's entrypoint",
        "POSTGRES_PASSWORD_FILE": "the image's entrypoint",
    },
    "bucket": {
        "AWS_SHARED_CREDENTIALS_FILE": "botocore",
        "AWS_ENDPOINT_URL_S3": "botocore",
        "AWS_DEFAULT_REGION": "botocore",
    },
}
#: Services without a ``user``, and why they are not root's for long.
OTHER_USERS: Final = {"s3": "its entrypoint changes to a user of its own", "flower": "the image has USER flower"}


@cache
def compose() -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return document


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = compose()["services"]
    return found


def started(profile: str) -> set[str]:
    return {name for name, service in services().items() if profile in service["profiles"]}


def granted(service: dict[str, Any], kind: str) -> dict[str, str]:
    """Return the secrets or configs that a service gets, each with its path in the container."""
    grants = [grant if isinstance(grant, dict) else {"source": grant} for grant in service.get(kind, [])]
    return {grant["source"]: grant.get("target", f"/run/secrets/{grant['source']}") for grant in grants}


@pytest.fixture(params=["rabbitmq", "valkey"])
def secrets(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Give the folder that the script makes for each broker."""
    subprocess.run([ROOT / "deploy/compose/make-secrets", request.param], cwd=tmp_path, check=True, capture_output=True)
    return tmp_path / "secrets"


# profiles


def test_without_a_profile_the_service_on_one_machine_starts() -> None:
    assert "COMPOSE_PROFILES=single" in (ROOT / ".env").read_text().splitlines()
    assert started("single") == {"intake"}


def test_each_profile_of_the_scaled_service_has_one_broker() -> None:
    parts = {"proxy", "api", "worker", "migrate", "bucket", "postgres", "s3"}
    assert started("scaled") == parts | {"rabbitmq", "flower"}
    assert started("valkey") == parts | {"valkey"}
    assert {profile for service in services().values() for profile in service["profiles"]} == {
        "single",
        "scaled",
        "valkey",
    }


def test_there_are_two_of_each_part_that_can_be_many() -> None:
    assert {name: one["deploy"]["replicas"] for name, one in services().items() if "deploy" in one} == {
        "api": 2,
        "worker": 2,
    }


# who starts after whom


def test_whoever_is_waited_for_is_there_and_can_be() -> None:
    for name, service in services().items():
        for other, how in service.get("depends_on", {}).items():
            if how.get("required", True):
                assert set(service["profiles"]) <= set(services()[other]["profiles"]), (name, other)
            if how["condition"] == "service_completed_successfully":
                assert services()[other]["restart"] == "no", other
            else:
                assert how["condition"] == "service_healthy"
                assert "healthcheck" in services()[other], other


@pytest.mark.parametrize("part", ["api", "worker"])
def test_no_part_starts_before_tables_and_bucket_are_there(part: str) -> None:
    waits = services()[part]["depends_on"]
    assert waits["migrate"]["condition"] == waits["bucket"]["condition"] == "service_completed_successfully"
    assert services()["migrate"]["command"] == ["migrate"]


def test_whoever_goes_on_has_a_health_check() -> None:
    for name, service in services().items():
        assert ("healthcheck" in service) == (service["restart"] != "no"), name


# confinement


@pytest.mark.parametrize("name", services())
def test_every_container_is_confined_and_limited(name: str) -> None:
    service = services()[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["mem_limit"]
    assert service["pids_limit"]
    assert ("user" in service) != (name in OTHER_USERS)
    assert not service.get("user", "").startswith("0")
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", []))
    assert re.search(r":\d", service["image"]) or service["image"] == "file-intake", "an image without a version"


def test_workers_and_servers_are_in_a_network_without_a_way_out() -> None:
    assert {name for name, network in compose()["networks"].items() if (network or {}).get("internal")} == {"back"}
    outside = {name for name in started("scaled") | started("valkey") if services()[name]["networks"] != ["back"]}
    assert outside == {"proxy", "flower"}  # whoever publishes a port must be in another


# commands, health checks, variables


@pytest.mark.parametrize("name", [name for name in OURS if name != "bucket"])
def test_the_program_knows_what_its_containers_run(name: str) -> None:
    service = services()[name]
    run = [service.get("command", ["serve"])]
    if "healthcheck" in service:
        assert service["healthcheck"]["test"][:2] == ["CMD", "intake"]
        run.append(service["healthcheck"]["test"][2:])
    for words in run:
        command = [sys.executable, "-m", "service.cli", *words, "--help"]
        answer = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
        assert answer.returncode == 0, answer.stderr


def test_every_health_check_of_another_image_is_one_that_is_known() -> None:
    others = {name: one["healthcheck"]["test"][1:] for name, one in services().items() if name not in OURS}
    assert others == {name: check for name, (check, _) in CHECKS.items()}


def test_every_variable_is_one_that_somebody_reads() -> None:
    for name, service in services().items():
        settings = {f"{PREFIX}{field.upper()}" for field in Settings.model_fields} if name in OURS else set()
        assert set(service.get("environment", {})) <= settings | VARIABLES.get(name, {}).keys(), name
    assert not any(
        re.search(r"(?i)pass|secret|token|_key", word) and not word.endswith("_FILE") for word in _variables()
    )


def _variables() -> set[str]:
    return {variable for service in services().values() for variable in service.get("environment", {})}


@pytest.mark.parametrize("part", ["api", "worker"])
def test_the_settings_of_each_part_load_with_its_secrets(
    part: str, secrets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = set(granted(services()[part], "secrets").values())
    for name, value in services()[part]["environment"].items():
        if value.startswith("/run/"):
            assert value in given, f"{name} names a secret that the container does not get"
        monkeypatch.setenv(name, value.replace("/run/secrets", str(secrets)))
    settings = Settings.load()
    assert settings.engine == "celery"
    assert settings.bucket is not None
    assert settings.records.get_secret_value() == (secrets / "records").read_text().strip()


def test_all_parts_agree_on_what_they_share() -> None:
    shared = compose()["x-shared"]
    for part in ("api", "worker"):
        assert shared.items() <= services()[part]["environment"].items()
    bucket = services()["bucket"]["environment"]
    assert shared["INTAKE_STORAGE"].startswith("s3://intake/")
    assert shared["INTAKE_STORAGE"].endswith(f"?endpoint={bucket['AWS_ENDPOINT_URL_S3']}")


def test_a_worker_has_memory_for_all_its_slots() -> None:
    worker = services()["worker"]
    slots, each = int(worker["environment"]["INTAKE_SLOTS"]), parse_size(worker["environment"]["INTAKE_ATTEMPT_MEMORY"])
    assert isinstance(each, int)
    assert int(worker["mem_limit"].removesuffix("g")) * 2**30 >= slots * each + 2**30


def test_the_engine_waits_until_all_is_drained() -> None:
    from service.settings import parse_duration

    drain = Settings.model_fields["drain"].default
    for part in ("api", "worker"):
        notice = parse_duration(services()[part]["environment"].get("INTAKE_SHUTDOWN_NOTICE", "0s"))
        grace = parse_duration(services()[part]["stop_grace_period"])
        assert grace is not None
        assert notice is not None
        assert grace >= notice + 2 * drain


# secrets and configurations


def test_every_secret_and_configuration_is_used_and_has_its_file(secrets: Path) -> None:
    for kind in ("secrets", "configs"):
        used = {source for service in services().values() for source in granted(service, kind)}
        assert used == compose()[kind].keys(), kind
    made = {f"./secrets/{path.name}" for path in secrets.iterdir()}
    assert {secret["file"] for secret in compose()["secrets"].values()} == made
    assert all((ROOT / config["file"]).is_file() for config in compose()["configs"].values())
    assert "secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_whoever_opens_has_the_key_of_whoever_is_opened(secrets: Path) -> None:
    records = urlsplit((secrets / "records").read_text().strip())
    postgres = services()["postgres"]["environment"]
    assert (records.username, records.path) == (postgres["POSTGRES_USER"], f"/{postgres['POSTGRES_DB']}")
    assert f"{records.password}\n" == (secrets / "postgres_password").read_text()
    broker = urlsplit((secrets / "broker_url").read_text().strip())
    assert {records.hostname, broker.hostname} <= services().keys()
    assert f"default_pass = {broker.password}\n" in (secrets / "rabbitmq.conf").read_text()
    assert f"requirepass {broker.password}\n" == (secrets / "valkey.conf").read_text()
    keys = configparser.ConfigParser()
    keys.read(secrets / "s3_credentials")
    (identity,) = json.loads((secrets / "s3.json").read_text())["identities"]
    assert identity["credentials"] == [
        {"accessKey": keys["default"]["aws_access_key_id"], "secretKey": keys["default"]["aws_secret_access_key"]}
    ]


def test_secrets_are_new_each_time_and_theirs_alone(secrets: Path, tmp_path: Path) -> None:
    assert secrets.stat().st_mode & 0o777 == 0o700
    assert all(path.stat().st_mode & 0o777 == 0o444 for path in secrets.iterdir())  # for the users of the containers
    again = subprocess.run([ROOT / "deploy/compose/make-secrets"], cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 1
    assert "already" in again.stderr
    (tmp_path / "other").mkdir()
    subprocess.run([ROOT / "deploy/compose/make-secrets"], cwd=tmp_path / "other", check=True, capture_output=True)
    assert (tmp_path / "other/secrets/records").read_text() != (secrets / "records").read_text()


def test_the_bucket_is_made_once(s3: S3Server, secrets: Path) -> None:
    program, path = services()["bucket"]["entrypoint"]
    assert program == "python"
    assert granted(services()["bucket"], "configs") == {"make_bucket": path}
    command = [sys.executable, ROOT / compose()["configs"]["make_bucket"]["file"]]
    with proxy(s3) as way:
        environment = os.environ | {
            name: value.replace("/run/secrets", str(secrets)).replace("http://s3:8333", way.url)
            for name, value in services()["bucket"]["environment"].items()
        }
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            environment.pop(name, None)
        for _ in range(2):
            subprocess.run(command, env=environment, check=True, timeout=60)
    assert way.trouble.seen == [("HEAD", "/intake"), ("PUT", "/intake"), ("HEAD", "/intake")]
    s3.client.delete_bucket(Bucket="intake")


def test_rabbitmq_waits_longer_for_an_acknowledgement_than_an_attempt_may_take() -> None:
    told = re.search(r"(?m)^consumer_timeout = (\d+)$", (ROOT / "deploy/compose/rabbitmq.conf").read_text())
    assert told
    assert int(told[1]) / 1000 >= 2 * Settings.model_fields["deadline"].default.total_seconds()
