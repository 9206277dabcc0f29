"""Log lines: one event is one line, without control characters, without secrets, whoever wrote it."""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import threading

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from service import logs
from service.settings import Settings

CONTROL = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069]")
WORDS = st.text(max_size=40) | st.sampled_from(["\x1b[31mred", "a\r\nINFO forged", "\x7f", "\x9b", "\u202e"])


class Lines(io.StringIO):
    """What was logged."""

    def take(self) -> str:
        text = self.getvalue()
        self.seek(0)
        self.truncate()
        return text


@pytest.fixture(params=["json", "text"], scope="module")
def layout(request):
    return request.param


@pytest.fixture(scope="module")
def lines(layout):
    root = logging.getLogger()
    before = root.handlers[:], root.level, sys.stderr, sys.excepthook, threading.excepthook
    sys.stderr = lines = Lines()
    logs.configure(Settings.load(log_format=layout, log_level="debug"))
    sys.stderr = before[2]
    yield lines
    logging.captureWarnings(False)
    structlog.reset_defaults()
    _, _, _, sys.excepthook, threading.excepthook = before
    root.handlers[:], level = before[0], before[1]
    root.setLevel(level)


def check(line: str, layout: str) -> None:
    assert line.endswith("\n")
    assert not CONTROL.search(line), line
    if layout == "json":
        assert line.count("\n") == 1
        json.loads(line)


@given(event=WORDS, key=WORDS, value=WORDS | st.lists(WORDS) | st.dictionaries(WORDS, WORDS))
def test_whatever_strangers_write_stays_within_its_line(lines, layout, event, key, value):
    structlog.get_logger("ours").info("name", value=value, **{"k" + key: 1})
    structlog.get_logger("ours").info(event.replace("%", ""), value=value)
    logging.getLogger("theirs").info("said %s", event)
    text = lines.take()

    check(text.replace("\n", " ", 2) if layout == "text" else text.splitlines(keepends=True)[0], layout)
    assert text.count("\n") == 3


@given(words=WORDS)
def test_an_exception_keeps_its_lines_in_the_text_and_nothing_else(lines, layout, words):
    try:
        raise ValueError(words)
    except ValueError:
        structlog.get_logger("ours").exception("it failed")
    text = lines.take()

    check(text, layout)
    assert "ValueError" in text
    assert layout == "text" or text.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "secret"),
    [
        ('127.0.0.1:1 - "GET /v1/jobs/1/source?sig=abc123&exp=7 HTTP/1.1" 200', "abc123"),
        ('127.0.0.1:1 - "GET /x?exp=7&token=abc123 HTTP/1.1" 200', "abc123"),
        ("Authorization: Bearer abc123", "abc123"),
        ("{'authorization': 'Bearer abc123'}", "abc123"),
        ("(b'authorization', b'Basic abc123')", "abc123"),
        ("rejected bearer abc123", "abc123"),
        ("http://x/?a=1&access_token=abc123#end", "abc123"),
    ],
)
def test_no_secret_is_shown(lines, text, secret):
    logging.getLogger("uvicorn.access").info("%s", text)
    structlog.get_logger("ours").info("seen", headers=[text], url=text)
    shown = lines.take()

    assert secret not in shown
    assert shown.count("[hidden]") == 3
    assert "exp=7" in shown or "exp=7" not in text


def test_ids_that_are_bound_stand_on_every_line_the_libraries_included(lines, layout):
    with structlog.contextvars.bound_contextvars(request_id="r-1", job_id="j-1"):
        structlog.get_logger("ours").info("ours")
        logging.getLogger("uvicorn.error").info("theirs")
    text = lines.take()

    for line in text.splitlines():
        assert "r-1" in line
        assert "j-1" in line


def test_uncaught_errors_are_lines_too(lines, layout):
    def fail() -> None:
        raise ValueError("in a thread")

    thread = threading.Thread(target=fail, name="worker-7")
    thread.start()
    thread.join()
    try:
        raise ValueError("at the top")
    except ValueError:
        sys.excepthook(*sys.exc_info())
    text = lines.take()

    for words in ("in a thread", "worker-7", "at the top"):
        assert words in text
    if layout == "json":
        assert len([json.loads(line) for line in text.splitlines()]) == 2


def test_requests_have_lines_of_their_own_only_where_everything_is_logged(lines, layout):
    access = logging.getLogger("uvicorn.access")
    assert access.hasHandlers()  # which uvicorn asks for each connection
    handlers = logging.getLogger().handlers[:]
    logs.configure(Settings.load(log_format=layout, log_level="info"))
    try:
        assert not access.hasHandlers()
        assert logging.getLogger("uvicorn.error").hasHandlers()
    finally:
        logs.configure(Settings.load(log_format=layout, log_level="debug"))
        logging.getLogger().handlers[:] = handlers


def test_a_lone_surrogate_is_written_as_an_escape():
    assert logs.shown("a\udcffb\x00") == "a\\udcffb\\x00"
