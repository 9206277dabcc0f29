"""A real nginx in front of the service: what the service answers is what the client gets, also when it refuses half-way."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import httpx
import pytest

from service.testing import Server
from tests.http import NO_TLS, answers
from tests.integration.api import accepted, digest, finished, problem
from tests.integration.curl import curl
from tests.integration.traces import nothing_left
from tests.needs import need
from tests.waiting import find_free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.needs("nginx", "curl")

LIMIT = 2**20
#: What a location says besides where it leads. The first is nginx's own way: HTTP/1.0, and the whole body first.
WAYS = {
    "buffered": "",
    "passed on": "proxy_request_buffering off; proxy_http_version 1.1;",
}
CONFIGURATION = """
{user}
daemon off;
pid {folder}/pid;
error_log {folder}/error.log;
events {{ }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  client_max_body_size 0;
  {servers}
}}
"""
SERVER = (
    "server {{ listen 127.0.0.1:{port}; location / {{ proxy_pass {url}; proxy_set_header Host $http_host; {way} }} }}\n"
)


class Front(NamedTuple):
    """The service and its addresses behind nginx, by way."""

    server: Server
    urls: dict[str, str]


@pytest.fixture(scope="module")
def front(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    folder = tmp_path_factory.mktemp("nginx")
    with Server(folder / "service", max_upload=LIMIT) as server:
        ports = {way: find_free_port() for way in WAYS}
        servers = "".join(SERVER.format(port=ports[way], url=server.url, way=WAYS[way]) for way in WAYS)
        path = folder / "nginx.conf"
        user = "user root root;" if os.geteuid() == 0 else ""  # who else could not write to pytest's folder
        path.write_text(CONFIGURATION.format(folder=folder, servers=servers, user=user))
        nginx = subprocess.Popen([need("nginx"), "-p", str(folder), "-c", str(path), "-e", str(folder / "early.log")])
        try:
            urls = {way: f"http://127.0.0.1:{port}" for way, port in ports.items()}
            wait_until(lambda: all(answers(url) for url in urls.values()), what="nginx to answer")
            yield Front(server, urls)
        finally:
            nginx.terminate()
            nginx.wait()
            server.kill()  # it would wait for the senders it has just refused


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a file larger than what the service reads and drops after a refusal."""
    path = tmp_path_factory.mktemp("large") / "large.bin"
    path.write_bytes(bytes(24 * 2**20))
    return path


@pytest.mark.parametrize("way", WAYS)
def test_an_upload_passes_nginx(front: Front, tmp_path: Path, way: str):
    (tmp_path / "naïve.txt").write_bytes(b"one\n")
    url = front.urls[way]
    sent = [
        curl("-F", "file=@naïve.txt", f"{url}/v1/jobs", cwd=tmp_path),
        curl("-T", "naïve.txt", f"{url}/v1/files/", cwd=tmp_path),
        curl("-T", "-", f"{url}/v1/files/na%C3%AFve.txt", stdin=b"one\n"),
    ]
    jobs = [accepted(one.answer) for one in sent]
    assert [job["file"]["name"] for job in jobs] == ["naïve.txt"] * 3
    with httpx.Client(base_url=url, trust_env=False, verify=NO_TLS) as http:
        for job in jobs:
            finished(http, job)
        tag = http.get(jobs[0]["links"]["self"]).headers["ETag"]
        assert http.get(jobs[0]["links"]["self"], headers={"If-None-Match": tag}).status_code == 304
        source = http.get(jobs[0]["links"]["source"], headers={"Range": "bytes=1-"})
        assert (source.status_code, source.content) == (206, b"ne\n")
        assert source.headers["Repr-Digest"] == digest(b"one\n")


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "arguments",
    [
        ["-F", "file=@{}"],
        ["-F", "file=@{}", "-H", "Expect:"],
        ["-T", "{}", "-X", "POST", "-H", "Transfer-Encoding: chunked"],
    ],
    ids=["form", "form at once", "chunked"],
)
def test_the_413_of_the_service_passes_nginx_ten_times_of_ten(
    front: Front, large: Path, way: str, arguments: list[str]
):
    words = [word.replace("{}", str(large)) for word in arguments]
    with nothing_left(front.server):
        for _ in range(10):
            found = problem(curl(*words, f"{front.urls[way]}/v1/jobs").answer, 413, "file-too-large")
            assert found["max_size"] == LIMIT


@pytest.mark.parametrize("way", WAYS)
def test_a_refusal_after_the_body_has_begun_passes_nginx(front: Front, large: Path, way: str):
    with nothing_left(front.server):
        for _ in range(3):
            sent = curl("-F", "nonsense=1", "-F", f"file=@{large};filename=a", f"{front.urls[way]}/v1/jobs?x=1")
            problem(sent.answer, 413, "file-too-large")
            sent = curl("-F", "nonsense=1", "-F", "file=<-", f"{front.urls[way]}/v1/jobs", stdin=bytes(900_000))
            problem(sent.answer, 422, "validation-error")
