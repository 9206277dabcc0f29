"""What tests of the API say to it and expect of every answer."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
from typing import TYPE_CHECKING, Any, Final, Protocol

from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Mapping

    import httpx

    from service.testing import Server

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Document = dict[str, Any]

#: Codes that are finer than the type of their problem, which ``/problems/{type}`` explains.
FINER: Final = {
    "artifact-not-found": "not-found",
    "bytes-lost": "not-found",
    "callback-refused": "validation-error",
    "callback-secret-missing": "validation-error",
    "content-encoding-not-supported": "unsupported-media-type",
    "credentials-malformed": "malformed-request",
    "cross-origin-refused": "forbidden",
    "cursor-invalid": "malformed-request",
    "digest-invalid": "malformed-request",
    "email-refused": "validation-error",
    "idempotency-key-invalid": "malformed-request",
    "insufficient-scope": "forbidden",
    "job-already-done": "conflict",
    "job-not-done": "conflict",
    "job-not-failed": "conflict",
    "job-not-found": "not-found",
    "link-expired": "forbidden",
    "link-invalid": "forbidden",
    "link-used": "forbidden",
    "nothing-to-replay": "conflict",
    "quota-active-exceeded": "too-many-requests",
    "quota-bytes-exceeded": "too-many-requests",
    "quota-jobs-exceeded": "too-many-requests",
    "rate-limited": "too-many-requests",
    "storage-unavailable": "unavailable",
    "token-invalid": "unauthorized",
    "webhook-refused": "validation-error",
    "wish-by-link": "validation-error",
}


class Answer(Protocol):
    """What httpx, requests and the tests' own clients have in common."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def content(self) -> bytes: ...


def problem(answer: Answer, status: int, code: str) -> Document:
    """Check that the answer is the problem document of this status and code, with nothing in it that it must not have."""
    text = answer.content.decode()
    assert answer.status_code == status, text
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert text.endswith("}\n")
    assert "Traceback" not in text
    assert answer.headers["Cache-Control"] == "no-store"
    found: Document = json.loads(text)
    assert found["code"] == code, text
    assert found["status"] == status
    assert found["type"] == f"/problems/{FINER.get(code, code)}"
    assert found["title"]
    assert found["detail"].endswith((".", "!", "?")) or code == "validation-error", found["detail"]
    assert found["request_id"] == answer.headers["X-Request-ID"]
    if _UUID.fullmatch(found["request_id"]):
        assert found["instance"] == f"urn:uuid:{found['request_id']}"
    return found


def accepted(answer: Answer, *, replayed: bool = False) -> Document:
    """Check that the answer is a whole 202 and return the job."""
    text = answer.content.decode()
    assert answer.status_code == 202, text
    headers = answer.headers
    assert headers["Content-Type"] == "application/json"
    assert text.endswith("}\n")
    job: Document = json.loads(text)
    assert headers["Location"] == headers["Content-Location"] == job["links"]["self"]
    assert headers["X-Request-ID"]
    assert "ETag" not in headers  # it would be the list's, RFC 9110, section 8.8
    assert "Repr-Digest" not in headers  # it would be this document's, RFC 9530, section 3
    assert ("Idempotency-Replayed" in headers) == replayed
    if not job["done"]:
        assert 1 <= int(headers["Retry-After"]) <= 30
    if not replayed:
        assert (job["status"], job["version"], job["attempt"], job["done"]) == ("queued", 1, 0, False)
        assert headers["Retry-After"] == "1"
    return job


def submit(
    http: httpx.Client,
    content: bytes = b"one\n",
    *,
    name: str = "a.txt",
    pipeline: str = "checksum",
    headers: Mapping[str, str] | None = None,
    **fields: str,
) -> Document:
    """Upload bytes as a raw body and return the job; ``fields`` are labels."""
    query = {"filename": name, "pipeline": pipeline} | {f"labels.{key}": value for key, value in fields.items()}
    return accepted(http.post("/v1/jobs", content=content, params=query, headers=headers))


def look(http: httpx.Client, job: Document) -> Document:
    """Return the job as it is now."""
    answer = http.get(job["links"]["self"])
    assert answer.status_code == 200, answer.text
    found: Document = answer.json()
    return found


def finished(http: httpx.Client, job: Document, status: str = "succeeded") -> Document:
    """Wait until the job is done and return it; it must have ended with this status."""
    done = wait_until(lambda: (now := look(http, job))["done"] and now, what=f"job {job['id']} to end")
    assert done["status"] == status, done
    return done


def reached(http: httpx.Client, job: Document, status: str) -> Document:
    """Wait until the job has this status and return it."""
    return wait_until(lambda: (now := look(http, job))["status"] == status and now, what=f"job to be {status}")


def holding(http: httpx.Client, content: bytes = b"one\n", **fields: str) -> Document:
    """Upload a file whose processing waits for ``go_on`` or a cancel, and return its job once it does."""
    job = submit(http, content, pipeline="hold", **fields)
    return wait_until(lambda: (now := look(http, job))["steps"][0]["status"] == "running" and now, what="job to hold")


def go_on(server: Server, job: Document) -> None:
    """Give the signal that the controlled processors wait for."""
    os.utime(server.job_dir(job["id"]) / "source", (1, 1))


def touch(server: Server, job: Document) -> None:
    """Have ``test.hold`` report progress."""
    os.utime(server.job_dir(job["id"]) / "source")


def sha256(content: bytes) -> str:
    """Return the digest as the job document shows it."""
    return hashlib.sha256(content).hexdigest()


def digest(content: bytes, algorithm: str = "sha-256") -> str:
    """Return a digest field's member (RFC 9530)."""
    raw = hashlib.new(algorithm.replace("-", ""), content).digest()
    return f"{algorithm}=:{base64.b64encode(raw).decode()}:"
