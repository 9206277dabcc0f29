"""What comes out: figures by competitor with median and spread, ratios against targets, as a table and as JSON."""

from __future__ import annotations

import json
import platform
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from bench.measure import Samples

_PACKAGES = ("fastapi", "starlette", "uvicorn", "python-multipart", "pillow", "celery", "rq", "huey")


@dataclass
class Result:
    """What one subject has found out."""

    title: str
    figures: dict[str, dict[str, Samples]] = field(default_factory=dict)  #: by figure, then by competitor
    ratios: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def add(self, figure: str, who: str, value: float) -> None:
        """Note a figure of one round."""
        self.figures.setdefault(figure, {}).setdefault(who, Samples()).add(value)

    def of(self, figure: str, who: str) -> float:
        """Return the median of a figure."""
        return self.figures[figure][who].median

    def ratio(self, name: str, ours: float, theirs: float, *, target: tuple[Literal["<=", ">="], float]) -> None:
        """Hold a ratio against its target."""
        value = ours / theirs if theirs else float("inf")
        sign, bound = target
        met = value <= bound if sign == "<=" else value >= bound
        self.ratios.append({"ratio": name, "value": round(value, 3), "target": f"{sign} {bound:g}", "met": met})

    def bound(self, name: str, value: float, *, at_most: float) -> None:
        """Hold a figure against its limit."""
        met = value <= at_most
        self.ratios.append({"ratio": name, "value": round(value, 3), "target": f"<= {at_most:g}", "met": met})

    def table(self) -> str:
        """Return all of it as text."""
        lines = [self.title, "=" * len(self.title)]
        for figure, by in self.figures.items():
            for who, samples in by.items():
                spread = f"±{50 * samples.spread:.0f} %" if len(samples.values) > 1 else ""
                lines.append(f"  {figure:34} {who:34} {samples.median:12.3f} {spread:>8}  n={len(samples.values)}")
        lines += [
            f"  {each['ratio']:69} {each['value']:12.3f}  {each['target']:>8}  {'met' if each['met'] else 'NOT MET'}"
            for each in self.ratios
        ]
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])

    def document(self) -> dict[str, Any]:
        """Return all of it as JSON has it."""
        return {
            "title": self.title,
            "figures": {
                figure: {
                    who: {"median": each.median, "spread": round(each.spread, 3), "values": each.values}
                    for who, each in by.items()
                }
                for figure, by in self.figures.items()
            },
            "ratios": self.ratios,
            "notes": self.notes,
        }


def save(folder: Path, name: str, result: Result) -> Path:
    """Write a result with the versions it was got with, and return its path."""
    folder.mkdir(parents=True, exist_ok=True)
    about = {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "cores": _cores(),
        "versions": _versions(),
    }
    path = folder / f"{name}.json"
    path.write_text(json.dumps({**result.document(), "machine": about}, indent=1) + "\n")
    return path


def plot(folder: Path, name: str, result: Result) -> Path:
    """Draw the medians, a panel for each figure. Needs matplotlib, which `make bench` brings."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    count = len(result.figures)
    figure, axes = plt.subplots(count, 1, figsize=(9, 1.2 + 1.4 * count), squeeze=False)
    for axis, (title, by) in zip(axes[:, 0], result.figures.items(), strict=True):
        values = [each.median for each in by.values()]
        low = [each.median - min(each.values) for each in by.values()]
        high = [max(each.values) - each.median for each in by.values()]
        axis.barh(list(by), values, xerr=[low, high])
        axis.set_title(title, loc="left", fontsize=9)
        axis.invert_yaxis()
    figure.suptitle(result.title, fontsize=10)
    figure.tight_layout()
    path = folder / f"{name}.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _cores() -> int:
    import os

    return os.cpu_count() or 1


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


Subject = Callable[["Bench"], Result]


@dataclass(frozen=True)
class Bench:
    """How a run is made."""

    folder: Path  #: on the file system that is measured
    rounds: int
    quick: bool  #: small sizes, to see that everything works; its figures mean nothing
