"""``python -m bench [SUBJECT…]``: run subjects and print what they found. ``make bench`` sets up what they need."""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import import_module
from pathlib import Path

from bench.report import Bench, plot, save
from bench.servers import Missing

#: Name of each subject: where it is, and what it is about.
SUBJECTS = {
    "big": ("uploads", "P1, P2: CPU and wall time of a 1 GiB upload"),
    "small": ("uploads", "P3: small uploads a second"),
    "latency": ("jobs", "P4: latency of the 202 while all slots are busy"),
    "jobs": ("jobs", "P5: jobs a second, from upload to succeeded"),
    "previews": ("images", "P6: CPU seconds of a photo's previews"),
    "polls": ("growth", "P7: status polls and lists over few and over many jobs"),
    "memory": ("uploads", "P8: memory of a big upload and of many slow ones"),
    "start": ("growth", "P9: start, and recovery with many pending jobs"),
    "growth": ("growth", "P10: jobs a second over few and over many finished jobs, with one slot and two"),
    "gc": ("growth", "P11: deleting expired jobs"),
}


def main() -> int:
    """Run what was asked for; 1 when something was left out or a target was not met."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument(
        "subjects", nargs="*", metavar="SUBJECT", help=f"one or more of {', '.join(SUBJECTS)}; all unless told"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of everybody (default 5)")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes, to see that it works; the figures mean nothing"
    )
    parser.add_argument(
        "--folder", type=Path, help="where to work; its file system is what is measured (default: temporary)"
    )
    parser.add_argument(
        "--results", type=Path, default=Path(__file__).parent / "results", help="where JSON and plots go"
    )
    options = parser.parse_args()
    names = options.subjects or list(SUBJECTS)
    if unknown := set(names) - set(SUBJECTS):
        parser.error(f"there is no subject {', '.join(sorted(unknown))}; there are {', '.join(SUBJECTS)}")
    missed = False
    for name in names:
        module = import_module(f"bench.{SUBJECTS[name][0]}")
        with tempfile.TemporaryDirectory(prefix="bench-", dir=options.folder) as folder:
            try:
                result = getattr(module, name)(
                    Bench(Path(folder), 1 if options.quick else options.rounds, options.quick)
                )
            except Missing as missing:
                sys.stdout.write(f"{name}: left out: {missing}\n")
                missed = True
                continue
        sys.stdout.write(f"\n{result.table()}\n")
        sys.stdout.flush()
        if not options.quick:
            save(options.results, name, result)
            plot(options.results, name, result)
        missed |= not all(each["met"] for each in result.ratios)
    return int(missed)


if __name__ == "__main__":
    raise SystemExit(main())
