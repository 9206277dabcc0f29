"""The repository keeps its own rules: what is in it, what its locks hold, what its documents promise."""

from __future__ import annotations

import re
import subprocess
import tomllib
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.needs import NEEDS, need

ROOT = Path(__file__).parents[2]
MAX_LINES = 320
_PACKAGES = ("service", "processors")
LOCKS = ("run", "scaled", "dev", "build", "lock")


@cache
def _tracked() -> tuple[Path, ...]:
    """Return the files that are in the repository or about to be."""
    command = [need("git"), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return tuple(path for name in listing.split("\0") if name and (path := ROOT / name).is_file())


@cache
def _pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text())


@cache
def _locked(name: str) -> dict[str, tuple[Requirement, int]]:
    """Return the requirements of a lock file by their names, each with the number of its hashes."""
    text = re.sub(r"\\\n", " ", (ROOT / "requirements" / f"{name}.txt").read_text())
    found: dict[str, tuple[Requirement, int]] = {}
    for line in filter(None, text.splitlines()):
        requirement, *hashes = re.split(r"\s+--hash=sha256:(?=[0-9a-f]{64}\b)", line)
        parsed = Requirement(requirement)
        if parsed.marker is not None and not parsed.marker.evaluate():
            continue  # another Python's
        assert canonicalize_name(parsed.name) not in found, f"{parsed.name} is locked twice in {name}.txt"
        found[canonicalize_name(parsed.name)] = (parsed, len(hashes))
    return found


def _version(requirement: Requirement) -> str:
    (specifier,) = requirement.specifier
    assert specifier.operator == "==", requirement
    return specifier.version


def _wanted() -> list[tuple[str, Requirement]]:
    """Return each direct requirement with the lock file that must satisfy it."""
    project, groups = _pyproject()["project"], _pyproject()["dependency-groups"]
    direct = {
        "run": project["dependencies"],
        "scaled": [
            *project["dependencies"],
            *(line for extra in ("celery", "postgres", "s3") for line in project["optional-dependencies"][extra]),
        ],
        "dev": [
            *project["dependencies"],
            *groups["tests"],
            *groups["checks"],
            *groups["supply"],
            *project["optional-dependencies"]["testing"],
            *project["optional-dependencies"]["telemetry"],
        ],
        "build": [*_pyproject()["build-system"]["requires"], *_lines("build.in")],
        "lock": _lines("lock.in"),
    }
    return [(lock, Requirement(line)) for lock, lines in direct.items() for line in lines]


def _lines(name: str) -> list[str]:
    lines = (ROOT / "requirements" / name).read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


# Written in pieces, so that this file does not contain what it looks for.
_FORBIDDEN = {
    "a package registry's host": [
        "py" + "pi.org",
        "python" + "hosted.org",
        "npm" + "js.org",
        "npm" + "js.com",
        "deb.debian" + ".org",
        "security.debian" + ".org",
    ],
    "a path of somebody's machine": [
        "/ro" + "ot/",
        "/wo" + "rk/main",
        "/wo" + "rk/shared",
        "/opt/py" + "pi",
        "bash" + "_jobs",
    ],
}


@pytest.mark.parametrize("what", _FORBIDDEN)
def test_no_file_names(what: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}: {text}"
        for path in _tracked()
        for text in _FORBIDDEN[what]
        if text.encode() in path.read_bytes()
    ]
    assert not found


def test_no_data_or_generated_file_is_tracked() -> None:
    found = [path.relative_to(ROOT).as_posix() for path in _tracked()]
    assert [name for name in found if name.startswith("uploads/")] in ([], ["uploads/.gitkeep"])
    generated = re.compile(r"(^|/)(__pycache__|\.venv.*|\.coverage\..*|dist)(/|$)|\.py[co]$")
    assert not [name for name in found if generated.search(name)]


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_requirement_is_pinned_and_hashed(lock: str) -> None:
    assert _locked(lock)
    for requirement, hashes in _locked(lock).values():
        assert _version(requirement)
        assert hashes, f"{requirement} has no hash"


@pytest.mark.parametrize("lock", LOCKS)
def test_lock_files_name_no_index(lock: str) -> None:
    text = (ROOT / "requirements" / f"{lock}.txt").read_text()
    assert not re.search(r"(?m)^\s*(--(?!hash)|-[a-z]\b|#)|://", text)


@pytest.mark.parametrize(("lock", "requirement"), _wanted(), ids=lambda value: getattr(value, "name", value))
def test_locks_satisfy_what_the_project_asks_for(lock: str, requirement: Requirement) -> None:
    locked = _locked(lock).get(canonicalize_name(requirement.name))
    assert locked, f"{requirement.name} is not in requirements/{lock}.txt: run `make lock`"
    assert requirement.specifier.contains(_version(locked[0]), prereleases=True), (
        f"{requirement}: {locked[0]} is locked"
    )


@pytest.mark.parametrize("smaller", ["run", "scaled", "build"])
def test_locks_agree_on_what_they_share(smaller: str) -> None:
    here, there = _locked(smaller), _locked("dev")
    assert {name: _version(here[name][0]) for name in here if name in there} == {
        name: _version(there[name][0]) for name in here if name in there
    }
    assert smaller == "build" or set(here) <= set(there)


def test_the_lock_of_the_image_has_all_that_the_default_install_has() -> None:
    assert set(_locked("run")) < set(_locked("scaled"))


def test_what_is_compared_with_others_is_what_is_run() -> None:
    here, there = _locked("run"), _locked("bench")
    assert {name: _version(requirement) for name, (requirement, _) in here.items()} == {
        name: _version(there[name][0]) if name in there else "not locked" for name in here
    }


def test_direct_requirements_have_a_floor_and_no_ceiling() -> None:
    for _, requirement in _wanted():
        operators = {specifier.operator for specifier in requirement.specifier}
        free = requirement.name == "editables" or requirement.name.startswith("types-")
        assert free or operators == {">="}, requirement


def test_one_oldest_python_is_named_everywhere() -> None:
    pyproject = _pyproject()
    assert pyproject["project"]["requires-python"] == ">=3.11"
    assert pyproject["tool"]["ruff"]["target-version"] == "py311"
    makefile = (ROOT / "Makefile").read_text()
    assert "sys.version_info < (3, 11)" in makefile
    assert "--python-version 3.11 " in makefile


def _modules() -> list[Path]:
    return [path for path in _tracked() if path.suffix == ".py" and path.relative_to(ROOT).parts[0] in _PACKAGES]


def test_no_module_is_too_long_to_be_read_at_once() -> None:
    long = {path.relative_to(ROOT).as_posix(): len(path.read_bytes().splitlines()) for path in _modules()}
    assert not {name: lines for name, lines in long.items() if lines > MAX_LINES}


def test_no_module_is_named_for_holding_anything() -> None:
    nothing = {"util", "utils", "common", "helper", "helpers", "manager", "managers", "misc"}
    parts = {path: {part.removesuffix(".py") for part in path.relative_to(ROOT).parts} for path in _modules()}
    assert not [path for path, names in parts.items() if names & nothing]


def _targets() -> set[str]:
    return set(re.findall(r"(?m)^([a-z][a-z-]*):(?!=)", (ROOT / "Makefile").read_text()))


def test_every_make_target_says_what_it_does() -> None:
    listed = subprocess.run(["make", "help"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(re.findall(r"(?m)^make ([a-z-]+) +\S", listed)) == _targets()


def test_every_make_target_in_the_documents_exists() -> None:
    documents = [path for path in _tracked() if path.suffix == ".md"]
    assert ROOT / "CONTRIBUTING.md" in documents
    for path in documents:
        text = path.read_text()
        code = re.findall(r"(?ms)^ *```.*?^ *```|`[^`\n]+`", text)
        used = {target for piece in code for target in re.findall(r"\bmake ([a-z][a-z-]*)", piece)}
        assert used <= _targets(), path.relative_to(ROOT)


def test_ci_installs_and_requires_all_that_tests_may_need() -> None:
    listed = re.search(r"declare -A programs=\((.*)\)", (ROOT / ".ci" / "run").read_text())
    assert listed
    assert dict(re.findall(r"\[(\S+)\]=(\S+)", listed[1])) == NEEDS


def test_every_need_of_a_test_is_a_known_one() -> None:
    for path in (ROOT / "tests").rglob("*.py"):
        named = re.findall(r"mark\.needs\(([^)]*)\)|\bneed\((\"[^)]*\")\)", path.read_text())
        for name in re.findall(r"\"([^\"]+)\"", " ".join("".join(groups) for groups in named)):
            assert name in NEEDS or path.name == "needs.py", f"{path.relative_to(ROOT)} needs {name}"


def test_a_missing_need_skips_the_test_and_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTAKE_TEST_REQUIRE", "curl,strace")
    monkeypatch.setitem(NEEDS, _ABSENT, "some-package")
    with pytest.raises(pytest.skip.Exception, match=f"needs {_ABSENT}, .*some-package"):
        need(_ABSENT)


def test_a_missing_need_fails_the_test_where_it_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INTAKE_TEST_REQUIRE", f"curl, {_ABSENT}")
    monkeypatch.setitem(NEEDS, _ABSENT, "some-package")
    with pytest.raises(pytest.fail.Exception, match="INTAKE_TEST_REQUIRE lists it"):
        need(_ABSENT)


_ABSENT = "a-program-that-nobody-has"
