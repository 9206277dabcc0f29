"""A job in words: the cells of its table, its timeline, and the one line that tells what has changed."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from service.cli.output import Column, age, field, format_bytes, format_seconds, moment, plain, size

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rich.console import RenderableType

    from service.cli.output import Cell

_SIGNS = {
    "succeeded": "✓",
    "failed": "✗",
    "canceled": "■",
    "skipped": "-",
    "running": "▶",
    "waiting": "·",
    "queued": "·",
}


def steps_done(job: Mapping[str, Any]) -> str:
    """Return how many steps are over, of how many, and which one runs."""
    progress = job.get("progress") or {}
    running = f" {plain(progress['step'])}" if progress.get("step") else ""
    return f"{progress.get('done', 0)}/{progress.get('total', 0)}{running}"


def took(job: Mapping[str, Any]) -> str:
    """Return the time from the first attempt's start to the end."""
    if not job.get("started_at") or not job.get("finished_at"):
        return ""
    return format_seconds((moment(job["finished_at"]) - moment(job["started_at"])).total_seconds())


def reason(job: Mapping[str, Any]) -> str:
    """Return why the job failed, with the code to search for."""
    error = job.get("error") or {}
    return plain(f"{error['detail']} [{error.get('code')}]") if error.get("detail") else ""


def _attempt(job: Mapping[str, Any]) -> str:
    waiting = f", next at {job['retry_at']}" if job.get("retry_at") else ""
    return f"{job.get('attempt')} of {job.get('max_attempts')}{waiting}"


def _labels(job: Mapping[str, Any]) -> str:
    return plain(", ".join(f"{key}={value}" for key, value in (job.get("labels") or {}).items()))


#: The columns of a list of jobs.
COLUMNS = {
    "ID": Column(field("id")),
    "Status": Column(field("status")),
    "File": Column(field("file.name"), cut=True),
    "Type": Column(field("file.media_type"), cut=True, extra=True),
    "Size": Column(size("file.size"), extra=True),
    "Steps": Column(steps_done, cut=True),
    "Age": Column(age("created_at")),
    "Took": Column(took, extra=True),
}

#: The lines about a single job.
ROWS: dict[str, Cell] = {
    "Job": field("id"),
    "Status": field("status"),
    "Error": reason,
    "Hint": field("error.hint"),
    "File": field("file.name"),
    "Size": size("file.size"),
    "Type": field("file.media_type"),
    "SHA-256": field("file.sha256"),
    "Pipeline": field("pipeline"),
    "Labels": _labels,
    "Attempt": _attempt,
    "Created": field("created_at"),
    "Finished": field("finished_at"),
    "Expires": field("expires_at"),
    "Took": took,
}


def step_line(step: Mapping[str, Any]) -> str:
    """Return what a step has to say: how far it is, how long it took, what it made, why it failed."""
    parts = []
    progress = step.get("progress") or {}
    if progress and step["status"] == "running":
        of = f" of {progress['total']:g}" if progress.get("total") else ""
        parts.append(f"{progress['done']:g}{of} {progress.get('unit') or ''}".strip())
    if step.get("duration_ms") is not None:
        parts.append(format_seconds(step["duration_ms"] / 1000))
    artifacts = step.get("artifacts") or []
    if artifacts:
        parts.append(f"{len(artifacts)} files, {format_bytes(sum(item['size'] for item in artifacts))}")
    if step.get("error"):
        parts.append(str(step["error"].get("detail", "")))
    return plain(", ".join(parts))


def timeline(job: Mapping[str, Any], width: int = 24) -> RenderableType:
    """Return the steps of a job with a bar for each, drawn to the scale of the longest: what ``jobs watch`` shows."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from service.cli.output import styled

    longest = max((step.get("duration_ms") or 0 for step in job["steps"]), default=0) or 1
    table = Table.grid(padding=(0, 1))
    for step in job["steps"]:
        status = step["status"]
        spent = step.get("duration_ms")
        bar = "━" * max(1, round(width * spent / longest)) if spent is not None else ""
        style = styled(status).style
        table.add_row(
            Text(_SIGNS.get(status, "?"), style),
            plain(step["name"]),
            Text(bar.ljust(width), style),
            Text(step_line(step)),
        )
    head = Text.assemble(plain(job["file"]["name"]), "  ", styled(job["status"]), "  ", (plain(job["id"]), "dim"))
    if why := reason(job):
        return Group(head, table, Text(why, "red"))
    return Group(head, table)


def changes(before: Mapping[str, Any] | None, now: Mapping[str, Any]) -> list[str]:
    """Return a line for each status that differs between two looks at a job, steps first."""
    old = {step["name"]: step["status"] for step in before["steps"]} if before else {}
    lines = [
        " ".join(filter(None, (plain(step["name"]), step["status"], step_line(step))))
        for step in now["steps"]
        if step["status"] != old.get(step["name"], "waiting")
    ]
    if before is None or before["status"] != now["status"]:
        lines.append(": ".join(filter(None, (f"job {plain(now['id'])} {now['status']}", reason(now)))))
    return lines
