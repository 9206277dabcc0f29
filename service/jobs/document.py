"""The document of a job as everybody sees it, links included: the same at the status URL, in lists, and in what is sent out."""

from __future__ import annotations

import json
from typing import Any, Final
from urllib.parse import quote

from service.jobs.model import Job, JobDocument, JobStatus

_DUMP: Final = (
    JobDocument.__pydantic_serializer__.to_python
)  #: of a job it takes what everybody may see, as ``document()`` does


def json_bytes(value: Any) -> bytes:
    """Return compact JSON in UTF-8 with a final newline, so that a terminal's prompt stands on its own line."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"


def job_document(job: Job, root_path: str) -> dict[str, Any]:
    """Return the document of a job as everybody sees it, with links below ``root_path``."""
    return linked(_DUMP(job, mode="json"), root_path)


def linked(document: dict[str, Any], root_path: str) -> dict[str, Any]:
    """Return the document of a job, as it was dumped, with links below ``root_path``; its members are changed on the way."""
    here = f"{root_path}/v1/jobs/{document['id']}"
    for step in document["steps"]:
        for artifact in step["artifacts"]:
            artifact["href"] = f"{here}/artifacts/{quote(step['name'])}/{quote(artifact['name'])}"
    links = {"self": here, "source": f"{here}/source"}
    if not document["done"]:
        links["cancel"] = f"{here}/cancel"
    if document["status"] in (JobStatus.FAILED, JobStatus.CANCELED):
        links["retry"] = f"{here}/retry"
    if document["error"] is not None:
        document["error"]["type"] = root_path + document["error"]["type"]
    return {**document, "links": links}
