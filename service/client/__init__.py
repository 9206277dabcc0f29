"""A client of the service, for scripts and programs; the command line uses it too.

::

    from service.client import Client

    with Client("http://127.0.0.1:8000") as client:
        job = client.submit("scan.pdf", labels={"source": "mail"}).wait(timeout=60).check()
        print(job.results["text.info"].facts)
        job.download("image.previews", "preview-256.webp", to="out/")

Uploads and downloads are streamed, whatever their size. A lost connection and an answer that asks to come back later are
retried, uploads with one Idempotency-Key, so that they make one job. ``AsyncClient`` does the same in an event loop. Every
error is a ``ClientError``; ``service.client.errors`` draws their tree.
"""

from __future__ import annotations

from service.client.aio import AsyncClient, AsyncJob
from service.client.document import Artifact, JobView, StepResult
from service.client.errors import (
    ClientError,
    Conflict,
    Corrupt,
    Expired,
    JobFailed,
    NotAllowed,
    NotFound,
    Refused,
    Unreachable,
    WaitTimeout,
)
from service.client.links import Link
from service.client.sync import Client, Job

__all__ = [
    "Artifact",
    "AsyncClient",
    "AsyncJob",
    "Client",
    "ClientError",
    "Conflict",
    "Corrupt",
    "Expired",
    "Job",
    "JobFailed",
    "JobView",
    "Link",
    "NotAllowed",
    "NotFound",
    "Refused",
    "StepResult",
    "Unreachable",
    "WaitTimeout",
]
