"""The numbers of system calls that attempts are denied, against the kernel's own headers."""

import platform
import re
import shutil
import subprocess

import pytest

from service.execution import seccomp
from tests.needs import need

TABLES = (seccomp._DENIED, seccomp._IGNORED, seccomp._ABSENT, seccomp._ON_ITSELF)
NUMBERS = {name: pair for table in TABLES for name, pair in table.items()}
NUMBERS |= {name: pair for name, (pair, _, _) in seccomp._DENIED_FOR.items()}
NUMBERS |= {"clone": seccomp._CLONE, "socketpair": seccomp._SOCKETPAIR}


def numbers_in(header: str) -> dict[str, int]:
    """Return the numbers that a header of the installed kernel defines."""
    gcc = shutil.which(need("gcc")) or "gcc"
    macros = subprocess.run(
        [gcc, "-E", "-dM", "-D__ARCH_WANT_NEW_STAT", "-"],
        input=f"#include <{header}>\n",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.findall(r"#define __NR(?:3264)?_(\w+) (\d+)\b", macros)
    return {name: int(number) for name, number in found}


@pytest.mark.needs("gcc")
@pytest.mark.parametrize(("column", "header"), [(0, "asm/unistd_64.h"), (1, "asm-generic/unistd.h")])
def test_the_numbers_are_those_of_the_kernel(column: int, header: str) -> None:
    if column == 0 and platform.machine() != "x86_64":
        pytest.skip("this system has other headers than those of x86-64")
    known = numbers_in(header)

    mine = {name: pair[column] for name, pair in NUMBERS.items()}
    assert {name: mine[name] for name in mine if name in known} == {name: known[name] for name in mine if name in known}
    assert len(set(mine) & set(known)) > 90
    assert {name for name in set(known) & set(mine) if mine[name] is None} == set()


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
def test_the_filter_is_one_that_the_kernel_takes(machine: str) -> None:
    """Every jump stays within the program, which ends in a verdict and is not longer than it may be."""
    code = seccomp._program(machine, 12345)

    assert len(code) < 4096
    assert code[-1] == seccomp._ALLOWED
    for place, instruction in enumerate(code):
        kind, then, otherwise = int.from_bytes(instruction[:2], "little"), instruction[2], instruction[3]
        if kind in (0x15, 0x45):
            assert place + 1 + max(then, otherwise) < len(code)
