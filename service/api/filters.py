"""Which jobs are meant: the filters of lists and of the stream of all jobs, one dependency for both."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from fastapi import Depends, Query, Request
from pydantic import AfterValidator, BeforeValidator, WithJsonSchema

from service.api.openapi import labels_in_query
from service.errors import Invalid
from service.jobs.model import JobStatus

_MOMENT: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)", re.ASCII)
_PARAMETERS: Final = frozenset({"status", "type", "pipeline", "sha256", "created_after", "created_before"})
#: What an operation with these filters has in its description.
LABELS: Final[dict[str, Any]] = {
    "parameters": [
        labels_in_query("label", ".+", {"type": "string"}, "`label.<key>=<value>` shows only jobs with this label.")
    ]
}


def _rfc3339(value: object) -> object:
    if isinstance(value, str) and not _MOMENT.fullmatch(value):
        raise ValueError("is not a moment of RFC 3339; write it like 2026-11-22T10:00:00Z")
    return value


def _utc(moment: datetime) -> datetime:
    try:
        return moment.astimezone(UTC)
    except OverflowError:  # within a day of the calendar's ends, where no job is
        return moment.replace(tzinfo=UTC)


_STATUS: Final = "|".join(JobStatus)
StatusText = Annotated[
    str,
    WithJsonSchema({"type": "string", "pattern": f"^(({_STATUS})(,({_STATUS}))*)?$", "examples": ["queued,running"]}),
]
Moment = Annotated[datetime, BeforeValidator(_rfc3339), AfterValidator(_utc)]


def _filters(
    request: Request,
    status: Annotated[
        list[StatusText] | None, Query(description="One or more statuses, repeated or separated by commas.")
    ] = None,
    type: Annotated[str | None, Query(description="Detected media type.")] = None,  # noqa: A002 - the API's word
    pipeline: Annotated[str | None, Query()] = None,
    sha256: Annotated[str | None, Query(pattern="^[0-9a-f]{64}$")] = None,
    created_after: Annotated[Moment | None, Query(description="RFC 3339, this moment included.")] = None,
    created_before: Annotated[Moment | None, Query(description="RFC 3339, this moment excluded.")] = None,
) -> dict[str, Any]:
    labels = {}
    for name, value in request.query_params.multi_items():
        if _is_label(name):
            labels[name.removeprefix("label.")] = value
    return {
        "statuses": _statuses(status or []),
        "media_type": type,
        "pipeline": pipeline,
        "sha256": sha256,
        "labels": labels,
        "created_after": created_after,
        "created_before": created_before,
    }


#: The members of a JobQuery that the parameters of a request make.
Filters = Annotated[dict[str, Any], Depends(_filters)]


def require_known(request: Request, *others: str) -> None:
    """Raise Invalid for a parameter that is neither a filter nor one of ``others``: a mistyped filter would show every job."""
    for name in request.query_params:
        if not _is_label(name) and name not in _PARAMETERS and name not in others:
            hint = f"See GET {request.url.path} in /docs."
            raise Invalid(f"There is no parameter {name[:64]!r}.", hint=hint, field=name[:64])


def _is_label(name: str) -> bool:
    return name.startswith("label.") and len(name) > len("label.")


def _statuses(values: list[str]) -> frozenset[JobStatus]:
    words = [word.strip() for value in values for word in value.split(",") if word.strip()]
    known = {str(status) for status in JobStatus}
    if unknown := next((word for word in words if word not in known), None):
        raise Invalid(
            f"There is no status {unknown[:64]!r}.", hint=f"The statuses are {', '.join(JobStatus)}.", field="status"
        )
    return frozenset(JobStatus(word) for word in words)
