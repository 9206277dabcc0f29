"""Webhooks over TLS: they go to whoever can show a good certificate of the URL's host, and to nobody else."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests.authority import Authority
from tests.e2e.rig import ended, serve, submit
from tests.http import NO_TLS
from tests.receiver import Receiver
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from service.testing import Server

pytestmark = pytest.mark.needs("openssl")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, authority: Authority) -> Iterator[Server]:
    """Give a service that trusts the authority, and may call this machine."""
    env = {"SSL_CERT_FILE": str(authority.trusted)}
    with serve(tmp_path_factory.mktemp("server"), env=env, webhook_allow="localhost,127.0.0.1/32") as running:
        yield running


def told(server: Server, url: str) -> tuple[str, str, str]:
    """Have a job end; return the secret of an endpoint at ``url``, and the state and detail of the first try to tell it."""
    with httpx.Client(base_url=server.url, trust_env=False, verify=NO_TLS, timeout=30) as http:
        made = http.post("/v1/webhook-endpoints", json={"url": url}).raise_for_status().json()
        job_id = submit(server, "say hello")
        ended(server, job_id)

        def tried() -> dict[str, object] | None:
            (notice,) = http.get(f"/v1/jobs/{job_id}/deliveries").json()["items"]
            (delivery,) = notice["deliveries"]
            return delivery if delivery["log"] else None

        delivery = wait_until(tried, 30, "the first try")
        http.delete(f"/v1/webhook-endpoints/{made['id']}").raise_for_status()
    log = delivery["log"]
    assert isinstance(log, list)
    return str(made["secret"]), str(delivery["state"]), str(log[0]["detail"])


@pytest.mark.parametrize(("host", "asked"), [("localhost", ["localhost"]), ("127.0.0.1", [None])])
def test_a_receiver_with_a_good_certificate_is_told(
    server: Server, authority: Authority, host: str, asked: list[str | None]
) -> None:
    with Receiver(authority.context("DNS:localhost", "IP:127.0.0.1")) as receiver:
        secret, state, _ = told(server, f"https://{host}:{receiver.port}/hook")
        assert state == "delivered"
        (got,) = receiver.got
        assert got.verified(secret)["type"] == "job.succeeded"
        assert got.headers["host"] == f"{host}:{receiver.port}"
        assert receiver.asked == asked, "the name of the URL, although the connection is to an address"


@pytest.mark.parametrize(
    ("names", "days", "says"),
    [
        (["DNS:elsewhere.example", "IP:127.0.0.2"], 2, "mismatch"),
        (["DNS:localhost"], -1, "expired"),
    ],
    ids=["another's", "expired"],
)
def test_a_receiver_whose_certificate_is_not_good_is_told_nothing(
    server: Server, authority: Authority, names: list[str], days: int, says: str
) -> None:
    with Receiver(authority.context(*names, days=days)) as receiver:
        _, state, detail = told(server, f"https://localhost:{receiver.port}/hook")
        assert state == "waiting"
        assert "CERTIFICATE_VERIFY_FAILED" in detail
        assert says in detail
        assert receiver.asked
        assert not receiver.got


def test_a_receiver_that_nobody_vouches_for_is_told_nothing(
    server: Server, tmp_path_factory: pytest.TempPathFactory
) -> None:
    stranger = Authority(tmp_path_factory.mktemp("stranger"), name="stranger")
    with Receiver(stranger.context("DNS:localhost")) as receiver:
        _, state, detail = told(server, f"https://localhost:{receiver.port}/hook")
        assert state == "waiting"
        assert "CERTIFICATE_VERIFY_FAILED" in detail
        assert not receiver.got


def test_a_receiver_without_tls_is_not_spoken_to_in_the_clear(server: Server) -> None:
    with Receiver() as receiver:
        _, state, _ = told(server, f"https://localhost:{receiver.port}/hook")
        assert state == "waiting"
        assert not receiver.got
