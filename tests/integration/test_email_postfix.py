"""E-mail of a real service through Postfix, with STARTTLS: what arrives in a mailbox, and what is refused at the door."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest

from tests.authority import Authority
from tests.e2e.rig import ended, serve
from tests.http import NO_TLS
from tests.postfix import Postfix, postfix
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from service.testing import Server

pytestmark = pytest.mark.needs("postfix", "openssl")

HOSTILE = 'a"\r\nBcc: ops@example.org\r\nSubject: other\r\n\r\n.\r\n=?utf-8?q?=0ABcc:_ops@example.org?= Übung".txt'


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def mail(authority: Authority) -> Iterator[Postfix]:
    certificate, key = authority.issue("IP:127.0.0.1")
    with postfix(["me", "ops"], certificate, key) as server:
        yield server


def sending(folder: Path, mail: Postfix, authority: Authority) -> Server:
    """Return a service, not started yet, that sends through Postfix and trusts this authority."""
    return serve(
        folder,
        env={"SSL_CERT_FILE": str(authority.trusted)},
        smtp_host="127.0.0.1",
        smtp_port=mail.port,
        smtp_security="starttls",
        email_from="intake@example.org",
        notify_recipients="*@example.org",
    )


def tried(http: httpx.Client, job_id: str) -> dict[str, object]:
    """Wait for the first try to tell somebody of a job, and return the delivery."""

    def look() -> dict[str, object] | None:
        (notice,) = http.get(f"/v1/jobs/{job_id}/deliveries").json()["items"]
        (delivery,) = notice["deliveries"]
        return delivery if delivery["log"] else None

    return wait_until(look, 60, "a try")


def fail(server: Server, http: httpx.Client, name: str, address: str) -> str:
    """Have a job fail of whose end somebody is to be told."""
    answer = http.post("/v1/jobs", files={"file": (name, b"reject")}, data={"notify_email": address})
    assert answer.status_code == 202, answer.text
    job_id = str(answer.json()["id"])
    ended(server, job_id)
    return job_id


def test_mail_of_a_failed_job_arrives_and_a_file_name_changes_no_header(
    tmp_path: Path, mail: Postfix, authority: Authority
) -> None:
    with (
        sending(tmp_path, mail, authority) as server,
        httpx.Client(base_url=server.url, trust_env=False, verify=NO_TLS, timeout=30) as http,
    ):
        job_id = fail(server, http, HOSTILE, "me@example.org")
        assert tried(http, job_id)["state"] == "delivered", mail.log
        (message,) = wait_until(lambda: mail.mail("me"), 60, "the message in its mailbox")
        assert message.get_all("Subject") == [message["Subject"]]
        assert message["Subject"].startswith("Failed: a")
        assert "Übung" in message["Subject"]
        assert (message["From"], message["To"], message["Bcc"]) == ("intake@example.org", "me@example.org", None)
        assert message["Message-ID"].endswith("@example.org>")
        assert "ESMTPS" in message["Received"], "it came over TLS"
        assert job_id in message.get_content()
        assert not mail.mail("ops")

        refused = tried(http, fail(server, http, "a.txt", "nobody@example.org"))
        assert refused["state"] == "dead", "an address that the server refuses for good is given up at once"
        (attempt,) = refused["log"] if isinstance(refused["log"], list) else []
        assert attempt["status"] == 550
        assert "User unknown" in attempt["detail"]


def test_a_server_that_nobody_vouches_for_gets_nothing(tmp_path: Path, mail: Postfix) -> None:
    stranger = Authority(tmp_path / "stranger", name="stranger")
    before = len(mail.mail("ops"))
    with (
        sending(tmp_path / "server", mail, stranger) as server,
        httpx.Client(base_url=server.url, trust_env=False, verify=NO_TLS, timeout=30) as http,
    ):
        delivery = tried(http, fail(server, http, "a.txt", "ops@example.org"))
        assert delivery["state"] == "waiting"
        assert "CERTIFICATE_VERIFY_FAILED" in str(delivery["log"])
    assert len(mail.mail("ops")) == before
