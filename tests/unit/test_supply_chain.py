"""What the service is made of: versions without known holes, licences that ask for nothing, and a bill of materials."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import Final

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests import licenses

ROOT: Final = Path(__file__).parents[2]
#: The oldest version of each library without a known hole that concerns a service like this one, and the last such hole.
FLOORS: Final = {
    "fastapi": "0.165",  # built-in limits of forms and bodies
    "h11": "0.16.0",  # CVE-2025-43859: the end of a chunk
    "pillow": "12.3.0",  # decoders
    "python-multipart": "0.0.31",  # CVE-2026-53540: a negative length
    "starlette": "1.3.1",  # CVE-2026-54283: limits of urlencoded forms
}


@pytest.mark.parametrize("name", FLOORS)
def test_what_is_installed_has_no_known_hole(name: str) -> None:
    assert Version(version(name)) >= Version(FLOORS[name])


@pytest.mark.parametrize("name", FLOORS)
def test_what_is_locked_has_no_known_hole(name: str) -> None:
    for lock in ("run", "scaled", "dev"):
        locked = re.search(rf"(?m)^{name}==(\S+)", (ROOT / "requirements" / f"{lock}.txt").read_text())
        assert locked, f"{name} is not in {lock}.txt"
        assert Version(locked[1]) >= Version(FLOORS[name]), lock


def test_what_the_project_asks_for_has_no_known_hole() -> None:
    asked = {canonicalize_name(each.name): each for each in map(Requirement, licenses.declared())}
    for name, floor in FLOORS.items():
        if name in asked:
            (specifier,) = asked[name].specifier
            assert Version(specifier.version) >= Version(floor), name
    assert FLOORS.keys() - asked.keys() == {"h11"}  # comes with httpx alone: the server does not use it


def test_the_server_does_not_parse_with_h11() -> None:
    assert 'http="h11"' not in (ROOT / "service" / "server.py").read_text()


def test_every_licence_of_the_default_install_is_permitted() -> None:
    found = licenses.shipped(*licenses.declared())
    assert {"fastapi", "pillow", "certifi", "h11", "opentelemetry-api"} <= found.keys()  # also what nobody named
    assert not list(licenses.objections(found))
    assert not [name for name, told in found.items() if re.search(r"GPL|GNU", told)]


@pytest.mark.parametrize(
    ("told", "permitted"),
    [
        ("MIT", True),
        ("MIT OR GPL-3.0-only", True),
        ("(Apache-2.0 AND BSD-3-Clause)", True),
        ("GPL-3.0-or-later", False),
        ("MIT AND LGPL-2.1-only", False),
        ("GNU Affero General Public License v3", False),
        ("none told", False),
    ],
)
def test_a_licence_that_is_not_on_the_list_is_named(told: str, permitted: bool) -> None:
    found = list(licenses.objections({"thing": told}))
    assert (not found) == permitted
    assert permitted or "thing" in found[0]


def test_the_list_of_licences_is_what_make_prints() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tests.licenses"], cwd=ROOT, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.endswith(" distributions, 0 objections\n")
    assert re.search(r"(?m)^python-multipart +Apache-2.0$", done.stdout)


def test_the_bill_of_materials_names_all_that_is_locked_and_is_the_same_each_time(tmp_path: Path) -> None:
    recipe = re.search(r"(?m)^\t@\$\(BIN\)/cyclonedx-py (.*) -o dist/sbom.cdx.json$", (ROOT / "Makefile").read_text())
    assert recipe
    made = []
    for number in range(2):
        path = tmp_path / f"{number}.json"
        command = [Path(sys.executable).with_name("cyclonedx-py"), *recipe[1].split(), "-o", str(path)]
        subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=60)
        made.append(path.read_text())
    assert made[0] == made[1]

    bill = json.loads(made[0])
    assert bill["bomFormat"] == "CycloneDX"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert (bill["metadata"]["component"]["name"], bill["metadata"]["component"]["version"]) == (
        project["name"],
        project["version"],
    )
    locked = set(re.findall(r"(?m)^([\w.-]+)==([^\s;\\]+)", (ROOT / "requirements" / "run.txt").read_text()))
    assert {(each["name"], each["version"]) for each in bill["components"]} == locked
    for each in bill["components"]:
        assert each["purl"].startswith("pkg:pypi/")
        assert any(reference.get("hashes") for reference in each["externalReferences"]), each["name"]
