"""E-mail of a real service, to a real SMTP server."""

from __future__ import annotations

import email
import email.policy
import subprocess
import sys

import httpx
import pytest
from aiosmtpd.controller import Controller

from tests.e2e.rig import ended, serve
from tests.http import NO_TLS
from tests.integration.api import problem
from tests.waiting import find_free_port, wait_until


class Mailbox:
    def __init__(self) -> None:
        self.got: list[email.message.EmailMessage] = []

    async def handle_DATA(self, server, session, envelope):  # noqa: N802 - as the library calls it
        self.got.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return "250 OK"


@pytest.fixture
def mailbox():
    mailbox = Mailbox()
    controller = Controller(mailbox, hostname="127.0.0.1", port=find_free_port())
    controller.start()
    mailbox.port = controller.port
    yield mailbox
    controller.stop()


def by_command(server, folder, *options):
    """Upload a file that is processed with success."""
    (folder / "a.txt").write_text("say hello")
    command = [sys.executable, "-m", "service.cli", "upload", str(folder / "a.txt"), "--wait", *options]
    environment = server.environment() | {"INTAKE_SERVER": server.url}
    subprocess.run(command, env=environment, capture_output=True, check=True, timeout=60)


def test_an_e_mail_arrives_for_a_failed_job_whatever_its_file_is_called(mailbox, tmp_path):
    settings = {
        "smtp_host": "127.0.0.1",
        "smtp_port": mailbox.port,
        "smtp_security": "none",
        "email_from": "intake@example.org",
        "notify_recipients": "*@example.org",
        "email_to": "ops@example.net",
    }
    with serve(tmp_path, **settings) as server:
        form = {"notify_email": "me@example.org", "notify_on": "failure"}
        name = 'a"\r\nBcc: evil@example.com\r\n\r\n=?utf-8?q?=0ABcc:_evil@example.com?=".txt'
        with httpx.Client(base_url=server.url, trust_env=False, verify=NO_TLS, timeout=30) as http:
            answer = http.post("/v1/jobs", files={"file": (name, b"reject")}, data=form)
            assert answer.status_code == 202, answer.text
            ended(server, answer.json()["id"])
            wait_until(lambda: len(mailbox.got) == 2, 30, "two messages")
            wait_until(lambda: not list((server.data_dir / "outbox").iterdir()), 30, "an empty outbox")
            assert {message["To"] for message in mailbox.got} == {"me@example.org", "ops@example.net"}
            assert all(
                message["Subject"].strip().startswith("Failed: ") and not message["Bcc"] for message in mailbox.got
            )
            (notice,) = http.get(f"/v1/jobs/{answer.json()['id']}/deliveries").json()["items"]
            assert {(one["to"], one["address"]) for one in notice["deliveries"]} == {
                ("email", "me@example.org"),
                ("em_1", None),
            }
            by_command(server, tmp_path, "--notify-email", "you@example.org")
            with server.client() as ours:
                ours.submit(b"say hello", name="b.txt", notify_email="they@example.org", notify_on="success")
                ours.submit(b"say hello", name="c.txt", notify_email="never@example.org", notify_on="failure").wait(
                    timeout=60
                )
            wait_until(
                lambda: {message["To"] for message in mailbox.got[2:]} == {"you@example.org", "they@example.org"},
                30,
                "those who were named by command and client",
            )
            for wrong in ({"notify_email": "me@example.com"}, {"notify_email": "me@example.org\r\nBcc: x@example.org"}):
                problem(http.post("/v1/jobs", files={"file": b"x"}, data=wrong), 422, "email-refused")
            problem(http.post("/v1/jobs", files={"file": b"x"}, data={"notify_on": "never"}), 422, "validation-error")
