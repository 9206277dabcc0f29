"""The OpenAPI document: valid, complete, and true: a machine that tries what it says, and what it forbids, finds nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator

from service.testing import Server
from tests.integration.api import finished, submit
from tests.integration.conftest import client
from tests.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    import httpx

HERE = Path(__file__).parent
METHODS = {"get", "put", "post", "delete", "patch"}


@pytest.fixture(scope="module")
def document(http: httpx.Client) -> dict[str, Any]:
    found: dict[str, Any] = http.get("/openapi.json").json()
    return found


def operations(document: dict[str, Any]) -> Iterator[tuple[str, str, dict[str, Any]]]:
    for path, item in document["paths"].items():
        for method in METHODS & set(item):
            yield path, method, item[method]


def test_the_document_is_valid_openapi_3_1(document: dict[str, Any]):
    assert document["openapi"].startswith("3.1.")
    assert list(OpenAPIV31SpecValidator(document).iter_errors()) == []


def test_every_operation_is_named_described_and_refuses_with_problems(document: dict[str, Any]):
    names = [operation["operationId"] for *_, operation in operations(document)]
    assert len(names) == len(set(names))
    for path, method, operation in operations(document):
        assert operation["summary"], (method, path)
        for status, response in operation["responses"].items():
            if status == "default" or (status >= "400" and path != "/readyz"):
                assert list(response["content"]) == ["application/problem+json"], (method, path, status)
    assert "HTTPValidationError" not in str(document)


def test_every_schema_of_the_document_is_used(document: dict[str, Any]):
    for name in document["components"]["schemas"]:
        assert f"#/components/schemas/{name}'" in str(document), name


def test_the_pipelines_of_the_document_are_those_of_the_service(document: dict[str, Any], http: httpx.Client):
    names = {item["name"] for item in http.get("/v1/pipelines").json()["items"]}
    form = document["paths"]["/v1/jobs"]["post"]["requestBody"]["content"]["multipart/form-data"]["schema"]
    assert set(form["properties"]["pipeline"]["enum"]) == names
    [query] = [
        one for one in document["paths"]["/v1/files/{filename}"]["put"]["parameters"] if one["name"] == "pipeline"
    ]
    assert set(query["schema"]["enum"]) == names


def test_no_parameter_is_null_on_its_way_over_http(document: dict[str, Any]):
    for path, method, operation in operations(document):
        for parameter in operation.get("parameters", ()):
            assert "null" not in str(parameter["schema"]), (method, path, parameter)


def test_the_documentation_is_served(http: httpx.Client):
    page = http.get("/docs")
    assert (page.status_code, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert "/openapi.json" in page.text


def test_schemathesis_finds_nothing(tmp_path: Path, document: dict[str, Any]):
    tried(tmp_path, document)


@pytest.mark.soak
@pytest.mark.fuzz
def test_r6_schemathesis_finds_nothing_at_length(tmp_path: Path, document: dict[str, Any]):
    cases, seed = 0, int(os.environ.get("INTAKE_TEST_SEED", "20261122"))
    while cases < 5000:
        folder = tmp_path / str(seed)
        folder.mkdir()
        cases += tried(folder, document, "--max-examples", "120", "--seed", str(seed))
        print(f"\nschemathesis: {cases} cases until seed {seed}")
        seed += 1


def tried(tmp_path: Path, document: dict[str, Any], *more: str) -> int:
    """Have schemathesis try every operation, and return how many requests it has made up."""
    with Server(tmp_path / "service", max_upload="1MiB") as server:
        with client(server) as http:
            finished(http, submit(http))
        token = server.token("admin")
        command = [str(Path(sys.executable).parent / "schemathesis"), "--config-file", str(HERE / "schemathesis.toml")]
        command += ["run", f"{server.url}/openapi.json", "--checks", "all", *more]
        command += ["-H", f"Authorization: Bearer {token}"]
        environment = os.environ | {
            "SCHEMATHESIS_HOOKS": "tests.integration.agreeing",
            "PYTHONPATH": os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")]),
        }
        run = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stdout + run.stderr
        assert re.findall(r"Tested: +([0-9]+)", run.stdout) == [str(len(list(operations(document))))], run.stdout
        assert "Traceback" not in server.log
        wait_until(lambda: not list((server.data_dir / "incoming").iterdir()), what="nothing to be left in incoming/")
    return int(re.findall(r"([0-9,]+) generated", run.stdout)[0].replace(",", ""))
