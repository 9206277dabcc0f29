"""A real Caddy in front of the service, configured as its page says and as compose.yaml does."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import httpx
import pytest

from service.testing import Server
from tests.http import NO_TLS, answers
from tests.integration.api import accepted, finished
from tests.integration.curl import curl
from tests.integration.traces import nothing_left
from tests.needs import need
from tests.waiting import find_free_port, wait_until

pytestmark = pytest.mark.needs("caddy", "curl")

ROOT: Final = Path(__file__).parents[2]
PAGE: Final = (ROOT / "docs" / "how-to" / "behind-caddy.md").read_text()
LIMIT: Final = 2**20
CUT: Final = 55  #: curl's exit code when it cannot send
NAMES: Final = ("plain", "under a path", "several", "compose")


def examples() -> dict[str, str]:
    """Return the examples of the page in their order, and the file of compose.yaml."""
    blocks = re.findall(r"(?ms)^```text\n(.*?)^```$", PAGE)
    blocks.append((ROOT / "deploy" / "compose" / "Caddyfile").read_text())
    return dict(zip(NAMES, blocks, strict=True))


@pytest.mark.parametrize("name", NAMES)
def test_caddy_finds_nothing_to_say_against_an_example(name: str, tmp_path: Path) -> None:
    (tmp_path / "Caddyfile").write_text(examples()[name])
    command = [need("caddy"), "validate", "--config", str(tmp_path / "Caddyfile")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={"HOME": str(tmp_path)})
    assert done.returncode == 0, done.stderr
    lines = [json.loads(line) for line in done.stderr.splitlines() if line.startswith("{")]
    assert not [line for line in lines if line["level"] == "error"]


@pytest.fixture(scope="module", params=["plain", "under a path"])
def front(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str]]:
    """Give the service, and its address behind Caddy."""
    folder, port = tmp_path_factory.mktemp("caddy"), find_free_port()
    prefix = "/intake" if request.param == "under a path" else ""
    with Server(folder / "service", max_upload=LIMIT, **({"root_path": prefix} if prefix else {})) as server:
        text = examples()[request.param].replace("files.example.org {", f"http://127.0.0.1:{port} {{\n\tlog", 1)
        text = text.replace("127.0.0.1:8000", urlsplit(server.url).netloc)
        (folder / "Caddyfile").write_text("{\n\tadmin off\n}\n" + text)
        with (folder / "caddy.log").open("wb") as log:
            caddy = subprocess.Popen(
                [need("caddy"), "run", "--config", str(folder / "Caddyfile")], stderr=log, env={"HOME": str(folder)}
            )
        url = f"http://127.0.0.1:{port}{prefix}"
        try:
            wait_until(lambda: answers(url), what="Caddy to answer")
            yield server, url
        finally:
            caddy.terminate()
            caddy.wait()
            server.kill()  # it would wait for the senders it has just refused


def logged(server: Server) -> list[int]:
    """Return the status of each request that Caddy is through with."""
    lines = map(json.loads, (server.folder.parent / "caddy.log").read_text().splitlines())
    return [line["status"] for line in lines if line.get("logger", "").startswith("http.log.access")]


def test_an_upload_passes_caddy(front: tuple[Server, str], tmp_path: Path) -> None:
    (tmp_path / "naïve.txt").write_bytes(b"one\n")
    _, url = front
    sent = [
        curl("-F", "file=@naïve.txt", f"{url}/v1/jobs", cwd=tmp_path),
        curl("-T", "-", f"{url}/v1/files/na%C3%AFve.txt", stdin=b"one\n"),
    ]
    jobs = [accepted(one.answer) for one in sent]
    assert [job["file"]["name"] for job in jobs] == ["naïve.txt"] * 2
    with httpx.Client(base_url=url.removesuffix("/intake"), trust_env=False, verify=NO_TLS) as http:
        for job in jobs:
            finished(http, job)
        assert http.get(jobs[0]["links"]["source"], headers={"Range": "bytes=1-"}).content == b"ne\n"
        with http.stream("GET", f"{jobs[0]['links']['self']}/events") as events:
            assert "event: " in next(events.iter_text())


@pytest.mark.parametrize(
    ("arguments", "cut"),
    [
        (["-F", "file=@{}"], 0),
        (["-F", "file=@{}", "-H", "Expect:"], 0),
        # refused in its middle: Caddy has all of the answer, and closes its own side on some who still send
        (["-T", "{}", "-X", "POST", "-H", "Transfer-Encoding: chunked"], 4),
    ],
    ids=["form", "form at once", "chunked"],
)
def test_the_413_of_the_service_passes_caddy_ten_times_of_ten_where_a_length_is_declared(
    front: tuple[Server, str], tmp_path: Path, arguments: list[str], cut: int
) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(24 * 2**20))
    server, url = front
    before = len(logged(server))
    with nothing_left(server):
        sent = [curl(*[word.replace("{}", str(large)) for word in arguments], f"{url}/v1/jobs") for _ in range(10)]
    wait_until(lambda: len(logged(server)) == before + 10, what="Caddy to write of ten requests")
    assert logged(server)[before:] == [413] * 10  # it had the answer of each
    answered = [one.answer for one in sent if one.exit_code != CUT]
    assert len(answered) >= 10 - cut
    for answer in answered:
        found = answer.json()
        assert (answer.status_code, found["code"], found["max_size"]) == (413, "file-too-large", LIMIT)


def test_a_refused_upload_sends_no_byte_of_its_file_through_caddy(front: tuple[Server, str], tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(bytes(24 * 2**20))
    command = [need("curl"), "-s", "-o", str(tmp_path / "answer"), "-w", "%{http_code} %{size_upload}"]
    done = subprocess.run(
        [*command, "-F", f"file=@{large}", f"{front[1]}/v1/jobs"], capture_output=True, text=True, timeout=60
    )
    assert done.stdout == "413 0"
