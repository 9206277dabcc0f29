"""What is in ``deploy/`` speaks of metrics, labels and settings that exist, and the alerts go off when they must."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from service.api.metrics import Snapshot
from service.figures import METRICS, Metric
from service.settings import PREFIX, Settings
from service.wiring import build_in_memory
from tests.needs import need

ROOT = Path(__file__).parents[2] / "deploy"
RULES = ROOT / "prometheus" / "alerts.yml"
DASHBOARD = ROOT / "grafana" / "intake.json"
_GIVEN = {"instance", "job", "le"}  # labels that Prometheus, or a histogram, adds


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def expressions() -> dict[str, str]:
    """Return every expression of rules and panels, by where it stands."""
    found = {f"alert {rule['alert']}": rule["expr"] for rule in rules()}
    for panel in panels():
        found |= {f"panel {panel['title']} {target['refId']}": target["expr"] for target in panel["targets"]}
    return found


def metrics_in(expression: str) -> Iterator[tuple[Metric, str]]:
    """Yield each metric of an expression with what stands in its braces. Raises KeyError for one that does not exist."""
    for name, braces in re.findall(r"\b(intake_\w+)(?:\{([^}]*)\})?", expression):
        base = re.sub(r"_(bucket|sum|count)$", "", name)
        if base != name:
            assert METRICS[base].kind == "histogram", name
        else:
            assert METRICS[name].kind != "histogram", f"{name} is a histogram: name its bucket, sum or count"
        yield METRICS[base], braces


@pytest.mark.parametrize(("where", "expression"), expressions().items())
def test_every_metric_and_label_in_an_expression_exists(where: str, expression: str) -> None:
    known = set(_GIVEN)
    for metric, braces in metrics_in(expression):
        assert set(re.findall(r"(\w+)\s*[=!]~?=?", braces)) <= {*metric.labels, *_GIVEN}, metric.name
        known |= set(metric.labels)
    grouped = re.findall(r"\b(?:by|on)\s*\(([^)]*)\)", expression)
    assert {label.strip() for labels in grouped for label in labels.split(",")} <= known


def test_values_of_labels_in_an_expression_exist() -> None:
    for where, expression in expressions().items():
        for metric, braces in metrics_in(expression):
            for label, value in re.findall(r'(\w+)!?=~?"([^"]*)"', braces):
                if metric.values and label in metric.labels:
                    assert set(value.split("|")) <= set(metric.values[metric.labels.index(label)]), where


def test_every_metric_is_on_the_dashboard() -> None:
    shown = {metric.name for panel in panels() for t in panel["targets"] for metric, _ in metrics_in(t["expr"])}
    assert shown == METRICS.keys()


def test_panels_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {(place["x"] + x, place["y"] + y) for x in range(place["w"]) for y in range(place["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
    assert len({panel["id"] for panel in panels()}) == len(panels())


def test_alerts_are_told_in_words_and_in_the_guide() -> None:
    guide = (ROOT.parent / "docs" / "how-to" / "monitor.md").read_text()
    for rule in rules():
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"].endswith(".")
        assert f"`{rule['alert']}`" in guide


@pytest.mark.needs("promtool")
def test_alerts_go_off_when_they_must_and_at_no_other_time() -> None:
    command = [need("promtool"), "test", "rules", "alerts.test.yml"]
    done = subprocess.run(command, cwd=RULES.parent, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    tested = (RULES.parent / "alerts.test.yml").read_text()
    assert all(f'alertname="{rule["alert"]}"' in tested for rule in rules())


@pytest.mark.needs("promtool")
def test_prometheus_would_take_the_example(tmp_path: Path) -> None:
    for name in ("scrape.yml", "alerts.yml"):
        (tmp_path / name).write_text((RULES.parent / name).read_text())
    command = [need("promtool"), "check", "config", str(tmp_path / "scrape.yml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.needs("promtool")
def test_prometheus_finds_nothing_to_say_against_the_figures() -> None:
    from prometheus_client.exposition import generate_latest

    services = build_in_memory()
    services.counts.add(METRICS["intake_refusals_total"], 'odd"\\\n')
    page = generate_latest(Snapshot.take(services, engine_up=True))
    done = subprocess.run([need("promtool"), "check", "metrics"], input=page, capture_output=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, b"")


UNITS = sorted(path.name for path in (ROOT / "systemd").glob("*.service"))


def unit(name: str) -> dict[str, list[str]]:
    """Return what the section Service of a unit says, each key with all its values."""
    found: dict[str, list[str]] = {}
    (section,) = re.findall(r"(?ms)^\[Service\]\n(.*?)(?=^\[|\Z)", (ROOT / "systemd" / name).read_text())
    for key, value in re.findall(r"(?m)^(\w+)=(.*)$", section):
        found.setdefault(key, []).append(value)
    return found


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_starts_what_the_program_knows_with_settings_that_exist(name: str) -> None:
    service = unit(name)
    program, *words = service["ExecStart"][0].split()
    assert program == "/opt/file-intake/bin/intake"
    command = [sys.executable, "-m", "service.cli", *words, "--help"]
    answer = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert answer.returncode == 0, answer.stderr
    given = dict(word.split("=", 1) for line in service["Environment"] for word in line.split())
    assert given
    assert {variable.removeprefix(PREFIX).lower() for variable in given} <= Settings.model_fields.keys()
    handed = {line.partition(":")[0] for line in service.get("LoadCredential", [])}
    assert handed == {value.removeprefix("%d/") for value in given.values() if value.startswith("%d/")}
    assert given.get("INTAKE_DATA_DIR", service["WorkingDirectory"][0]).startswith(service["WorkingDirectory"][0])
    assert service["WorkingDirectory"] == [f"/var/lib/{service['StateDirectory'][0]}"]


@pytest.mark.parametrize("name", UNITS)
def test_a_unit_waits_until_all_is_drained(name: str) -> None:
    if unit(name).get("Type") != ["oneshot"]:
        assert int(unit(name)["TimeoutStopSec"][0]) >= 2 * Settings.load().drain.total_seconds() + 20
        assert unit(name)["KillMode"] == ["mixed"]


def test_the_parts_of_the_scaled_service_start_after_the_migration() -> None:
    for name in ("intake-api.service", "intake-worker.service"):
        text = (ROOT / "systemd" / name).read_text()
        assert re.search(r"(?m)^Requires=intake-migrate.service$", text)
        assert re.search(r"(?m)^After=.*\bintake-migrate.service$", text)
        assert "INTAKE_ENGINE=celery" in text


@pytest.mark.needs("systemd-analyze")
def test_systemd_finds_nothing_to_say_against_the_units(tmp_path: Path) -> None:
    system = tmp_path / "usr/lib/systemd/system"
    system.mkdir(parents=True)
    for path in (Path("/usr/lib/systemd/system").glob("*.target"), (ROOT / "systemd").glob("*.service")):
        for file in path:
            shutil.copy(file, system)
    program = tmp_path / "opt/file-intake/bin/intake"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    command = [need("systemd-analyze"), "verify", f"--root={tmp_path}", *UNITS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.needs("systemd-analyze")
@pytest.mark.parametrize("name", UNITS)
def test_a_unit_leaves_little_open(name: str) -> None:
    """The threshold is in tenths: of what systemd counts as exposure, the network is most of what is left."""
    command = [need("systemd-analyze"), "security", "--offline=yes", "--threshold=35", str(ROOT / "systemd" / name)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
