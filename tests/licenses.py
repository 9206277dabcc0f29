"""The licences of what the default install brings, from the metadata of what is installed: ``python -m tests.licenses``.

Every distribution that the project's dependencies lead to, extras left out, must have a licence of the list below. Whatever is not
on it, or does not tell, is named and fails: a person looks at it, and not only for the words GPL.
"""

from __future__ import annotations

import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import distribution
from pathlib import Path
from typing import Final

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT: Final = Path(__file__).parents[1]
#: SPDX identifiers that ask for a notice at most; MPL-2.0 (certifi) binds changes to its own files alone.
PERMITTED: Final = frozenset(
    {
        "0BSD", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "CNRI-Python", "ISC", "MIT", "MIT-CMU", "MIT-0", "MPL-2.0", "PSF-2.0",
        "Unlicense", "Zlib",
    }
)  # fmt: skip
#: What older metadata say instead, in a classifier or in free text.
_SAID: Final = {
    "Apache": "Apache-2.0",
    "Apache 2": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "BSD": "BSD-3-Clause",
    "BSD License": "BSD-3-Clause",
    "3-Clause BSD": "BSD-3-Clause",
    "ISC License (ISCL)": "ISC",
    "MIT License": "MIT",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "Python Software Foundation License": "PSF-2.0",
}


def shipped(*requirements: str) -> dict[str, str]:
    """Return the distributions that these requirements lead to on this machine, with the licence each tells."""
    found: dict[str, str] = {}
    pending = [Requirement(each) for each in requirements]
    while pending:
        requirement = pending.pop()
        name = canonicalize_name(requirement.name)
        if name in found or not _applies(requirement):
            continue
        installed = distribution(requirement.name)
        found[name] = licence_of(name)
        for line in installed.requires or ():
            further = Requirement(line)
            if _applies(further, *requirement.extras):
                pending.append(further)
    return dict(sorted(found.items()))


def licence_of(name: str) -> str:
    """Return the licence that an installed distribution tells: an SPDX expression where there is one."""
    metadata = distribution(name).metadata
    if expression := metadata.get("License-Expression"):
        return expression
    classifiers = [line.rpartition(" :: ")[2] for line in metadata.get_all("Classifier") or () if "License ::" in line]
    told = [text for text in classifiers if text != "OSI Approved"] or [metadata.get("License") or "none told"]
    return " AND ".join(_SAID.get(text, text) for text in dict.fromkeys(told))


def objections(licences: dict[str, str]) -> Iterator[str]:
    """Yield what is wrong with these licences. Where an expression has a choice, one permitted way is enough."""
    for name, expression in licences.items():
        ways = re.split(r"\s+OR\s+", expression.replace("(", "").replace(")", ""))
        if not any(all(part.strip() in PERMITTED for part in re.split(r"\s+AND\s+", way)) for way in ways):
            yield f"{name} has the licence {expression!r}, which is not on the list of tests/licenses.py"


def declared() -> list[str]:
    """Return the project's own requirements, without those of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [str(line) for line in project["dependencies"]]


def main() -> int:
    """Print all licences and what is wrong with them; 1 when something is."""
    licences = shipped(*declared())
    for name, expression in licences.items():
        print(f"{name:28} {expression}")  # noqa: T201
    found = list(objections(licences))
    for line in found:
        print(f"error: {line}", file=sys.stderr)  # noqa: T201
    print(f"{len(licences)} distributions, {len(found)} objections")  # noqa: T201
    return 1 if found else 0


def _applies(requirement: Requirement, *extras: str) -> bool:
    marker = requirement.marker
    return marker is None or any(marker.evaluate({"extra": extra}) for extra in ("", *extras))


if __name__ == "__main__":
    sys.exit(main())
