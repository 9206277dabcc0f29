"""What browsers are told by every response, and which pages may read them."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import httpx
import pytest

from service.errors import ConfigError
from service.settings import Settings
from service.testing import Server
from tests.http import NO_TLS
from tests.integration.api import accepted, finished, problem, submit

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PAGE = "https://app.example.org"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    origins = f"{PAGE}, http://localhost:5173"
    with (
        Server(tmp_path_factory.mktemp("cors"), cors_origins=origins) as server,
        httpx.Client(base_url=server.url, trust_env=False, verify=NO_TLS) as http,
    ):
        yield http


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/jobs", 200),
        ("GET", "/livez", 200),
        ("GET", "/openapi.json", 200),
        ("GET", "/docs", 200),
        ("GET", "/static-offline-docs/swagger-ui.css", 200),
        ("GET", "/nothing", 404),
        ("PATCH", "/v1/jobs", 405),
        ("GET", "/v1/jobs?limit=x", 422),
        ("POST", "/v1/jobs", 422),
    ],
)
def test_every_response_has_the_headers(http: httpx.Client, method: str, path: str, status: int):
    answer = http.request(method, path)
    assert answer.status_code == status
    assert answer.headers["X-Content-Type-Options"] == "nosniff"
    assert answer.headers["X-Frame-Options"] == "DENY"
    assert answer.headers["Referrer-Policy"] == "no-referrer"
    policy = answer.headers["Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; ")
    assert "frame-ancestors 'none'" in policy
    assert ("script-src" in policy) == (path == "/docs")


def test_a_download_keeps_its_own_policy(http: httpx.Client):
    job = finished(http, submit(http))
    answer = http.get(job["links"]["source"])
    assert answer.headers.get_list("content-security-policy") == ["sandbox; default-src 'none'"]
    assert answer.headers["X-Frame-Options"] == "DENY"


def test_all_that_the_page_loads_is_allowed_by_its_policy(http: httpx.Client):
    page = http.get("/docs").text
    loaded = re.findall(r'(?:src|href)="([^"]+)"', page)
    assert loaded
    for address in loaded:
        assert address.startswith("/"), address  # 'self'
        assert http.get(address).status_code == 200


def test_without_the_setting_no_page_may_read_anything(http: httpx.Client):
    answer = http.get("/v1/jobs", headers={"Origin": PAGE})
    asked = http.options("/v1/jobs", headers={"Origin": PAGE, "Access-Control-Request-Method": "POST"})
    for one in (answer, asked):
        assert not [name for name in one.headers if name.startswith("access-control")]


def test_a_page_of_an_allowed_origin_may_send_a_token_and_read_the_headers(shared: httpx.Client):
    asked = shared.options(
        "/v1/jobs",
        headers={
            "Origin": PAGE,
            "Access-Control-Request-Method": "POST",
            "Access-Control-Request-Headers": "authorization,idempotency-key",
        },
    )
    assert asked.status_code == 200
    assert asked.headers["Access-Control-Allow-Origin"] == PAGE
    assert "authorization" in asked.headers["Access-Control-Allow-Headers"]
    answer = shared.post("/v1/jobs", content=b"one", headers={"Origin": PAGE})
    assert answer.status_code == 202
    assert answer.headers["Access-Control-Allow-Origin"] == PAGE
    assert {"Location", "Retry-After", "ETag", "X-Request-ID"} <= set(
        answer.headers["Access-Control-Expose-Headers"].split(", ")
    )
    assert "Access-Control-Allow-Credentials" not in answer.headers
    refused = shared.get("/v1/jobs/x", headers={"Origin": PAGE})
    assert (refused.status_code, refused.headers["Access-Control-Allow-Origin"]) == (404, PAGE)


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "http://app.example.org", f"{PAGE}.evil.example", "null", f"{PAGE}:8443"]
)
def test_a_page_of_another_origin_may_not(shared: httpx.Client, origin: str):
    assert "Access-Control-Allow-Origin" not in shared.get("/v1/jobs", headers={"Origin": origin}).headers
    asked = shared.options("/v1/jobs", headers={"Origin": origin, "Access-Control-Request-Method": "POST"})
    found = problem(asked, 403, "cross-origin-refused")
    assert "INTAKE_CORS_ORIGINS" in found["hint"]
    assert "Access-Control-Allow-Origin" not in asked.headers
    assert "Origin" in asked.headers["Vary"]


def test_a_page_may_not_use_a_method_that_there_is_none_of(shared: httpx.Client):
    asked = shared.options("/v1/jobs", headers={"Origin": PAGE, "Access-Control-Request-Method": "TRACE"})
    assert "method" in problem(asked, 403, "cross-origin-refused")["detail"]


FORM = {"files": {"file": ("a.txt", b"one", "text/plain")}}


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"},
        {"Origin": "https://evil.example"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site", "Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "http://127.0.0.1"},
        {"Origin": "null"},
        {"Origin": ""},
        {"Origin": f"{PAGE}, https://evil.example"},
        [("Origin", PAGE), ("Origin", "https://evil.example")],
    ],
)
def test_without_a_token_a_foreign_page_changes_nothing(shared: httpx.Client, headers: Any):
    before = _ids(shared, headers)
    for refused in (
        shared.post("/v1/jobs", headers=headers, **FORM),
        shared.post("/v1/jobs", content=b"one", headers=headers),
        shared.put("/v1/files/a.txt", content=b"one", headers=headers),
        shared.post(f"/v1/jobs/{'0' * 8}/cancel", headers=headers),
        shared.delete(f"/v1/jobs/{'0' * 8}", headers=headers),
        shared.post("/v1/links", json={"upload": {}}, headers=headers),
    ):
        found = problem(refused, 403, "cross-origin-refused")
        assert "INTAKE_CORS_ORIGINS" in found["hint"]
        assert "token" in found["hint"]
    assert _ids(shared, headers) == before


def _ids(http: httpx.Client, headers: Any) -> list[str]:
    """Return whose jobs there are; those of tests before may still be running, so that nothing else of them stands still."""
    return [job["id"] for job in http.get("/v1/jobs", headers=headers).json()["items"]]


@pytest.mark.parametrize("headers", [{}, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "cross-site", "Origin": PAGE}])
def test_who_is_no_page_or_an_allowed_one_uploads_without_a_token(shared: httpx.Client, headers: dict[str, str]):
    accepted(shared.post("/v1/jobs", headers=headers, **FORM))


def test_a_page_of_the_service_itself_uploads_without_a_token(shared: httpx.Client):
    own = str(shared.base_url).rstrip("/")
    for headers in ({"Origin": own}, {"Origin": own, "Sec-Fetch-Site": "same-origin"}):
        accepted(shared.post("/v1/jobs", headers=headers, **FORM))


def test_a_token_is_proof_enough_for_a_page_of_any_origin(tmp_path: Path):
    with Server(tmp_path) as server, httpx.Client(base_url=server.url, trust_env=False, verify=NO_TLS) as http:
        foreign = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        accepted(http.post("/v1/jobs", headers=foreign | {"Authorization": f"Bearer {server.token()}"}, **FORM))
        problem(http.post("/v1/jobs", headers=foreign, **FORM), 401, "unauthorized")


@pytest.mark.parametrize(
    "origins", ["app.example.org", "https://app.example.org/", "https://a/b", "ftp://a", "https://*.a"]
)
def test_what_is_no_origin_stops_the_start(origins: str):
    with pytest.raises(ConfigError, match="INTAKE_CORS_ORIGINS"):
        Settings.load(cors_origins=origins)
