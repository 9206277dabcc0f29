"""One logging configuration for every process: structlog over the standard library, to stderr, as text or JSON lines.

A line carries the ids that are known where it is written: ``request_id``, ``job_id``, ``attempt``, ``step``, ``trace_id``. Whatever
strangers put into it, it stays one line without control characters, and shows no secret of a query or of ``Authorization``.
"""

from __future__ import annotations

import logging
import re
import sys
import threading
from collections.abc import Callable, MutableMapping
from types import TracebackType
from typing import Any, Final

import structlog

from service.settings import Settings

#: C0 and C1 controls, DEL, the separators that some take for line ends, and the marks that turn a text's direction.
_CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
_CONTROL_BUT_LINES: Final = re.compile(_CONTROL.pattern.replace("\x00-\x1f", "\x00-\x09\x0b-\x1f"))
_SECRETS: Final = re.compile(
    r"""(?ix) ( [?&;] (?: sig | token | access_token | signature | key ) = ) [^&\s"'#]+  # of a query
    | ( \b authorization ["']? \s* [:=,] \s* b?["']? (?: [a-z]+ \s+ )? ) [^\s"',)}\]]+
    | ( \b bearer \s+ ) [^\s"',)}\]]+"""
)
_HIDDEN: Final = "[hidden]"
_LINES: Final = frozenset({"exception", "stack"})  # members that have more than one line, in the text for people

Members = MutableMapping[str, Any]


def configure(settings: Settings) -> None:
    """Send all logs of this process, the libraries' included, to stderr in the format of the settings."""
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.stdlib.PositionalArgumentsFormatter(),
    ]
    last: list[Any] = [structlog.processors.format_exc_info, _without_secrets]
    if settings.log_format == "json":
        last += [structlog.processors.JSONRenderer()]  # in ASCII, so nothing odd passes
    else:
        last += [_printable, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())]
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared, processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *last]
        )
    )
    logging.basicConfig(handlers=[handler], level=settings.log_level.upper(), force=True)
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):  # through the one handler
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = name != "uvicorn.access" or settings.log_level == "debug"  # a line for each request
    for name in ("asyncio", "aiosqlite"):
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(True)
    sys.excepthook = _uncaught
    threading.excepthook = _uncaught_in_thread


def shown(text: str) -> str:
    """Return ``text`` with what is no printable character written as an escape."""
    return _CONTROL.sub(_escape, text)


def _escape(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape", "surrogatepass").decode()


def _without_secrets(_: Any, __: str, members: Members) -> Members:
    for name, value in members.items():
        members[name] = _every_text(value, _hide)
    return members


def _printable(_: Any, __: str, members: Members) -> Members:
    lines = {name: _CONTROL_BUT_LINES.sub(_escape, members[name]) for name in _LINES & members.keys()}
    return {shown(name): _every_text(value, shown) for name, value in members.items()} | lines


def _hide(text: str) -> str:
    return _SECRETS.sub(lambda found: f"{found[1] or found[2] or found[3]}{_HIDDEN}", text)


def _every_text(value: Any, change: Callable[[str], str]) -> Any:
    if isinstance(value, str):
        return change(value)
    if isinstance(value, dict):
        return {_every_text(key, change): _every_text(each, change) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_every_text(each, change) for each in value]
    if value is None or isinstance(value, bool | int | float):
        return value
    return change(str(value))


def _uncaught(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        sys.__excepthook__(kind, error, traceback)
        return
    structlog.get_logger(__name__).critical("the process ends by an error", exc_info=(kind, error, traceback))


def _uncaught_in_thread(told: threading.ExceptHookArgs) -> None:
    if told.exc_value is not None and not issubclass(told.exc_type, SystemExit):
        where = told.thread.name if told.thread else "unknown"
        exc_info = (told.exc_type, told.exc_value, told.exc_traceback)
        structlog.get_logger(__name__).error("a thread has ended by an error", thread=where, exc_info=exc_info)
