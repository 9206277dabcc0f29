"""The real curl, and what it got."""

from __future__ import annotations

import json
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import httpx

from tests.needs import need


@dataclass(frozen=True)
class Curled:
    """One run of curl. ``answer`` is what it received, ``uploaded`` the bytes of the body it sent."""

    answer: httpx.Response
    uploaded: int
    exit_code: int


def curl(*arguments: str | Path, stdin: bytes = b"", cwd: Path | None = None) -> Curled:
    """Run curl with these arguments."""
    with tempfile.TemporaryDirectory() as folder:
        body = Path(folder) / "body"
        command = [need("curl"), "-sS", "-q", "--max-time", "30", "-o", str(body)]
        command += ["-w", "%{json}\n%{header_json}", *map(str, arguments)]
        run = subprocess.run(command, input=stdin, capture_output=True, check=False, cwd=cwd)
        content = body.read_bytes() if body.exists() else b""
    facts, headers = run.stdout.split(b"\n", 1)
    told = json.loads(facts)
    fields = [(name, value) for name, values in json.loads(headers or b"{}").items() for value in values]
    answer = httpx.Response(told["http_code"] or 599, headers=fields, content=content)
    return Curled(answer, told["size_upload"], run.returncode)
