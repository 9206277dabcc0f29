"""Sending one e-mail: SMTP by aiosmtplib, text from templates.

A template is a text: its first line is the subject, the rest after an empty line the body. Names in it begin with ``$``: ``$id``,
``$event``, ``$status``, ``$file``, ``$size``, ``$pipeline``, ``$attempt``, ``$finished_at``, ``$error``, ``$hint`` and ``$url``.
What they stand for is made printable and put on one line, so nothing that a client chose can add a header or a line.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import suppress
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime
from pathlib import Path
from string import Template
from typing import Any, Final, Literal

import aiosmtplib

from service.notify.base import Letter, Outcome

_LONGEST: Final = 200  #: characters of a value
_TIMEOUT: Final = 30.0  #: seconds for one message, connection included
_REFUSED_FOR_GOOD: Final = range(500, 600)
TEMPLATES: Final[Mapping[str, str]] = {
    "job.succeeded": """Processed: $file

The file $file has been processed.

Job       $id
Pipeline  $pipeline
Finished  $finished_at
See       $url
""",
    "job.failed": """Failed: $file

The file $file could not be processed.

$error
$hint

Job       $id
Pipeline  $pipeline
Attempt   $attempt
Finished  $finished_at
See       $url
""",
    "job.canceled": """Canceled: $file

The processing of the file $file was canceled.

Job       $id
Finished  $finished_at
See       $url
""",
}


class EmailSender:
    """Sends e-mail by one SMTP server. The password is read anew for each message, so it can be changed."""

    def __init__(
        self,
        *,
        host: str,
        port: int,
        security: Literal["starttls", "tls", "none"],
        user: str,
        password_file: Path | None,
        sender: str,
        templates: Path | None,
        public_url: str,
    ) -> None:
        self._server: dict[str, Any] = {
            "hostname": host,
            "port": port,
            "use_tls": security == "tls",
            "start_tls": security == "starttls",
            "timeout": _TIMEOUT,
        }
        self._user = user
        self._password_file = password_file
        self._sender = sender
        self._templates = templates
        self._public_url = public_url

    async def send(self, letter: Letter) -> Outcome:
        """Try once. Only a recipient that the server refuses for good is given up at once."""
        try:
            message, options = await asyncio.to_thread(self._prepare, letter)
            async with asyncio.timeout(_TIMEOUT + 5):
                await aiosmtplib.send(message, **self._server, **options)
        except aiosmtplib.SMTPRecipientsRefused as error:
            code, text = error.recipients[0].code, error.recipients[0].message
            return Outcome(ok=False, detail=_line(text), status=code, final=code in _REFUSED_FOR_GOOD)
        except aiosmtplib.SMTPResponseException as error:
            return Outcome(ok=False, detail=_line(error.message), status=error.code)
        except (aiosmtplib.SMTPException, OSError, TimeoutError, ValueError) as error:
            return Outcome(ok=False, detail=_line(f"{type(error).__name__}: {error}"))
        return Outcome(ok=True, detail="taken by the SMTP server", status=250)

    async def close(self) -> None:
        """Do nothing: each message has a connection of its own."""

    def _prepare(self, letter: Letter) -> tuple[EmailMessage, dict[str, Any]]:
        text = TEMPLATES[letter.notice.event]
        if self._templates is not None:
            with suppress(FileNotFoundError):
                text = (self._templates / f"{letter.notice.event}.txt").read_text(encoding="utf-8")
        message = compose(letter, text, sender=self._sender, public_url=self._public_url)
        options: dict[str, Any] = {}
        if self._user:
            password = self._password_file.read_text(encoding="utf-8").strip() if self._password_file else ""
            options = {"username": self._user, "password": password}
        return message, options


def compose(letter: Letter, template: str, *, sender: str, public_url: str) -> EmailMessage:
    """Return the message of a letter. Its Message-ID is the same at every try."""
    subject, _, text = Template(template).safe_substitute(_values(letter, public_url)).partition("\n")
    message = EmailMessage()
    message["Subject"] = _line(subject)
    message["From"] = _address(sender)
    message["To"] = _address(letter.delivery.address)
    message["Date"] = format_datetime(letter.notice.at)
    message["Message-ID"] = f"<{letter.notice.id}.{letter.delivery.to}@{sender.rpartition('@')[2]}>"
    message["Auto-Submitted"] = "auto-generated"
    message["X-Intake-Event"] = letter.notice.event
    message.set_content(text.lstrip("\n"))
    return message


def _values(letter: Letter, public_url: str) -> dict[str, str]:
    job = letter.job
    error = job["error"] or {}
    values = {
        "id": job["id"],
        "event": letter.notice.event,
        "status": job["status"],
        "file": job["file"]["name"],
        "size": job["file"]["size"],
        "pipeline": job["pipeline"],
        "attempt": job["attempt"],
        "finished_at": job["finished_at"],
        "error": error.get("detail") or "",
        "hint": error.get("hint") or "",
        "url": public_url + job["links"]["self"],
    }
    return {name: _line(str(value)) for name, value in values.items()}


def _line(text: str) -> str:
    """Return the text as one printable line without encoded words (RFC 2047): the library would decode them, line ends too."""
    plain = "".join(character if character.isprintable() else " " for character in text)
    return " ".join(plain.split())[:_LONGEST].replace("=?", "= ?")


def _address(text: str) -> Address:
    return Address(addr_spec=text)
