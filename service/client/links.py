"""Signed links: asked for with a token, used by whoever has them without one."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from service.client.operations import job_path
from service.client.wire import Operation

if TYPE_CHECKING:
    from service.client.document import Artifact, JobView
    from service.client.operations import Api


@dataclass(frozen=True)
class Link:
    """A link that the service has signed.

    Attributes:
        url: whole, and good until ``expires_at``; whoever has it needs nothing else.
        method: how it is used: ``GET`` for a download, ``POST`` or ``PUT`` for one upload with the file as the body.
        expires_at: UTC.
        max_size: bytes of an upload; None for a download.

    """

    url: str
    method: str
    expires_at: datetime
    max_size: int | None = None


def download_link(api: Api, job: JobView, artifact: Artifact | None, expires_in: int) -> Operation[Link]:
    """Ask for a link to an artifact, or to the file as it was uploaded."""
    path = job_path(job.id)
    path += f"/artifacts/{quote(artifact.step, safe='')}/{quote(artifact.name, safe='')}" if artifact else "/source"
    return _link(api, {"download": path, "expires_in": expires_in})


def upload_link(
    api: Api, *, max_size: int | None, pipeline: str | None, filename: str | None, expires_in: int
) -> Operation[Link]:
    """Ask for a link for one upload."""
    options = {"max_size": max_size, "pipeline": pipeline, "filename": filename}
    given = {name: value for name, value in options.items() if value is not None}
    return _link(api, {"upload": given, "expires_in": expires_in})


def _link(api: Api, asked: dict[str, Any]) -> Operation[Link]:
    response = yield from api.send(lambda: nullcontext(api.request("POST", "/v1/links", json=asked)))
    made = response.json()
    return Link(
        url=str(httpx.URL(api.url).join(made["url"])),  # a path, where the service was not told its address
        method=made["method"],
        expires_at=datetime.fromisoformat(made["expires_at"]),
        max_size=made.get("max_size"),
    )
