"""A processor that does what the file says, so that a test makes its file segfault, hang, fork or lie.

A file is a list of orders, one a line: the name of a function below that ``order`` marks, then its arguments. For tests alone.
"""

from __future__ import annotations

import ctypes
import errno
import hashlib
import json
import os
import signal
import socket
import stat
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from processors import Facts, Reject, RetryLater, StepContext, processor

ORDERS: Final[dict[str, Callable[..., Any]]] = {}
MIB: Final = 2**20


@processor("obey")
def obey(ctx: StepContext) -> Facts:
    """Do what the file says."""
    orders = ctx.input.read_text().splitlines()
    for line in orders:
        name, *arguments = line.split()
        ORDERS[name](ctx, *arguments)
    return {"obeyed": len(orders), "pid": os.getpid()}


@processor("obey.opaque", opaque=True)
def obey_opaque(ctx: StepContext) -> Facts:
    """Do what the file says, which no processor may that says what this one does."""
    with ctx.open() as file:
        orders = file.read().decode().splitlines()
    for line in orders:
        name, *arguments = line.split()
        ORDERS[name](ctx, *arguments)
    return {"obeyed": len(orders), "pid": os.getpid()}


def order(function: Callable[..., Any]) -> Callable[..., Any]:
    ORDERS[function.__name__] = function
    return function


# Orders of a decent file


@order
def wait(ctx: StepContext, path: str) -> None:
    """Work until ``path`` exists, reporting progress."""
    done = 0
    while not os.path.exists(path):  # noqa: PTH110 - the one look a sandbox leaves open
        done += 1
        ctx.progress(done, None, "looks")
        time.sleep(0.02)


@order
def write(ctx: StepContext, name: str, size: str = "1000") -> None:
    """Make an artifact of so many bytes."""
    ctx.output(name, media_type="application/octet-stream").write_bytes(b"x" * int(size))


@order
def nest(ctx: StepContext, depth: str) -> None:
    """Make folders within folders, so many, beside an artifact."""
    ctx.output("kept.txt", media_type="text/plain").write_text("kept")
    for _ in range(int(depth)):  # in its workspace
        os.mkdir("d")  # noqa: PTH102 - relative to where it is
        os.chdir("d")


@order
def say(ctx: StepContext, *words: str) -> None:
    ctx.log.info("%s", " ".join(words))


@order
def nothing(ctx: StepContext, *words: str) -> None:
    """Do nothing, for files of some length."""


@order
def pause(ctx: StepContext, seconds: str) -> None:
    """Take so long."""
    time.sleep(float(seconds))


# Orders that end badly


@order
def reject(ctx: StepContext) -> None:
    raise Reject("not-wanted", "Nobody wants this file.", "Send another one.")


@order
def later(ctx: StepContext, seconds: str) -> None:
    raise RetryLater(float(seconds), "The helper is busy.")


@order
def blunder(ctx: StepContext) -> None:
    raise ZeroDivisionError("an ordinary mistake")


@order
def segfault(ctx: StepContext) -> None:
    ctypes.string_at(0)


@order
def kill_itself(ctx: StepContext) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@order
def terminate_itself(ctx: StepContext) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)


@order
def leave(ctx: StepContext, status: str) -> None:
    """End the process without a word."""
    os._exit(int(status))


@order
def leave_unless(ctx: StepContext, path: str) -> None:
    """End the process without a word until ``path`` exists."""
    if not os.path.exists(path):  # noqa: PTH110 - as above
        os._exit(1)


@order
def resign(ctx: StepContext) -> None:
    """Raise what is no Exception."""
    sys.exit(0)


@order
def freeze(ctx: StepContext) -> None:
    """Stop, as by SIGSTOP from outside: nothing but SIGKILL and SIGCONT reaches it."""
    os.kill(os.getpid(), signal.SIGSTOP)


@order
def hang(ctx: StepContext) -> None:
    while True:
        time.sleep(60)


@order
def stubborn(ctx: StepContext) -> None:
    """Ignore SIGTERM from now on."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)


@order
def spin_everywhere(ctx: StepContext) -> None:
    """Use more CPU time than there is time, with threads that do not hold the interpreter's lock."""
    block = bytes(8 * MIB)

    def work() -> None:
        while True:
            hashlib.sha512(block)

    for _ in range(3):
        threading.Thread(target=work, daemon=True).start()
    work()


@order
def allocate(ctx: StepContext, mib: str) -> None:
    """Ask for the memory at once."""
    bytearray(int(mib) * MIB)


@order
def hoard(ctx: StepContext, mib: str) -> None:
    """Take the memory piece by piece and use it."""
    pieces = [b"\1" * (16 * MIB) for _ in range(int(mib) // 16)]
    del pieces


@order
def hoard_and_die(ctx: StepContext, mib: str) -> None:
    """End as the kernel ends a process that has used up the machine's memory."""
    held = b"\1" * (int(mib) * MIB)
    os.kill(os.getpid(), signal.SIGKILL)
    del held


@order
def fill_with_one_file(ctx: StepContext) -> None:
    with ctx.output("large.bin", media_type="application/octet-stream").open("wb") as file:
        while True:
            file.write(bytes(MIB))


@order
def fill_with_files(ctx: StepContext, size: str) -> None:
    """Write file after file of this size and never stop by oneself."""
    folder = ctx.output("first.bin", media_type="application/octet-stream").parent
    data, number = bytes(int(size)), 0
    while True:
        number += 1
        with (folder / f"more-{number}").open("wb", buffering=0) as file:
            file.write(data)


@order
def fork(ctx: StepContext) -> None:
    if os.fork() == 0:
        hang(ctx)


@order
def fork_bomb(ctx: StepContext) -> None:
    """Fork for ever, and take no for an answer."""
    while True:
        try:
            os.fork()
        except OSError:
            time.sleep(0.001)


@order
def execute(ctx: StepContext, *command: str) -> None:
    subprocess.run(command, check=True)


@order
def out_of_space(ctx: StepContext) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


# Orders to lie: the channel to the supervisor is the only socket there is


def _channel() -> int:
    for descriptor in range(3, 64):
        try:
            if stat.S_ISSOCK(os.fstat(descriptor).st_mode):
                return descriptor
        except OSError:
            continue
    raise LookupError("no channel")


def _frame(data: bytes) -> bytes:
    return struct.pack("!I", len(data)) + data


def _send(*frames: bytes) -> None:
    with socket.socket(fileno=os.dup(_channel())) as channel:
        channel.sendall(b"".join(frames))


def _report(**members: Any) -> bytes:
    return _frame(json.dumps(members).encode())


_NESTED: Final = b'{"a":' * 500 + b"1" + b"}" * 500
_LIES: Final[dict[str, Callable[[], list[bytes]]]] = {
    "noise": lambda: [os.urandom(5000)],
    "length": lambda: [b"\xff\xff\xff\xff" + b"x" * 100],
    "text": lambda: [_frame(b"not json")],
    "list": lambda: [_frame(b"[1, 2]")],
    "event": lambda: [_report(event="promotion")],
    "step": lambda: [_report(event="step", step="no-such-step", status="succeeded")],
    "status": lambda: [_report(event="step", step="obey", status="glorious")],
    "surrogate": lambda: [_frame(b'{"event":"step","step":"obey","status":"succeeded","facts":{"a":"\\ud800"}}')],
    "digits": lambda: [_frame(b'{"event":"progress","step":"obey","done":' + b"9" * 5000 + b"}")],
    "nested": lambda: [_frame(b'{"event":"step","step":"obey","status":"running","facts":' + _NESTED + b"}")],
    "facts": lambda: [_report(event="step", step="obey", status="succeeded", facts={"a": "x" * 900_000})],
    "steps": lambda: [_report(event="step", step="obey", status="running")] * 2000,
    "empty": lambda: [_frame(b"")],
    "half": lambda: [struct.pack("!I", 100) + b'{"event":'],
    "abyss": lambda: [_frame(b"[" * 200_000)],
    "path": lambda: [
        _report(
            event="step",
            step="obey",
            status="succeeded",
            artifacts=[{"name": "../../job.json", "size": 1, "media_type": "text/plain", "sha256": "0" * 64}],
        )
    ],
}


@order
def lie(ctx: StepContext, kind: str) -> None:
    """Send something that is no report of this attempt, then go on as if nothing had been."""
    _send(*_LIES[kind]())
    time.sleep(0.3)


@order
def claim_success(ctx: StepContext) -> None:
    """Report success before the work is done, and leave."""
    _send(_report(event="outcome", outcome="succeeded"))
    os._exit(0)


@order
def claim_artifact(ctx: StepContext, name: str, size: str) -> None:
    """Report success with an artifact that is not what it seems, and leave."""
    made = {"name": name, "size": int(size), "media_type": "text/plain", "sha256": "0" * 64}
    _send(
        _report(event="step", step="obey", status="succeeded", facts={}, artifacts=[made]),
        _report(event="outcome", outcome="succeeded"),
    )
    os._exit(0)


def _step_folder(ctx: StepContext) -> Path:
    partial = ctx.output("unused", media_type="text/plain").parent
    return partial.with_name(partial.name.removesuffix(".partial"))


@order
def make_fifo(ctx: StepContext, name: str) -> None:
    """Put a FIFO where an artifact is looked for: opening it would wait for ever."""
    folder = _step_folder(ctx)
    folder.mkdir()
    os.mkfifo(folder / name)


@order
def make_link(ctx: StepContext, name: str, target: str) -> None:
    """Put a link where an artifact is looked for."""
    folder = _step_folder(ctx)
    folder.mkdir()
    (folder / name).symlink_to(target)


@order
def make_folder_link(ctx: StepContext, target: str) -> None:
    """Put a link where the folder of artifacts is looked for."""
    _step_folder(ctx).symlink_to(target, target_is_directory=True)


@order
def flood(ctx: StepContext, kind: str, count: str) -> None:
    """Send so many reports past the runner's own limits."""
    reports = {
        "progress": lambda n: _report(event="progress", step="obey", done=n, total=None, unit=None),
        "log": lambda n: _report(event="log", level="warning", message=f"flood line {n}"),
        "nan": lambda n: _frame(b'{"event":"progress","step":"obey","done":NaN}'),
    }
    for start in range(0, int(count), 1000):
        _send(*(reports[kind](n) for n in range(start, min(start + 1000, int(count)))))


@order
def chatter(ctx: StepContext, count: str) -> None:
    """Call what an author may call, as often as that."""
    for n in range(int(count)):
        ctx.progress(n, int(count), "words")
        ctx.log.info("chatter %d", n)


# Orders to leave a process behind, where no sandbox forbids it


@order
def daemon(ctx: StepContext, keeping: str) -> None:
    """Leave a process that is in no group of its attempt, deaf to SIGTERM, and keeps some of its descriptors."""
    if os.fork():
        os.wait()
        return
    os.setsid()
    if os.fork():
        os._exit(0)
    for descriptor in range(3, 1024):
        try:
            kind = os.fstat(descriptor).st_mode
            if keeping == "nothing" or (keeping == "lease" and not stat.S_ISREG(kind)):
                os.close(descriptor)
        except OSError:
            continue
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    hang(ctx)


@order
def gate(ctx: StepContext, path: str) -> None:
    """Do nothing: this one is for the processor of the same name."""


@processor("gate")
def closed_until(ctx: StepContext) -> Facts:
    """Fail until the path exists that the file names after ``gate``."""
    (path,) = (line.split()[1] for line in ctx.input.read_text().splitlines() if line.startswith("gate "))
    if not os.path.exists(path):  # noqa: PTH110 - as above
        raise ZeroDivisionError("the gate is closed")
    return {}
