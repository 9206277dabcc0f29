"""A processor that tries to get out of its sandbox and tells what came of each try."""

import ctypes
import errno
import os
import resource
import signal
import socket
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

from processors import Facts, StepContext, processor

_LIBC = ctypes.CDLL(None, use_errno=True)
#: Numbers on x86-64 and arm64 of calls that Python does not have.
_CALLS = {
    "ptrace": (101, 117, (16,)),  # PTRACE_ATTACH; the pid is added
    "process_vm_readv": (310, 270, ()),
    "pidfd_open": (434, 434, ()),
    "io_uring_setup": (425, 425, (1, None)),
    "unshare": (272, 97, (0x10000000,)),  # a user namespace
    "mount": (165, 40, (b"none", b"/tmp", b"tmpfs", 0, None)),
    "bpf": (321, 280, (0, None, 0)),
    "keyctl": (250, 219, (0, -3, 0)),
    "userfaultfd": (323, 282, (1,)),
    "perf_event_open": (298, 241, (None, 0, -1, -1, 0)),
    "memfd_create": (319, 279, (b"x", 0)),
    "shmget": (29, 194, (0, 4096, 0o1600)),
    "inotify_init1": (294, 26, (0,)),
    "clone3": (435, 435, (None, 0)),
}

_HARMLESS = (
    "read the record",
    "read another job",
    "read another record",
    "list the jobs",
    "list the data",
    "link the record",
    "read the passwords",
    "read the environment",
    "connect",
    "bind",
    "send a datagram",
    "connect to a Unix socket",
    "fork",
    "start a program",
    "slow the supervisor",
    "limit the supervisor softly",
    "memfd_create",
    "inotify_init1",
)


def _told(attempt: Callable[[], object]) -> str:
    try:
        attempt()
    except OSError as error:
        return (
            "PermissionError"
            if isinstance(error, PermissionError)
            else errno.errorcode.get(error.errno or 0, str(error))
        )
    except Exception as error:
        return type(error).__name__
    return "allowed"


def _call(name: str, *more: int) -> None:
    x86, arm, arguments = _CALLS[name]
    words = [
        value if isinstance(value, bytes) else None if value is None else ctypes.c_long(value) for value in arguments
    ]
    number = x86 if os.uname().machine == "x86_64" else arm
    if _LIBC.syscall(ctypes.c_long(number), *words, *map(ctypes.c_long, more)) < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def _connect(port: int) -> None:
    with socket.create_connection(("127.0.0.1", port), timeout=2):
        pass


def _socket(family: int, kind: int, use: Callable[[socket.socket], object]) -> None:
    with socket.socket(family, kind) as made:
        use(made)


def _pair_of_datagrams(path: str) -> None:
    """A pair is not connected to anybody, but one of datagrams could be sent to any address."""
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        one.sendto(b"x", path)


def _touch(path: Path) -> None:
    path.touch()
    path.unlink()


def _fork() -> None:
    if os.fork() == 0:
        os._exit(0)


def _have_the_kernel_send(victim: int) -> None:
    """Ask for a signal to another process whenever there is something to read on a pipe."""
    import fcntl

    reader, writer = os.pipe()
    fcntl.fcntl(reader, fcntl.F_SETOWN, victim)
    fcntl.fcntl(reader, fcntl.F_SETFL, os.O_ASYNC)
    os.write(writer, b"x")


def _device(folder: Path) -> None:
    os.mknod(folder / "disk", 0o600 | stat.S_IFBLK, os.makedev(7, 0))


def _outlive() -> None:
    if _LIBC.prctl(1, ctypes.c_ulong(0), 0, 0, 0) != 0:
        raise PermissionError


@processor("test.escape_shared", opaque=True)
def escape_shared(ctx: StepContext) -> Facts:
    """Try what a process could that is handed the source of one job after the other, if it were not as its processor says."""
    folder = ctx.input.parent
    with ctx.open() as file:
        other = file.read().decode().split()[0]
        held = file.fileno()
        tries: dict[str, Callable[[], Any]] = {
            "read its input by its path": lambda: ctx.input.read_bytes(),
            "open its input again": lambda: Path(f"/proc/self/fd/{held}").read_bytes(),
            "open its input for writing": lambda: Path(f"/proc/self/fd/{held}").open("ab").close(),
            "write its input": lambda: _as_no_right(os.write, held, b"x"),
            "cut its input": lambda: _as_no_right(os.ftruncate, held, 0),
            "hide its input": lambda: os.fchmod(held, 0),
            "date its input": lambda: os.utime(held, (0, 0)),
            "read another job": lambda: (folder.parent / other / "source").read_bytes(),
            "read the record": lambda: (folder / "job.json").read_bytes(),
            "list its folder": lambda: list(folder.iterdir()),
            "list the root": lambda: list(Path("/").iterdir()),
            "write beside its input": lambda: _touch(folder / "escaped"),
            "write where it is": lambda: _touch(Path("escaped")),
            "write to the temporary folder": lambda: _touch(Path("/tmp/escaped")),
            "fork": _fork,
            "open a socket": lambda: _socket(socket.AF_INET, socket.SOCK_STREAM, lambda made: None),
            "raise its own limit": lambda: _raise_a_limit(),
        }
        return {"tries": {name: _told(attempt) for name, attempt in tries.items()}, "pid": os.getpid()}


def _as_no_right(function: Callable[..., object], *arguments: Any) -> None:
    """Call what a descriptor that is open for reading refuses with other words."""
    try:
        function(*arguments)
    except OSError as error:
        if error.errno in (errno.EBADF, errno.EINVAL):
            raise PermissionError from None
        raise


@processor("test.escape", accepts=("*/*",))
def escape(ctx: StepContext) -> Facts:
    """Try what a taken-over decoder would try."""
    folder = ctx.input.parent
    others = folder.parent
    data = others.parents[3]
    # The file names another job, the port of a listening socket, a Unix socket, and a pid.
    other, port, unix, pid, *only = ctx.input.read_text().split()
    victim = int(pid)
    mine = ctx.output("mine.txt", media_type="text/plain")
    mine.write_text("what it may write")
    mine.chmod(0o600)  # allowed, and without effect
    tcp, udp, local = (socket.AF_INET, socket.SOCK_STREAM), (socket.AF_INET, socket.SOCK_DGRAM), socket.AF_UNIX
    tries: dict[str, Callable[[], Any]] = {
        "read the record": lambda: (folder / "job.json").read_bytes(),
        "write the record": lambda: (folder / "job.json").open("ab").close(),
        "cut the record": lambda: os.truncate(folder / "job.json", 0),
        "date the record": lambda: os.utime(folder / "job.json", (0, 0)),
        "delete the record": lambda: (folder / "job.json").unlink(),
        "rename the record": lambda: (folder / "job.json").rename(mine.with_name("record")),
        "link the record": lambda: mine.with_name("record").hardlink_to(folder / "job.json"),
        "follow a link to the record": lambda: _through_a_link(mine.with_name("link"), folder / "job.json"),
        "write its input": lambda: ctx.input.open("ab").close(),
        "read another job": lambda: (others / other / "source").read_bytes(),
        "read another record": lambda: (others / other / "job.json").read_bytes(),
        "list the jobs": lambda: list(others.iterdir()),
        "list the data": lambda: list(data.iterdir()),
        "ring the bell": lambda: (data / "engine" / "bell").open("ab").close(),
        "read the passwords": lambda: Path("/etc/passwd").read_bytes(),
        "read the environment": lambda: Path(f"/proc/{victim}/environ").read_bytes(),
        "read the memory": lambda: Path(f"/proc/{victim}/mem").open("rb").close(),
        "write to the memory": lambda: Path(f"/proc/{victim}/mem").open("r+b").close(),
        "write beside": lambda: (folder / "new").write_bytes(b"x"),
        "write to the temporary folder": lambda: _touch(Path("/tmp/escaped")),
        "write to the shared memory": lambda: _touch(Path("/dev/shm/escaped")),
        "make a device": lambda: _device(mine.parent),
        "connect": lambda: _connect(int(port)),
        "bind": lambda: _socket(*tcp, lambda made: made.bind(("127.0.0.1", 0))),
        "send a datagram": lambda: _socket(*udp, lambda made: made.sendto(b"x", ("127.0.0.1", int(port)))),
        "connect to a Unix socket": lambda: _socket(local, socket.SOCK_STREAM, lambda made: made.connect(unix)),
        "send to a Unix socket": lambda: _pair_of_datagrams(unix),
        "open a netlink socket": lambda: _socket(socket.AF_NETLINK, socket.SOCK_RAW, lambda made: made.bind((0, 0))),
        "fork": _fork,
        "start a program": lambda: subprocess.run(["true"], check=True),
        "become a program": lambda: os.execv("/usr/bin/true", ["true"]),
        "kill the supervisor": lambda: os.kill(victim, signal.SIGTERM),
        "kill everybody": lambda: os.kill(-1, signal.SIGTERM),
        "have the kernel kill": lambda: _have_the_kernel_send(victim),
        "limit the supervisor": lambda: resource.prlimit(victim, resource.RLIMIT_NOFILE, (3, 3)),
        "limit the supervisor softly": lambda: resource.prlimit(
            victim, resource.RLIMIT_CORE, (0, resource.RLIM_INFINITY)
        ),
        "raise its own limit": lambda: _raise_a_limit(),
        "slow the supervisor": lambda: os.setpriority(os.PRIO_PROCESS, victim, 19),
        "pin the supervisor": lambda: os.sched_setaffinity(victim, {0}),
        "outlive its parent": _outlive,
        "become root of elsewhere": lambda: os.chroot(mine.parent),
        "ptrace": lambda: _call("ptrace", victim),
        **{name: lambda name=name: _call(name) for name in _CALLS if name != "ptrace"},
    }
    if only:  # outside of the sandbox, what does no harm there
        tries = {name: tries[name] for name in _HARMLESS}
    told = {name: _told(attempt) for name, attempt in tries.items()}
    if only:
        return {"tries": told}
    for path in (folder / "job.json", others / other / "source", ctx.input):
        path.chmod(0)  # as above
    return {"tries": told, "capabilities": _capabilities()}


def _through_a_link(link: Path, target: Path) -> None:
    link.symlink_to(target)
    link.read_bytes()


def _raise_a_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    try:
        resource.setrlimit(resource.RLIMIT_AS, (2 * soft, 2 * hard))
    except ValueError:  # how Python tells EPERM here
        raise PermissionError from None


def _capabilities() -> int:
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    _LIBC.capget(header, data)
    return data[0] | data[3] << 32
