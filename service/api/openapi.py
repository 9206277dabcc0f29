"""The OpenAPI 3.1 document, true to what is served: bodies and headers that the framework cannot see are written down here."""

from __future__ import annotations

from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi
from pydantic.json_schema import models_json_schema

from service.api.schemas import DOCUMENTED

_PROBLEM: Final = "application/problem+json"
_TEXTS: Final = {
    400: "The request cannot be understood.",
    401: "The token is missing, unknown, expired or revoked.",
    403: "The token does not allow this.",
    404: "There is no such thing.",
    408: "The body stopped arriving, or was too slow.",
    409: "The job's status, or another request with the same Idempotency-Key, forbids it.",
    410: "The job has expired.",
    412: "The job has changed since the version named by If-Match.",
    413: "The file is too large.",
    415: "This kind of body is not taken.",
    416: "The range begins after the end of the file.",
    429: "A quota or rate of the client is used up; Retry-After says for how long.",
    422: "A value is out of its range, or the file is empty.",
    503: "Try again later.",
    507: "There is no space left.",
}
_TEXT: Final = {"schema": {"type": "string"}}
_REQUEST_ID: Final = {"X-Request-ID": {**_TEXT, "description": "Names this request in the logs."}}
_RETRY_AFTER: Final = {"Retry-After": {"schema": {"type": "integer"}, "description": "Seconds; absent when done."}}


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def problems(*statuses: int) -> dict[int | str, Any]:
    """Return responses that are problem documents."""
    content = {_PROBLEM: {"schema": _ref("ProblemDocument")}}
    return {status: {"description": _TEXTS[status], "headers": _REQUEST_ID, "content": content} for status in statuses}


def json_response(
    model: str, description: str = "As it is now.", headers: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return a JSON response of a documented model."""
    content = {"application/json": {"schema": _ref(model)}}
    return {"description": description, "headers": {**_REQUEST_ID, **(headers or {})}, "content": content}


def job_response() -> dict[str, Any]:
    """Return the response that shows a job."""
    return json_response("JobView", headers={"ETag": _TEXT, **_RETRY_AFTER})


def page_response() -> dict[str, Any]:
    """Return the response that shows a page of jobs."""
    return json_response("JobPage", headers={"Link": {**_TEXT, "description": 'RFC 8288, rel="next".'}})


def accepted() -> dict[str, Any]:
    """Return the 202: the job, and where to look at it."""
    headers = {"Location": {**_TEXT, "description": "The job's URL."}, "Content-Location": _TEXT, **_RETRY_AFTER}
    follow = {"getJob": {"operationId": "getJob", "parameters": {"job_id": "$response.body#/id"}}}
    return {**json_response("JobView", "Accepted: safe on disk.", headers), "links": follow}


def events_response() -> dict[str, Any]:
    """Return the response that is a stream of server-sent events."""
    headers = {"Preference-Applied": {**_TEXT, "description": "`wait=N`: it ends after so many seconds."}}
    content: dict[str, Any] = {"text/event-stream": {}}
    return {"description": "Events, as they happen.", "headers": {**_REQUEST_ID, **headers}, "content": content}


def bytes_response(description: str) -> dict[str, Any]:
    """Return a response of bytes under a type of their own."""
    headers = {"ETag": _TEXT, "Repr-Digest": _TEXT, "Accept-Ranges": _TEXT, "Content-Disposition": _TEXT}
    return {"description": description, "headers": {**_REQUEST_ID, **headers}, "content": {"*/*": {}}}


#: The catalogue of this deployment, filled in when the document is made.
_PIPELINE: Final[dict[str, Any]] = {"type": "string", "description": "Name of a pipeline; see /v1/pipelines."}
_LABEL_KEY: Final = "[A-Za-z0-9][A-Za-z0-9._-]{0,62}"
_LABEL: Final = {"type": "string", "maxLength": 256, "pattern": r"^[^\x00-\x1f\x7f-\x9f]*$"}
_SHA256: Final = {"type": "string", "pattern": r"^\s*([0-9A-Fa-f]{64}|[A-Za-z0-9+/]{43}=)\s*$"}
_MEMBER: Final = "[a-z0-9-]+=:[A-Za-z0-9+/]*={0,2}:"
_DIGEST: Final = {"type": "string", "pattern": rf"^({_MEMBER}(, ?{_MEMBER})*)?$"}
_KEY: Final = {"type": "string", "pattern": r'^([A-Za-z0-9_.:-]{1,255}|"[ !#-\[\]-~]{1,255}")$'}
_CALLBACK: Final = {"type": "string", "format": "uri", "maxLength": 2000}
_NOTIFIED: Final = {"type": "string", "format": "email"}
_NOTIFIED_ON: Final = {"type": "string", "enum": ["failure", "success", "both"]}
_BYTES: Final[dict[str, Any]] = {"type": "string", "format": "binary", "minLength": 1}
_RAW: Final[dict[str, Any]] = {"application/octet-stream": {"schema": _BYTES}}
_FIELDS: Final[dict[str, Any]] = {
    "file": {**_BYTES, "description": "The file. Exactly one."},
    "pipeline": _PIPELINE,
    "sha256": {**_SHA256, "description": "SHA-256 the file must have: hexadecimal or base64."},
    "notify_email": {**_NOTIFIED, "description": "Is told of the job's end by e-mail."},
    "notify_on": {**_NOTIFIED_ON, "description": "Which ends that is for: `both` unless told."},
    "callback_url": {**_CALLBACK, "description": "Is told of the job's end by a signed webhook."},
}
UPLOAD_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "A form with the field `file`, or the file itself under its own type. `labels.<key>` fields label the job.",
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": _FIELDS,
                "patternProperties": {rf"^labels\.{_LABEL_KEY}$": _LABEL},
                "additionalProperties": False,
            }
        },
        **_RAW,
    },
}
_SEGMENT: Final = r"[^/?#\x00-\x20\x7f]+"  # not \s, of which JSON Schema and Python have different sets
#: A download as a job document names it, and the name of a file that can be one segment of a path.
LINK_TARGET: Final = rf"^(/[A-Za-z0-9._~-]+)*/v1/jobs/{_SEGMENT}/(source|artifacts/{_SEGMENT}/{_SEGMENT})$"
LINK_NAME: Final = r"^[^/\\.\x00-\x1f\x7f][^/\\\x00-\x1f\x7f]*$"
_EXPIRES: Final = {"type": "integer", "minimum": 1, "maximum": 604800, "default": 900, "description": "Seconds."}
_LINKED_UPLOAD: Final[dict[str, Any]] = {
    "type": "object",
    "properties": {
        "max_size": {
            "type": "integer",
            "minimum": 1,
            "description": "Bytes; INTAKE_MAX_UPLOAD at most, and without it.",
        },
        "pipeline": _PIPELINE,
        "filename": {
            "type": "string",
            "pattern": LINK_NAME,
            "maxLength": 255,
            "description": "Its name: the link is for PUT then, for POST without it.",
        },
    },
    "additionalProperties": False,
}
LINK_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "Either a download, named as the job does (`links.source`, or the `href` of an artifact), or an upload.",
    "content": {
        "application/json": {
            "schema": {
                "oneOf": [
                    {
                        "type": "object",
                        "required": ["download"],
                        "properties": {
                            "download": {"type": "string", "pattern": LINK_TARGET, "maxLength": 2000},
                            "expires_in": _EXPIRES,
                        },
                        "additionalProperties": False,
                    },
                    {
                        "type": "object",
                        "required": ["upload"],
                        "properties": {"upload": _LINKED_UPLOAD, "expires_in": _EXPIRES},
                        "additionalProperties": False,
                    },
                ]
            }
        }
    },
}
PUT_BODY: Final[dict[str, Any]] = {
    "required": True,
    "description": "The file itself, under its own type.",
    "content": _RAW,
}


#: None of them is needed as long as the service has no token.
_SECURITY: Final[dict[str, Any]] = {
    "token": {
        "type": "http",
        "scheme": "bearer",
        "description": "A token of `intake tokens create`; `jobs:write`, `jobs:read`, `jobs:delete` and `admin` are its scopes. "
        "Nothing is asked for while the service has no token.",
    },
    "key": {
        "type": "apiKey",
        "in": "header",
        "name": "X-API-Key",
        "description": "The same token, for clients that want it so.",
    },
}


def _header(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "header", "schema": schema, "description": description}


def _query(name: str, description: str, schema: dict[str, Any]) -> dict[str, Any]:
    return {"name": name, "in": "query", "schema": schema, "description": description}


def labels_in_query(prefix: str, key: str, value: dict[str, Any], description: str) -> dict[str, Any]:
    """Return the parameter that stands for any number of ``<prefix>.<key>=<value>``: an object that is spread over the query."""
    schema = {"type": "object", "patternProperties": {rf"^{prefix}\.{key}$": value}, "additionalProperties": False}
    return {**_query(prefix, description, schema), "style": "form", "explode": True}


PUT_PARAMETERS: Final[list[dict[str, Any]]] = [
    _query("pipeline", "As the form field.", _PIPELINE),
    _query("sha256", "As the form field.", _SHA256),
    _query("callback_url", "As the form field.", _CALLBACK),
    _query("notify_email", "As the form field.", _NOTIFIED),
    _query("notify_on", "As the form field.", _NOTIFIED_ON),
    labels_in_query("labels", _LABEL_KEY, _LABEL, "`labels.<key>=<value>`, as the form fields."),
    _header("Idempotency-Key", "Makes a repeated upload return the first one's job.", _KEY),
    _header("Content-Digest", "RFC 9530; of the body as it is sent. SHA-256 and SHA-512 are verified.", _DIGEST),
    _header("Repr-Digest", "RFC 9530; the same, as nothing is encoded here.", _DIGEST),
]
UPLOAD_PARAMETERS: Final[list[dict[str, Any]]] = [
    _query("filename", "Name of a raw body.", {"type": "string"}),
    *PUT_PARAMETERS,
]


def install(app: FastAPI) -> None:
    """Replace the application's document by ours."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _without(paths: dict[str, Any], field: str) -> None:
    """Leave out a field of uploads that this deployment does not take."""
    for operation in (one for path in paths.values() for one in path.values()):
        if "parameters" in operation:
            operation["parameters"] = [one for one in operation["parameters"] if one["name"] != field]
        form = operation.get("requestBody", {}).get("content", {}).get("multipart/form-data", {}).get("schema", {})
        if field in form.get("properties", {}):
            kept = {name: one for name, one in form["properties"].items() if name != field}
            operation["requestBody"] = _replaced(operation["requestBody"], form["properties"], kept)


def _document(app: FastAPI) -> dict[str, Any]:
    made = get_openapi(
        title=app.title,
        version=app.version,
        summary=app.summary,
        routes=app.routes,
        servers=[{"url": app.root_path or "/"}],
    )
    _, definitions = models_json_schema(
        [(model, "serialization") for model in DOCUMENTED], ref_template="#/components/schemas/{model}"
    )
    made["components"] = {"schemas": definitions["$defs"], "securitySchemes": _SECURITY}
    refusals = problems(401, 403, 429)
    for status in (401, 403):
        refusals[status]["headers"] = {
            **_REQUEST_ID,
            "WWW-Authenticate": {**_TEXT, "description": "RFC 6750, section 3."},
        }
    if not app.state.intake.services.settings.callback_hosts:
        _without(made["paths"], "callback_url")
    if not app.state.intake.services.settings.notify_recipients:
        _without(made["paths"], "notify_email")
        _without(made["paths"], "notify_on")
    names = sorted(app.state.intake.services.catalogue.pipelines)
    made["paths"] = _replaced(made["paths"], _PIPELINE, {**_PIPELINE, "enum": names})
    for name, path in made["paths"].items():
        for operation in path.values():
            if name.startswith("/v1/") or name == "/metrics":
                operation["security"] = [{scheme: []} for scheme in _SECURITY]
                operation["responses"] |= {str(status): one for status, one in refusals.items()}
            for parameter in operation.get("parameters", ()):
                parameter["schema"] = _present(parameter["schema"])
            responses = operation["responses"]
            for content in responses.get("200", {}).get("content", {}).values():
                content.pop("itemSchema", None)  # of OpenAPI 3.2, written by the framework for streams
            if "HTTPValidationError" in str(responses.get("422")):
                responses["422"] = problems(422)[422]
            responses["default"] = {
                "description": "Any other problem.",
                "content": {_PROBLEM: {"schema": _ref("ProblemDocument")}},
            }
    return made


def _present(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema of a parameter that is there: none is null on its way over HTTP."""
    *others, last = schema.get("anyOf", [{}])
    if last != {"type": "null"} or len(others) != 1:
        return schema
    return {**others[0], **{name: value for name, value in schema.items() if name != "anyOf"}}


def _replaced(value: Any, old: dict[str, Any], new: dict[str, Any]) -> Any:
    if value == old:
        return new
    if isinstance(value, dict):
        return {name: _replaced(one, old, new) for name, one in value.items()}
    return [_replaced(one, old, new) for one in value] if isinstance(value, list) else value
