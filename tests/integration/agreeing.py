"""Hooks of schemathesis: values that are well-formed and cannot be right are left out, or may be refused.

A digest that nobody computed, a version that the job never had, a cursor that no page gave, a key that belongs to another
upload, a field both in the query and in the form: the document allows each, and the service is right to refuse them all.
Malformed ones stay: they must be refused too, and that is what is looked at here.
"""

from __future__ import annotations

import re
import uuid
from typing import Any

import schemathesis

_DIGEST = re.compile(r"[a-z0-9-]+=:[A-Za-z0-9+/]*={0,2}:(, ?[a-z0-9-]+=:[A-Za-z0-9+/]*={0,2}:)*")
_KEY = re.compile(r'[A-Za-z0-9_.:-]{1,255}|"[ !#-\[\]-~]{1,255}"')
_SHA256 = re.compile(r"\s*([0-9A-Fa-f]{64}|[A-Za-z0-9+/]{43}=)\s*")


@schemathesis.hook
def filter_case(context: Any, case: Any) -> bool:
    """Leave out forms with a list for a text: it would be sent as texts, or as nothing."""
    body = case.body
    return not (isinstance(body, dict) and any(isinstance(value, list) for value in body.values()))


@schemathesis.hook
def before_call(context: Any, case: Any, kwargs: Any) -> None:
    """Change the request that is about to be sent; its body stays, as schemathesis could not judge it any more."""
    headers, query = case.headers or {}, case.query or {}
    for name in ("Content-Digest", "Repr-Digest"):
        if _DIGEST.fullmatch(str(headers.get(name, ""))):
            del headers[name]
    if _KEY.fullmatch(str(headers.get("Idempotency-Key", ""))):
        headers["Idempotency-Key"] = str(uuid.uuid4())
    headers.pop("If-Match", None)
    if case.path.endswith("/events"):
        headers["Prefer"] = "wait=0"  # it would not end
    headers.pop("X-API-Key", None)  # the command line gives each request a token, and two are one too many
    query.pop("cursor", None)
    if case.operation.method != "get" and _SHA256.fullmatch(str(query.get("sha256", ""))):
        del query["sha256"]
    for name in set(query) & set(case.body if isinstance(case.body, dict) else ()):
        del query[name]


@schemathesis.check
def valid_requests_are_refused_for_a_digest_alone(context: Any, response: Any, case: Any) -> None:
    """Check the one 400 that the settings let pass: that of a form's field ``sha256``."""
    if case.meta is not None and case.meta.generation.mode.is_positive and response.status_code == 400:
        assert response.json()["code"] == "digest-mismatch", response.text
