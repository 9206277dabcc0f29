"""Coverage counts what forked processes do, also those that may not open a file any more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from coverage import CoverageData

from tests import forked_coverage

_PROGRAM = """
import os, resource, signal, time

def in_child(how):
    os.closerange(3, 1000)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, 0))
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    if how == "leave":
        leave = 1
        os._exit(7)
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)

for how in ("leave", "terminate"):
    child = os.fork()
    if child == 0:
        in_child(how)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
_CONFIGURATION = """
[run]
branch = true
source = .
parallel = true
patch = _exit
sigterm = true
plugins = tests.forked_coverage
"""


def test_locked_in_children_report_and_end_as_they_would_without_coverage(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(_PROGRAM)
    (tmp_path / ".coveragerc").write_text(_CONFIGURATION)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("COVERAGE_")}
    environment["PYTHONPATH"] = str(Path(__file__).parents[2])
    ended = subprocess.run(
        [sys.executable, "-m", "coverage", "run", program.name],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert ended.stdout.split() == ["7", "-15"]
    assert forked_coverage.gather(tmp_path) == 2
    assert not list(tmp_path.glob(f"*{forked_coverage.MARK}*"))
    data = CoverageData(basename=str(tmp_path / ".coverage"), suffix="from-forks")
    data.read()
    lines = data.lines(str(program))
    data.close(force=True)
    assert {5, 6, 7, 8, 9, 10, 11} <= set(lines or [])
