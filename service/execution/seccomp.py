"""A seccomp filter for an attempt's process: the system calls that no file needs, and that a taken-over process would want.

A list of what is denied, so that a library which makes a new harmless call goes on working. What Landlock does not cover is
here: sockets, signals and limits of other processes, and the mode, owner and times of files. See seccomp(2) for the format.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Final

from service.kernel import call

_PR_GET_SECCOMP: Final = 21
_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2
_ALLOW: Final = 0x7FFF0000
_ERRNO: Final = 0x00050000

#: By machine: its AUDIT_ARCH value, and which column of the tables below holds its numbers.
_MACHINES: Final = {"x86_64": (0xC000003E, 0), "aarch64": (0xC00000B7, 1)}
_X32: Final = 0x40000000  # a call of the x32 ABI on x86-64 has this bit, and other numbers

# Number on x86-64 and on arm64; None where a machine has no such call. From the kernel's unistd.h of either.
_Calls = Mapping[str, tuple[int | None, int | None]]

#: Answered with EPERM.
_DENIED: Final[_Calls] = {
    # other programs
    "fork": (57, None), "vfork": (58, None), "execve": (59, 221), "execveat": (322, 281),
    # sockets: what is open stays, nothing new is connected or listened to
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "listen": (50, 201), "accept": (43, 202),
    "accept4": (288, 242),
    # other processes
    "ptrace": (101, 117), "process_vm_readv": (310, 270), "process_vm_writev": (311, 271), "kcmp": (312, 272),
    "process_madvise": (440, 440), "process_mrelease": (448, 448), "pidfd_open": (434, 434),
    "pidfd_getfd": (438, 438), "pidfd_send_signal": (424, 424), "rt_sigqueueinfo": (129, 138),
    "rt_tgsigqueueinfo": (297, 240), "setpriority": (141, 140), "ioprio_set": (251, 30), "migrate_pages": (256, 238),
    "move_pages": (279, 239),
    # memory that is shared with others, or counted by no limit
    "shmget": (29, 194), "shmat": (30, 196), "shmctl": (31, 195), "msgget": (68, 186), "msgsnd": (69, 189),
    "msgrcv": (70, 188), "msgctl": (71, 187), "semget": (64, 190), "semop": (65, 193), "semtimedop": (220, 192),
    "semctl": (66, 191), "mq_open": (240, 180), "mq_unlink": (241, 181), "memfd_create": (319, 279),
    "memfd_secret": (447, 447),
    # large and young parts of the kernel
    "io_uring_setup": (425, 425), "io_uring_enter": (426, 426), "io_uring_register": (427, 427), "bpf": (321, 280),
    "perf_event_open": (298, 241), "userfaultfd": (323, 282), "keyctl": (250, 219), "add_key": (248, 217),
    "request_key": (249, 218), "fanotify_init": (300, 262), "inotify_init": (253, None), "inotify_init1": (294, 26),
    "lookup_dcookie": (212, 18), "modify_ldt": (154, None), "uselib": (134, None), "personality": (135, 92),
    # namespaces, mounts and the machine itself
    "unshare": (272, 97), "setns": (308, 268), "mount": (165, 40), "umount2": (166, 39), "mount_setattr": (442, 442),
    "move_mount": (429, 429), "open_tree": (428, 428), "open_tree_attr": (467, 467), "fsopen": (430, 430),
    "fsconfig": (431, 431), "fsmount": (432, 432), "fspick": (433, 433), "pivot_root": (155, 41), "chroot": (161, 51),
    "name_to_handle_at": (303, 264), "open_by_handle_at": (304, 265), "swapon": (167, 224), "swapoff": (168, 225),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "acct": (163, 89), "quotactl": (179, 60),
    "quotactl_fd": (443, 443), "syslog": (103, 116), "settimeofday": (164, 170), "clock_settime": (227, 112),
    "adjtimex": (159, 171), "clock_adjtime": (305, 266), "sethostname": (170, 161), "setdomainname": (171, 162),
    "iopl": (172, None), "ioperm": (173, None), "vhangup": (153, 58),
    # times of files; not to be ignored, as ``touch`` takes their success for that of a file which is there
    "utime": (132, None), "utimes": (235, None), "futimesat": (261, None), "utimensat": (280, 88),
    # cuts a file by its name, which Landlock knows from Linux 6.2 on
    "truncate": (76, 45),
}  # fmt: skip

#: Answered as if done. No Landlock covers them, and mode and owner of an artifact mean nothing; but ``shutil.copy`` and the
#: unpacking of archives call them, and would fail for no good reason.
_IGNORED: Final[_Calls] = {
    "chmod": (90, None), "fchmod": (91, 52), "fchmodat": (268, 53), "fchmodat2": (452, 452), "chown": (92, None),
    "fchown": (93, 55), "lchown": (94, None), "fchownat": (260, 54), "setxattr": (188, 5), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "setxattrat": (463, 463), "removexattr": (197, 14), "lremovexattr": (198, 15),
    "fremovexattr": (199, 16), "removexattrat": (466, 466), "file_setattr": (469, 469),
}  # fmt: skip

#: Answered with ENOSYS: the C library then calls ``clone``, whose flags can be looked at.
_ABSENT: Final[_Calls] = {"clone3": (435, 435)}

#: Allowed on this process alone: their first argument is its pid, or 0 where that means the caller.
_ON_ITSELF: Final[_Calls] = {
    "kill": (62, 129), "tkill": (200, 130), "tgkill": (234, 131), "prlimit64": (302, 261),
    "sched_setaffinity": (203, 122), "sched_setscheduler": (144, 119), "sched_setparam": (142, 118),
    "sched_setattr": (314, 274),
}  # fmt: skip

#: Denied when their argument of this index is one of these values.
_DENIED_FOR: Final[Mapping[str, tuple[tuple[int, int], int, tuple[int, ...]]]] = {
    "fcntl": ((72, 25), 1, (8, 10, 15)),  # F_SETOWN, F_SETSIG, F_SETOWN_EX: the kernel would send others any signal
    "ioctl": ((16, 29), 1, (0x8901, 0x8902, 0x5412, 0x541C)),  # FIOSETOWN, SIOCSPGRP, TIOCSTI, TIOCLINUX
    "prctl": ((157, 167), 0, (1,)),  # PR_SET_PDEATHSIG: it dies with its parent
}
_CLONE: Final = (56, 220)
_CLONE_THREAD: Final = 0x00010000
_SOCKETPAIR: Final = (53, 199)
_SOCK_STREAM: Final = 1  # a pair of datagram sockets could send to any other by its address


def is_available() -> bool:
    """Tell whether filters can be installed here."""
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        return False
    try:
        call("prctl", _PR_GET_SECCOMP, 0, 0, 0, 0)
    except OSError:  # a kernel may be built without
        return False
    return True


def install() -> bool:
    """Filter the system calls of this thread, and of those it starts, for good; False where there is no such thing.

    Needs no_new_privs, and a process of one thread.
    """
    if not is_available():
        return False
    code = _program(platform.machine(), os.getpid())
    program = _Program(len(code), b"".join(code))
    try:
        call("prctl", _PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0)
    except OSError:
        return False
    return True


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def prepare() -> None:
    """Put together once what ``install`` needs in every process that is forked from this one."""
    _for_all(platform.machine())


def _program(machine: str, pid: int) -> list[bytes]:
    """Return the instructions: one small block per call, each of which jumps at most over itself."""
    return [*_for_all(machine), *_for_one(machine, pid), _ALLOWED]


@cache
def _for_all(machine: str) -> list[bytes]:
    arch, column = _MACHINES[machine]
    denied, ignored, absent = _give(errno.EPERM), _give(0), _give(errno.ENOSYS)
    # first the machine of the call: another one's numbers (32 bit) mean other calls
    code = [_load(4), _jump_if(arch, over=1), denied, _load(0)]
    if machine == "x86_64":
        code += [_jump_unless(_X32, over=1, test=_HAS_BITS), denied]
    for calls, verdict in ((_DENIED, denied), (_IGNORED, ignored), (_ABSENT, absent)):
        for numbers in calls.values():
            if (number := numbers[column]) is not None:
                code += [_jump_unless(number, over=1), verdict]
    for pair, index, values in _DENIED_FOR.values():
        checks = [part for value in values for part in (_jump_unless(value, over=1), denied)]
        code += _when(pair[column], index, checks)
    code += _when(_CLONE[column], 0, [_jump_if(_CLONE_THREAD, over=1, test=_HAS_BITS), denied])
    code += _when(_SOCKETPAIR[column], 1, [_AND_KIND, _jump_if(_SOCK_STREAM, over=1), denied])
    return code


def _for_one(machine: str, pid: int) -> Iterator[bytes]:
    column, denied = _MACHINES[machine][1], _give(errno.EPERM)
    for numbers in _ON_ITSELF.values():
        yield from _when(numbers[column], 0, [_jump_if(0, over=2), _jump_if(pid, over=1), denied])


_IS: Final = 0x15
_HAS_BITS: Final = 0x45
_AND_KIND: Final = struct.pack("HBBI", 0x54, 0, 0, 0xF)  # a socket's kind without its flags


def _load(offset: int) -> bytes:
    return struct.pack("HBBI", 0x20, 0, 0, offset)


def _jump_if(value: int, *, over: int, test: int = _IS) -> bytes:
    return struct.pack("HBBI", test, over, 0, value & 0xFFFFFFFF)


def _jump_unless(value: int, *, over: int, test: int = _IS) -> bytes:
    return struct.pack("HBBI", test, 0, over, value & 0xFFFFFFFF)


def _give(error: int) -> bytes:
    return struct.pack("HBBI", 0x06, 0, 0, _ERRNO | error)


_ALLOWED: Final = struct.pack("HBBI", 0x06, 0, 0, _ALLOW)


def _when(number: int | None, argument: int, checks: list[bytes]) -> list[bytes]:
    """For this call, look at the lower half of an argument, which is all that the kernel reads of these; else go on."""
    if number is None:
        return []
    block = [_load(16 + 8 * argument), *checks, _ALLOWED]
    return [_jump_unless(number, over=len(block)), *block]
