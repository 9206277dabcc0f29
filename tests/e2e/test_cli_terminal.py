"""The ``intake`` command as a person sees it: on a terminal, which here is a pseudo-terminal that remembers its screen."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.testing import Server
from tests.e2e.rig import running, serve, submit
from tests.e2e.test_cli import INTAKE, QUIET_ENVIRONMENT
from tests.waiting import TIMEOUT

TOKENS = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|([\r\n])|([^\x1b\r\n]+)")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serve() as server:
        yield server


class Terminal:
    """A command on a terminal of 100 columns; ``raw`` is all it has written so far."""

    def __init__(self, server: Server, folder: Path, *arguments: str, **variables: str) -> None:
        self.raw = ""
        self._screen, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 100, 0, 0))
        environment = QUIET_ENVIRONMENT | {"INTAKE_SERVER": server.url, "TERM": "xterm-256color"} | variables
        environment.pop("COLUMNS", None)
        self.process = subprocess.Popen(
            [*INTAKE, *arguments],
            cwd=folder,
            env=environment,
            stdin=terminal,
            stdout=terminal,
            stderr=terminal,
            start_new_session=True,
        )
        os.close(terminal)

    @property
    def text(self) -> str:
        """All that was written, also what has been written over since, without colours and cursor movements."""
        return "".join(token[3] or token[2] for token in TOKENS.findall(self.raw)).replace("\r", "")

    @property
    def screen(self) -> list[str]:
        """The lines as they stand on the screen now; none of these commands writes lines of more than its width."""
        lines, row, column = [""], 0, 0
        for count, command, control, text in TOKENS.findall(self.raw):
            if text:
                lines[row] = lines[row][:column].ljust(column) + text + lines[row][column + len(text) :]
                column += len(text)
            elif control == "\r":
                column = 0
            elif control == "\n":
                row += 1
                lines += [""] * (row + 1 - len(lines))
            elif command == "A":
                row = max(0, row - int(count or 1))
            elif command == "K":
                lines[row] = ""
        return [stripped for line in lines if (stripped := line.rstrip())]

    def expect(self, text: str) -> None:
        """Read until ``text`` has been written."""
        deadline = time.monotonic() + TIMEOUT
        while text not in self.text:
            assert time.monotonic() < deadline, f"waited for {text!r}, got {self.text!r}"
            self._read(0.1)

    def type(self, text: str) -> None:
        os.write(self._screen, text.encode())

    def interrupt(self) -> int:
        """Press Ctrl-C, and once more where nothing comes of it, and return the exit code.

        Python hears of a signal that comes just before it begins to wait for a line when the line has come.
        """
        for _ in range(3):
            os.killpg(self.process.pid, signal.SIGINT)
            until = time.monotonic() + 10
            while time.monotonic() < until:
                if not self._read(0.1):
                    return self.end()
        return self.end()

    def end(self) -> int:
        """Read to the end and return the exit code."""
        deadline = time.monotonic() + TIMEOUT
        while self._read(0.1):
            assert time.monotonic() < deadline, f"waited for the end, got {self.text!r}"
        os.close(self._screen)
        return self.process.wait(TIMEOUT)

    def _read(self, timeout: float) -> bool:
        """Read what there is; False at the end."""
        poll = select.poll()  # select() would refuse the higher descriptors of a long run
        poll.register(self._screen)
        if not poll.poll(timeout * 1000):
            return True
        try:
            data = os.read(self._screen, 65536)
        except OSError:  # Linux says EIO when the last writer has left
            return False
        self.raw += data.decode(errors="replace")
        return bool(data)


def test_an_upload_draws_a_bar_and_leaves_a_table(server: Server, tmp_path: Path) -> None:
    (tmp_path / "orders.txt").write_text(f"wait {tmp_path / 'go'}")
    terminal = Terminal(server, tmp_path, "upload", "orders.txt", "--wait")
    terminal.expect("orders.txt is job")
    terminal.expect("running 0/1 obey")
    (tmp_path / "go").touch()
    assert terminal.end() == 0
    assert "\x1b[" in terminal.raw
    *before, head, row = terminal.screen
    assert head.split() == ["ID", "Status", "File", "Steps", "Age"]
    assert "orders.txt" in row
    assert [line.split()[1] for line in before] == ["is", "succeeded"]


def test_watching_draws_the_steps_and_leaves_the_last_frame(server: Server, tmp_path: Path) -> None:
    job_id = submit(server, f"wait {tmp_path / 'go'}", pipeline="checked")
    running(server, job_id)
    terminal = Terminal(server, tmp_path, "jobs", "watch", job_id)
    terminal.expect("▶ obey")
    (tmp_path / "go").touch()
    terminal.expect("✓ media_type")
    assert terminal.end() == 0
    assert job_id in terminal.screen[0]
    steps = [line.split()[:2] for line in terminal.screen[1:]]
    assert steps == [["✓", "checksum"], ["✓", "obey"], ["✓", "media_type"]]


def test_why_a_job_failed_stands_below_its_steps(server: Server, tmp_path: Path) -> None:
    terminal = Terminal(server, tmp_path, "jobs", "watch", submit(server, "reject"))
    assert terminal.end() == 3
    assert "✗ obey" in terminal.screen[1]
    assert terminal.screen[-1].endswith("]")


def test_a_terminal_gets_a_table(server: Server, tmp_path: Path) -> None:
    submit(server, "nothing", filename="[red]not markup\u202e.txt")
    terminal = Terminal(server, tmp_path, "jobs", "list", "--limit", "1")
    assert terminal.end() == 0
    assert "ID" in terminal.text
    assert "[red]not mark" in terminal.text
    assert "\u202e" not in terminal.text


@pytest.mark.parametrize("how", [{"NO_COLOR": "1"}, {"TERM": "dumb"}, {"option": "--no-color"}])
def test_colours_can_be_turned_off(server: Server, tmp_path: Path, how: dict[str, str]) -> None:
    options = [how.pop("option")] if "option" in how else []
    terminal = Terminal(server, tmp_path, "jobs", "show", "missing", *options, **how)
    assert terminal.end() == 7
    assert "error: " in terminal.text
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", terminal.raw)


@pytest.mark.parametrize("how", [{"CI": "true"}, {"TERM": "dumb"}])
def test_nothing_moves_in_ci_or_on_a_dumb_terminal(server: Server, tmp_path: Path, how: dict[str, str]) -> None:
    job_id = submit(server, "nothing")
    terminal = Terminal(server, tmp_path, "jobs", "watch", job_id, **how)
    assert terminal.end() == 0
    assert f"job {job_id} succeeded" in terminal.text
    assert not re.search(r"\x1b\[[0-9]*A", terminal.raw)


@pytest.mark.parametrize(("answer", "code", "left"), [("y\n", 0, False), ("n\n", 1, True), ("\x03", 130, True)])
def test_a_bulk_verb_asks_first(server: Server, tmp_path: Path, answer: str, code: int, left: bool) -> None:
    label = f"answer=a{code}"
    with server.client() as client:
        job = client.submit(b"nothing", labels={"answer": f"a{code}"}, wait=30)
        terminal = Terminal(server, tmp_path, "jobs", "delete", "--label", label)
        terminal.expect("1 job will be deleted")
        terminal.expect("Go on? [y/N]")
        if answer == "\x03":
            assert terminal.interrupt() == code
        else:
            terminal.type(answer)
            assert terminal.end() == code
        assert [found.id for found in client.jobs(labels={"answer": f"a{code}"})] == [job.id] * left


def test_interrupting_a_watch_leaves_the_cursor_and_exit_code_130(server: Server, tmp_path: Path) -> None:
    job_id = submit(server, f"wait {tmp_path / 'go'}")
    terminal = Terminal(server, tmp_path, "jobs", "watch", job_id)
    terminal.expect("▶ obey")
    os.killpg(terminal.process.pid, signal.SIGINT)
    assert terminal.end() == 130
    (tmp_path / "go").touch()
    assert terminal.raw.rfind("\x1b[?25h") > terminal.raw.rfind("\x1b[?25l")
    assert "Traceback" not in terminal.text


def test_a_download_names_the_file_and_the_standard_input_of_a_terminal_is_no_file(
    server: Server, tmp_path: Path
) -> None:
    job_id = submit(server, "write made.bin 3000000")
    with server.client() as client:
        client.job(job_id).wait(timeout=30)
    terminal = Terminal(server, tmp_path, "results", "get", job_id, "obey")
    assert terminal.end() == 0
    assert terminal.screen == ["made.bin"]
    terminal = Terminal(server, tmp_path, "upload", "-")
    assert terminal.end() == 2
    assert "hint: pipe a file into it" in terminal.text
    terminal = Terminal(server, tmp_path, "results", "list", job_id)
    assert terminal.end() == 0
    assert "obey/made.bin" in terminal.text
