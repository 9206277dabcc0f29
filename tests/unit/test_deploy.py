"""What is in ``deploy/`` speaks of metrics, labels and settings that exist, and the alerts go off when they must."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from configparser import ConfigParser
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


def test_the_unit_starts_the_service_with_settings_that_exist() -> None:
    unit = ConfigParser(strict=False, interpolation=None)
    unit.optionxform = str  # type: ignore[assignment,method-assign]
    unit.read(ROOT / "systemd" / "intake.service")
    service = unit["Service"]
    assert service["ExecStart"].endswith("/bin/intake serve --ready off")
    named = re.findall(rf"{PREFIX}(\w+)=", service["Environment"])
    assert named
    assert {name.lower() for name in named} <= Settings.model_fields.keys()
    drain = Settings.load().drain.total_seconds()
    assert int(service["TimeoutStopSec"]) >= 2 * drain + 20
