"""One server for most tests of the API, and clients of it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from service.testing import Server
from tests.http import NO_TLS

if TYPE_CHECKING:
    from collections.abc import Iterator

HERE = Path(__file__).parent
#: Settings with which the pipelines of ``pipelines.toml`` are there.
CONTROLLED: dict[str, Any] = {
    "processors_dir": HERE / "processors",
    "pipelines": HERE / "pipelines.toml",
    "poll": "200ms",
}


@pytest.fixture(scope="session", autouse=True)
def _no_proxy() -> Iterator[None]:
    """Have curl and requests speak to the server itself, whatever the environment says."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
            patch.delenv(name, raising=False)
        yield


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Give a server that takes 1 MiB, tries each job once, and runs two at a time."""
    settings = CONTROLLED | {"max_upload": "1MiB", "max_attempts": 1, "slots": 2}
    with Server(tmp_path_factory.mktemp("server"), **settings) as running:
        yield running


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx.Client]:
    """Give a client of ``server``."""
    with client(server) as made:
        yield made


def client(server: Server) -> httpx.Client:
    """Return a client of a server, deaf to the environment's proxies."""
    return httpx.Client(base_url=server.url, timeout=30, trust_env=False, verify=NO_TLS)
