"""E-mail to a real SMTP server: who is told of which end, what it says, and what nobody can put into it."""

from __future__ import annotations

import asyncio
import email
import email.policy
from datetime import timedelta

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult

from service.clock import HeldClock
from service.errors import ConfigError
from service.jobs.memory_store import MemoryJobStore
from service.jobs.model import Reason
from service.jobs.notices import Kind
from service.names import is_address
from service.notify.base import Ending
from service.notify.email import EmailSender
from service.notify.endpoints import MemoryEndpoints
from service.notify.outbox import Outbox
from service.notify.subscribers import Subscribers
from service.settings import Settings
from tests.authority import Authority
from tests.jobs import NOON, finish, make_job
from tests.waiting import find_free_port


class Mailbox:
    """What an SMTP server does with what it gets: keep it, or answer as it is told."""

    def __init__(self) -> None:
        self.got: list[email.message.EmailMessage] = []
        self.recipients: list[str] = []
        self.answer = "250 OK"
        self.refuses: str | None = None

    async def handle_RCPT(self, server, session, envelope, address, options):  # noqa: N802 - as the library calls it
        if self.refuses:
            return self.refuses
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server, session, envelope):  # noqa: N802
        self.recipients += envelope.rcpt_tos
        self.got.append(email.message_from_bytes(envelope.content, policy=email.policy.default))
        return self.answer


@pytest.fixture
def mailbox():
    return Mailbox()


def serving(mailbox, **options):
    return Controller(mailbox, hostname="127.0.0.1", port=find_free_port(), **options)


@pytest.fixture
def server(mailbox):
    controller = serving(mailbox)
    controller.start()
    yield controller
    controller.stop()


class Rig:
    def __init__(self, server, **options):
        self.clock = HeldClock(NOON)
        self.store = MemoryJobStore(clock=self.clock)
        port = server.server.sockets[0].getsockname()[1]
        self.options = {
            "host": "127.0.0.1",
            "port": port,
            "security": "none",
            "user": "",
            "password_file": None,
            "sender": "intake@example.org",
            "templates": None,
            "public_url": "https://files.example.org",
        } | options

    def end(self, reason=Reason.REJECTED, *, email_to=(), email_on="both", **members):
        told = Subscribers(endpoints=MemoryEndpoints(), email_to=email_to, email_on=email_on)
        ending = Ending(retention=None, subscribers=told, clock=self.clock)
        job = make_job(**members)
        self.store.create(job)
        self.store.update(job.id, lambda one: one.claimed(NOON))
        return self.store.update(job.id, lambda one: ending(finish(one, reason)))

    def send(self, moves=0):
        async def run():
            outbox = Outbox(
                store=self.store,
                senders={Kind.EMAIL: lambda: EmailSender(**self.options)},
                clock=self.clock,
                poll=1,
            )
            try:
                await outbox.round()
                for _ in range(moves):
                    self.clock.advance(timedelta(days=2))
                    await outbox.round()
            finally:
                await outbox.close()

        asyncio.run(run())

    def delivery(self, job):
        return self.store.get(job.id).notices[0].deliveries[0]


@pytest.fixture
def rig(server):
    return Rig(server)


def test_a_failed_job_is_told_by_e_mail(rig, mailbox):
    job = rig.end(notify_email="ops@example.net", name="scan.pdf")
    rig.send()
    (message,) = mailbox.got
    assert mailbox.recipients == ["ops@example.net"]
    assert message["Subject"] == "Failed: scan.pdf"
    assert message["From"] == "intake@example.org"
    assert message["To"] == "ops@example.net"
    assert message["Auto-Submitted"] == "auto-generated"
    assert f"https://files.example.org/v1/jobs/{job.id}" in message.get_content()
    assert rig.delivery(job).state == "delivered"


HOSTILE = [
    'a"\r\nBcc: evil@example.com\r\n\r\nbody".pdf',
    "a\nSubject: other",
    "a\x00\x1b[31m\x85\u2028Bcc: evil@example.com",
    "=?utf-8?q?=0ABcc:_evil@example.com?=",
    "x" * 1000 + "\r\nBcc: evil@example.com",
    "$id ${status} $(x) %s {0}",
    "\u202eFDP.exe \N{GRINNING FACE}",
]


@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_a_file_name_changes_no_header_and_begins_no_line(rig, mailbox, name):
    rig.end(notify_email="ops@example.net", name=name)
    rig.send()
    (message,) = mailbox.got
    names = ["Subject", "From", "To", "Date", "Message-ID", "Auto-Submitted", "X-Intake-Event"]
    ours = [one for one in message if one not in ("X-Peer", "X-MailFrom", "X-RcptTo")]
    assert ours[:7] == names
    assert set(ours[7:]) <= {"Content-Type", "Content-Transfer-Encoding", "MIME-Version"}
    assert mailbox.recipients == ["ops@example.net"]
    assert message["Subject"].startswith("Failed: ")
    assert not any(line.startswith(("Bcc", "Subject")) for line in message.get_content().splitlines())


@pytest.mark.parametrize(
    ("on", "told"),
    [("failure", [Reason.REJECTED]), ("success", [Reason.SUCCEEDED]), ("both", [Reason.SUCCEEDED, Reason.REJECTED])],
)
def test_each_is_told_of_the_ends_that_were_asked_for(rig, mailbox, on, told):
    for reason in (Reason.SUCCEEDED, Reason.REJECTED):
        rig.end(reason, notify_email="me@example.net", notify_on=on)
        rig.end(reason, email_to=("all@example.net",), email_on=on)
    rig.send()
    assert sorted(mailbox.recipients) == sorted(["me@example.net", "all@example.net"] * len(told))


def test_a_server_that_is_down_or_busy_is_tried_again_with_the_same_message_id(rig, mailbox):
    mailbox.answer = "451 later"
    job = rig.end(notify_email="ops@example.net")
    rig.send()
    assert rig.delivery(job).state == "waiting"
    assert rig.delivery(job).log[0].status == 451
    mailbox.answer = "250 OK"
    rig.send(moves=1)
    assert rig.delivery(job).state == "delivered"
    assert len({message["Message-ID"] for message in mailbox.got}) == 1


def test_a_recipient_that_is_refused_for_good_is_given_up(rig, mailbox):
    mailbox.refuses = "550 no such user"
    job = rig.end(notify_email="ops@example.net")
    rig.send()
    assert rig.delivery(job).state == "dead"
    assert rig.delivery(job).log[0].status == 550


def test_without_starttls_on_the_other_side_nothing_is_sent_in_the_clear(server, mailbox):
    rig = Rig(server, security="starttls")
    job = rig.end(notify_email="ops@example.net")
    rig.send()
    assert mailbox.got == []
    assert rig.delivery(job).state == "waiting"


@pytest.fixture
def certificate(tmp_path, monkeypatch):
    """A certificate of 127.0.0.1, which this process trusts, for a server."""
    authority = Authority(tmp_path / "authority")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.trusted))
    return authority.context("IP:127.0.0.1")


@pytest.mark.needs("openssl")
def test_it_logs_in_over_starttls_with_the_password_of_the_file(mailbox, tmp_path, certificate):
    (tmp_path / "password").write_text("word\n")

    def judge(server, session, envelope, mechanism, data):
        return AuthResult(success=(data.login, data.password) == (b"intake", b"word"), handled=False)

    controller = serving(mailbox, authenticator=judge, auth_required=True, tls_context=certificate)
    controller.start()
    try:
        good = Rig(controller, security="starttls", user="intake", password_file=tmp_path / "password")
        good.end(notify_email="ops@example.net")
        good.send()
        assert len(mailbox.got) == 1
        (tmp_path / "password").write_text("wrong")
        job = good.end(notify_email="ops@example.net")
        good.send()
        assert len(mailbox.got) == 1
        assert good.delivery(job).log[0].status == 535
    finally:
        controller.stop()


def test_texts_of_ones_own_take_the_place_of_the_built_in_ones(server, mailbox, tmp_path):
    (tmp_path / "job.failed.txt").write_text("Schade: $file\n\nNummer $id, $unknown\n", encoding="utf-8")
    rig = Rig(server, templates=tmp_path)
    job = rig.end(notify_email="ops@example.net", name="scan.pdf")
    rig.end(Reason.SUCCEEDED, notify_email="ops@example.net", name="good.pdf")
    rig.send()
    assert {message["Subject"] for message in mailbox.got} == {"Schade: scan.pdf", "Processed: good.pdf"}
    assert any(f"Nummer {job.id}, $unknown" in message.get_content() for message in mailbox.got)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a",
        "a@",
        "@a",
        "a@b\r\nBcc: c@d",
        "a b@c",
        '"a"@b',
        "a@b,c@d",
        "a@b>",
        ".a@b",
        "a..b@c",
        "é@b",
        "a@b.",
        "=?utf-8?q?=0A?=@b",
    ],
)
def test_what_is_no_plain_address_is_none(text):
    assert not is_address(text)


@pytest.mark.parametrize("text", ["a@b", "first.last+tag@mail.example.org"])
def test_plain_addresses_are_addresses(text):
    assert is_address(text)


@pytest.mark.parametrize(
    "wrong",
    [
        {"email_to": "ops@example.org"},
        {"notify_recipients": "*@example.org", "smtp_host": "localhost"},
        {"email_to": "nobody", "smtp_host": "localhost", "email_from": "a@b"},
        {"email_to": "ops@example.org", "smtp_host": "localhost", "email_from": "me"},
    ],
    ids=range(4),
)
def test_settings_that_cannot_send_stop_the_start(wrong):
    with pytest.raises(ConfigError):
        Settings.load(**wrong)
