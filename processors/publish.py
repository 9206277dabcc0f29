"""What a step leaves behind: facts that are sure to be JSON, and artifacts that appear together or not at all."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from processors.context import Limits, Output
from processors.contract import MAX_FACTS_BYTES, Processor
from processors.failure import StepError

if TYPE_CHECKING:
    from pathlib import Path

    from pydantic import JsonValue

#: An escaped NUL in JSON text, as opposed to an escaped backslash before "u0000". PostgreSQL refuses it.
_NUL = re.compile(r"(?<!\\)(?:\\\\)*\\u0000")

MAX_FACTS_DEPTH = 64
"""Deepest nesting of facts; readers of JSON give up somewhere beyond it."""


@dataclass(frozen=True)
class Artifact:
    """A published artifact: an immutable file. `size` is in bytes, `sha256` lower case hex."""

    name: str
    path: Path
    media_type: str
    size: int
    sha256: str

    def document(self) -> dict[str, JsonValue]:
        """Return what a report says of it, which is all but the path."""
        return {"name": self.name, "size": self.size, "media_type": self.media_type, "sha256": self.sha256}


def checked_facts(processor: Processor, facts: Any) -> dict[str, JsonValue]:
    """Return a copy of `facts` as plain JSON values. Raises StepError for what is not JSON, too long or incomplete."""
    if not isinstance(facts, Mapping):
        raise StepError("facts-invalid", f"{processor.name} returned a {type(facts).__name__}; facts are a mapping.")
    try:
        text = json.dumps(dict(facts), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        encoded = text.encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise StepError("facts-invalid", f"The facts of {processor.name} are not JSON: {error}") from error
    if len(encoded) > MAX_FACTS_BYTES:
        raise StepError(
            "facts-too-large",
            f"The facts of {processor.name} are {len(encoded)} bytes long; at most {MAX_FACTS_BYTES} are kept.",
            "Write long results to an artifact.",
        )
    if _NUL.search(text):
        raise StepError(
            "facts-invalid", f"The facts of {processor.name} hold a NUL character, which no record can store."
        )
    checked: dict[str, JsonValue] = json.loads(text)
    if _depth(checked) > MAX_FACTS_DEPTH:
        raise StepError("facts-invalid", f"The facts of {processor.name} are nested more than {MAX_FACTS_DEPTH} deep.")
    if processor.identifies and not (isinstance(checked.get("media_type"), str) and checked["media_type"]):
        raise StepError(
            "facts-invalid", f"{processor.name} identifies files, so its facts need a 'media_type' of text."
        )
    return checked


def _depth(value: JsonValue) -> int:
    """Return how deep JSON is nested; 0 for a value that holds no other."""
    level: list[JsonValue] = [value]
    depth = -1
    while level:
        depth += 1
        level = [
            item
            for one in level
            if isinstance(one, dict | list)
            for item in (one.values() if isinstance(one, dict) else one)
        ]
    return depth


def publish(
    outputs: Mapping[str, Output], *, partial: Path, folder: Path, already: int, limits: Limits
) -> tuple[Artifact, ...]:
    """Make the files written to `partial` appear as `folder` in one rename, and return them by name.

    Files the step never asked for are left out; without artifacts there is no folder. `already` is how many bytes the
    job's other artifacts take of `limits.max_output`. Raises StepError, publishing nothing, when they are too large or
    when one is missing. Nothing is synced: who records the result syncs `folder` first.
    """
    artifacts: list[Artifact] = []
    total = already
    for name, output in sorted(outputs.items()):
        size = _size(name, output.path)
        total += size
        if total > limits.max_output:
            raise StepError(
                "output-too-large",
                f"The artifacts take more than {limits.max_output} bytes together.",
                "Raise INTAKE_MAX_OUTPUT.",
            )
        with output.path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        path = folder / name
        artifacts.append(Artifact(name=name, path=path, media_type=output.media_type, size=size, sha256=digest))
    if artifacts:
        for left in partial.iterdir():
            if left.name not in outputs:
                discard(left)
        partial.rename(folder)
    return tuple(artifacts)


def discard(path: Path) -> None:
    """Remove a file or a folder with all it holds, never following a link out of it. Fine if it is not there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _size(name: str, path: Path) -> int:
    try:
        status = path.lstat()
    except FileNotFoundError:
        raise StepError("artifact-invalid", f"The step asked for the artifact {name!r} but wrote no file.") from None
    if not stat.S_ISREG(status.st_mode):
        raise StepError("artifact-invalid", f"The artifact {name!r} is not a regular file.")
    return status.st_size
