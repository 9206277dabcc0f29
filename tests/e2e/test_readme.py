"""The commands of the README and of the documents run: each page is one shell script, in the order a reader meets its blocks.

What a block is, its first line says:

- ``sh``: commands. A block that ends with ``make run`` or ``intake serve`` starts a service and goes on in the background.
- ``python`` and ``toml`` whose first line is a comment with a path: that file is written. Other ``python`` is run as it is.
- ``console`` and anything else is not run.

Three things are changed: the address, to a free port; ``make run``, which is told where the checkout and its environment are
and not to install anything; and the folder, an empty one with a photo and a text.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest
from PIL import Image

from service.client import Client
from service.testing import Server
from tests.http import answers
from tests.needs import need
from tests.waiting import wait_until

ROOT: Final = Path(__file__).parents[2]
PAGES: Final = sorted(
    path.relative_to(ROOT).as_posix()
    for path in [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    if re.search(r"(?m)^```(sh|python)$", path.read_text())
)
_BLOCK: Final = re.compile(r"(?ms)^```(\w+)\n(.*?)^```$")
_FILE: Final = re.compile(r"# (\S+/?\S*\.\w+)\n")
_SERVICE: Final = ("make run", "intake serve")


def _script(page: str, port: int) -> str:
    """Return the page as a script for bash, which ends with the first command that fails."""
    lines = ["set -euo pipefail", "trap 'kill $(jobs -p) 2>/dev/null && wait' EXIT"]
    for kind, text in _BLOCK.findall((ROOT / page).read_text()):
        lines.extend(_commands(kind, re.sub(r"(localhost|127\.0\.0\.1):8000", rf"\1:{port}", text), port))
    return "\n".join(lines) + "\n"


def _commands(kind: str, text: str, port: int) -> Iterator[str]:
    named = _FILE.match(text) if kind in ("python", "toml") else None
    if named:
        yield f"mkdir -p {shlex.quote(str(Path(named[1]).parent))}"
        yield f"cat > {shlex.quote(named[1])} <<'END OF FILE'\n{text}END OF FILE"
    elif kind == "python":
        yield f"python - <<'END OF FILE'\n{text}END OF FILE"
    elif kind == "sh" and text.rstrip().endswith(_SERVICE):
        *before, last = text.rstrip().splitlines()
        yield from before
        yield f"{_service(last)} 2>> service.log &"
        yield f"until curl -sf http://127.0.0.1:{port}/readyz; do kill -0 $! || {{ cat service.log; exit 1; }}; sleep 0.1; done"
    elif kind == "sh":
        yield text


def _service(command: str) -> str:
    made = f"{sys.prefix}/.run"
    return command.replace("make run", f"make -C {shlex.quote(str(ROOT))} -o {made} run VENV={shlex.quote(sys.prefix)}")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Give a folder with what a reader is told to have."""
    photo = Image.radial_gradient("L").resize((1600, 1200)).convert("RGB")
    photo.save(tmp_path / "photo.jpg")
    (tmp_path / "scan.pdf").write_bytes(b"%PDF-1.4\n1 0 obj<<>>endobj\ntrailer<<>>\nstartxref\n9\n%%EOF\n")
    (tmp_path / "notes.txt").write_text("one two\nthree\n")
    return tmp_path


@pytest.fixture
def environment(folder: Path, free_port: int) -> dict[str, str]:
    """Give the environment of the scripts: the command on the path, and a service of their own."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(("INTAKE_", "MAKE", "MFLAGS", "ARGS"))
    }
    return inherited | {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "INTAKE_PORT": str(free_port),
        "INTAKE_DATA_DIR": str(folder / "uploads"),
        "INTAKE_SERVER": f"http://127.0.0.1:{free_port}",
        "INTAKE_DRAIN": "2s",
        "NO_COLOR": "1",
    }


@pytest.mark.needs("curl")
@pytest.mark.timeout(300)
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_the_page_work(page: str, folder: Path, environment: dict[str, str], free_port: int) -> None:
    script = _script(page, free_port)
    starts = re.search(r"readyz", script) is not None
    if not starts:  # its reader has a service already
        script = _script_of_a_service(free_port) + script
    done = subprocess.run(
        ["bash", "-c", script], cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{_log(folder)}"


def _script_of_a_service(port: int) -> str:
    return "\n".join(["set -euo pipefail", *_commands("sh", "intake serve\n", port)]) + "\n"


def _log(folder: Path) -> str:
    log = folder / "service.log"
    return log.read_text()[-4000:] if log.exists() else ""


@pytest.fixture(params=["", "/intake"], ids=["at the root", "under a path"])
def nginx(request: pytest.FixtureRequest, tmp_path: Path, free_port: int) -> Iterator[str]:
    """Give the address of a real nginx configured as the page says, and the service behind it."""
    at_the_root, under_a_path = (
        text for kind, text in _BLOCK.findall((ROOT / "docs/how-to/behind-nginx.md").read_text()) if kind == "nginx"
    )
    prefix = request.param
    with Server(tmp_path / "service", root_path=prefix, max_upload="64KiB") as server:
        config = at_the_root.replace("listen 80;", f"listen 127.0.0.1:{free_port};")
        if prefix:
            config = re.sub(r"(?s)    location / \{.*?\}\n", under_a_path, config)
        upstream = server.url.removesuffix(prefix)
        paths = "".join(f"{name}_temp_path {name};" for name in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        (tmp_path / "nginx.conf").write_text(
            f"daemon off; pid pid; error_log error.log; events {{}}\nhttp {{ access_log off; {paths}\n"
            + config.replace("http://127.0.0.1:8000", upstream)
            + "}\n"
        )
        process = subprocess.Popen(
            [need("nginx"), "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf"), "-e", "early.log"]
        )
        try:
            url = f"http://127.0.0.1:{free_port}{prefix}"
            wait_until(lambda: answers(url), what="nginx")
            yield url
        finally:
            process.terminate()
            process.wait()


@pytest.mark.needs("nginx", "curl")
def test_uploads_pass_through_nginx_as_the_page_configures_it(nginx: str, folder: Path) -> None:
    with Client(nginx) as client:
        job = client.submit(folder / "notes.txt").wait(timeout=30)
    assert job.status == "succeeded"
    assert nginx.endswith(job.document["links"]["self"].removesuffix(f"/v1/jobs/{job.id}"))


@pytest.mark.needs("nginx", "curl")
@pytest.mark.parametrize("how", [["-T", "large", "-H", "Transfer-Encoding: chunked"], ["-T", "large"]])
def test_a_refusal_comes_through_nginx_as_a_problem(nginx: str, folder: Path, how: list[str]) -> None:
    (folder / "large").write_bytes(bytes(4 * 2**20))
    command = ["curl", "-sS", "-i", *how, f"{nginx}/v1/files/large"]
    answer = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout
    assert " 413 " in answer
    assert '"code":"file-too-large"' in answer
