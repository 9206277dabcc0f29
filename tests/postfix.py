"""Postfix as a private process: an SMTP server on a loopback port, with all it has in a temporary folder, beside the system's own.

It takes mail for the people it is told of at ``example.org``, into a maildir of each, and for nobody else. It needs root, as
Postfix gives its rights up process by process.
"""

from __future__ import annotations

import email
import email.policy
import os
import shutil
import signal
import smtplib
import subprocess
import tempfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

import pytest

from tests.needs import need
from tests.waiting import find_free_port, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from email.message import EmailMessage

_NOBODY: Final = 65534
_MAIN: Final = """\
compatibility_level = 3.6
config_directory = {folder}/conf
queue_directory = {folder}/queue
data_directory = {folder}/data
maillog_file = /dev/stdout
inet_interfaces = 127.0.0.1
inet_protocols = ipv4
myhostname = mail.example.org
mydestination =
alias_maps =
alias_database =
local_recipient_maps =
virtual_mailbox_domains = example.org
virtual_mailbox_base = {folder}/mail
virtual_mailbox_maps = inline:{{ {people} }}
virtual_uid_maps = static:{nobody}
virtual_gid_maps = static:{nobody}
virtual_minimum_uid = 100
smtpd_relay_restrictions = reject_unauth_destination
smtpd_recipient_restrictions = reject_unlisted_recipient
smtpd_tls_security_level = may
smtpd_tls_cert_file = {certificate}
smtpd_tls_key_file = {key}
smtpd_tls_received_header = yes
"""
_MASTER: Final = """\
127.0.0.1:{port} inet n - n - - smtpd
cleanup unix n - n - 0 cleanup
qmgr unix n - n 300 1 qmgr
rewrite unix - - n - - trivial-rewrite
bounce unix - - n - 0 bounce
defer unix - - n - 0 bounce
trace unix - - n - 0 bounce
error unix - - n - - error
retry unix - - n - - error
anvil unix - - n - 1 anvil
tlsmgr unix - - n 1000? 1 tlsmgr
proxymap unix - - n - - proxymap
virtual unix - n n - - virtual
postlog unix-dgram n - n - 1 postlogd
"""


@dataclass(frozen=True)
class Postfix:
    """A running server."""

    port: int
    folder: Path

    def mail(self, person: str) -> list[EmailMessage]:
        """Return what has arrived for somebody, oldest first."""
        paths = sorted((self.folder / "mail" / person / "new").glob("*"), key=lambda path: path.stat().st_mtime_ns)
        return [email.message_from_bytes(path.read_bytes(), policy=email.policy.default) for path in paths]

    @property
    def log(self) -> str:
        """What it has written."""
        return (self.folder / "log").read_text(errors="replace")


@contextmanager
def postfix(people: Sequence[str], certificate: Path, key: Path) -> Iterator[Postfix]:
    """Run a server for the length of the block, whose certificate is this one."""
    program = need("postfix")
    if os.geteuid() != 0:
        pytest.skip("this system gives no root, which Postfix needs")
    folder = Path(tempfile.mkdtemp(prefix="intake-postfix-"))
    try:
        folder.chmod(0o755)  # its processes are several users'
        for name in ("conf", "queue", "data", "mail"):
            (folder / name).mkdir(mode=0o755)
        shutil.chown(folder / "data", "postfix")
        os.chown(folder / "mail", _NOBODY, _NOBODY)
        port = find_free_port()
        boxes = ", ".join(f"{{ {person}@example.org = {person}/ }}" for person in people)
        told = {"folder": folder, "nobody": _NOBODY, "people": boxes, "certificate": certificate, "key": key}
        (folder / "conf" / "main.cf").write_text(_MAIN.format(**told))
        (folder / "conf" / "master.cf").write_text(_MASTER.format(port=port))
        with (folder / "log").open("wb") as log:
            command = [program, "-c", str(folder / "conf"), "start-fg"]
            process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        server = Postfix(port, folder)
        try:
            wait_until(lambda: _greets(port) or process.poll() is not None, 60, "Postfix to greet")
            assert process.poll() is None, server.log
            yield server
        finally:
            _end(process, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _greets(port: int) -> bool:
    with suppress(OSError, smtplib.SMTPException), smtplib.SMTP("127.0.0.1", port, timeout=5) as client:
        return client.noop()[0] == 250
    return False


def _end(process: subprocess.Popen[bytes], folder: Path) -> None:
    """End the master, whose process id it keeps, and with it all that it has started."""
    groups = {process.pid}
    with suppress(OSError, ValueError):
        groups.add(os.getpgid(int((folder / "queue" / "pid" / "master.pid").read_text())))
    for number in (signal.SIGTERM, signal.SIGKILL):
        for group in groups:
            with suppress(ProcessLookupError):
                os.killpg(group, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(10)
