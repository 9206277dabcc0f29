"""What some tests need and not every machine has.

``@pytest.mark.needs("nginx", "curl")`` on a test, or ``need("nginx")`` within a fixture. Where it is missing, the test
is skipped with its name and how to get it; where ``INTAKE_TEST_REQUIRE`` (names, separated by commas) lists it, the
test fails instead, so that a machine that is meant to run all tests cannot lose one silently. ``.ci/run`` lists all.
"""

from __future__ import annotations

import os
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Final

import pytest

#: Name of each need, which is that of its program, and the Debian package that brings it.
NEEDS: Final = {
    "caddy": "caddy",
    "clamd": "clamav-daemon",
    "curl": "curl",
    "epmd": "erlang-base",
    "file": "file",
    "gcc": "gcc",
    "mkfs.ext4": "e2fsprogs",
    "mkfs.xfs": "xfsprogs",
    "git": "git",
    "identify": "imagemagick",
    "nginx": "nginx-light",
    "openssl": "openssl",
    "postfix": "postfix",
    "postgres": "postgresql",
    "promtool": "prometheus",
    "rabbitmq-server": "rabbitmq-server",
    "redis-server": "redis-server",
    "strace": "strace",
    "systemd-analyze": "systemd",
}
#: Libraries of the extras, each with its extra.
_LIBRARIES: Final = {
    "alembic": "postgres",
    "botocore": "s3",
    "celery": "celery",
    "kombu": "celery",
    "opentelemetry": "telemetry",
    "psycopg": "postgres",
    "psycopg_pool": "postgres",
    "redis": "celery",
}
_PATH: Final = os.pathsep.join(
    [
        os.environ.get("PATH", ""),
        "/usr/local/sbin",
        "/usr/sbin",
        "/sbin",
        *sorted(map(str, Path("/usr/lib/postgresql").glob("*/bin")))[-1:],
    ]
)  # Debian keeps PostgreSQL's servers out of PATH, a folder for each version


def need(name: str) -> str:
    """Return the path of the program ``name``; without it, skip the running test, or fail it where it is required.

    Raises:
        KeyError: the name is not in ``NEEDS``; add it there and to ``.ci/run``.
    """
    package = NEEDS[name]
    if found := shutil.which(name, path=_PATH):
        return found
    reason = f"needs {name}, which is not installed (Debian's package {package})"
    if name in os.environ.get("INTAKE_TEST_REQUIRE", "").replace(",", " ").split():
        pytest.fail(f"{reason}, and INTAKE_TEST_REQUIRE lists it", pytrace=False)
    pytest.skip(reason)


def need_library(name: str) -> None:
    """Skip the running test where a library of an extra is missing: without it the service works, and so do its tests."""
    if find_spec(name) is None:
        pytest.skip(_missing(name))


def missing_library(report: str) -> str | None:
    """Return why a module could not be imported, if that is for want of a library of an extra; ``report`` is what was raised."""
    found = re.search(r"No module named '(\w+)", report)
    return _missing(found[1]) if found and found[1] in _LIBRARIES else None


def _missing(library: str) -> str:
    return f"needs {library}, which is not installed: pip install 'file-intake[{_LIBRARIES[library]}]'"
