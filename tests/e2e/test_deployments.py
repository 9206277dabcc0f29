"""One life of a job, and one death of what runs it, on every deployment that is described: they differ in nothing a client sees."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import httpx
import pytest

from tests.brokers import PASSWORD as BROKERS_PASSWORD
from tests.e2e.deployment import LONG, Deployment, Kind, artifact_of, document, ended, launch
from tests.e2e.rig import call, get, running, submit
from tests.http import NO_TLS
from tests.postgres import PASSWORD as POSTGRES_PASSWORD
from tests.s3 import SECRET_KEY
from tests.waiting import wait_until

KINDS: Final = (
    Kind(),
    Kind(postgres=True),
    Kind(s3=True),
    Kind(broker="rabbitmq"),
    Kind(broker="redis", postgres=True),
    Kind(broker="rabbitmq", postgres=True, s3=True),
    Kind(broker="redis", postgres=True, s3=True),
)


@pytest.fixture(
    scope="module", params=[pytest.param(kind, id=str(kind), marks=pytest.mark.needs(*kind.needs)) for kind in KINDS]
)
def deployment(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Deployment]:
    kind: Kind = request.param
    broker = request.getfixturevalue(kind.broker) if kind.broker else None
    postgres = request.getfixturevalue("postgres") if kind.postgres else None
    s3 = request.getfixturevalue("s3") if kind.s3 else None
    folder: Path = tmp_path_factory.mktemp("service")
    with ExitStack() as stack:
        deployment = launch(kind, folder, stack, broker=broker, postgres=postgres, s3=s3)
        yield deployment
        log = deployment.server.log
        assert not [secret for secret in (BROKERS_PASSWORD, POSTGRES_PASSWORD, SECRET_KEY) if secret in log]


def test_a_job_lives_its_whole_life(deployment: Deployment, tmp_path: Path) -> None:
    """It is uploaded, processed, downloaded, canceled, retried and deleted, and then nothing is left of it."""
    server = deployment.server
    headers = {"Idempotency-Key": '"life"'}
    with httpx.Client(trust_env=False, verify=NO_TLS, timeout=LONG, base_url=server.url) as http:
        sent = [
            http.post("/v1/jobs?filename=o.txt&labels.case=life", content=b"write out.txt 5", headers=headers)
            for _ in range(2)
        ]
        assert [answer.status_code for answer in sent] == [202, 202], sent[1].text
        (job_id,) = {answer.json()["id"] for answer in sent}
        shown = ended(server, job_id)
        assert (shown["status"], shown["attempt"]) == ("succeeded", 1)
        made = http.get(artifact_of(shown))
        assert (made.content, made.headers["ETag"]) == (b"xxxxx", f'"{shown["steps"][0]["artifacts"][0]["sha256"]}"')
        assert http.get(f"/v1/jobs/{job_id}/source").content == b"write out.txt 5"
        part = http.get(f"/v1/jobs/{job_id}/source", headers={"Range": "bytes=6-8"})
        assert (part.status_code, part.content) == (206, b"out")
    assert {"source", "out.txt"} == {name.rpartition("/")[2] for name in deployment.kept(job_id)} & {
        "source",
        "out.txt",
    }

    waiting = submit(server, f"wait {tmp_path}/never")
    running(server, waiting, timeout=LONG)
    assert call(server, "POST", f"/v1/jobs/{waiting}/cancel").status_code in (200, 202)
    assert ended(server, waiting)["status"] == "canceled"
    assert call(server, "POST", f"/v1/jobs/{waiting}/retry").status_code == 202
    running(server, waiting, attempt=2, timeout=LONG)
    call(server, "POST", f"/v1/jobs/{waiting}/cancel")
    assert ended(server, waiting)["status"] == "canceled"

    later = ended(server, submit(server, "later 0.1"))
    assert (later["status"], later["attempt"]) == ("failed", 3)

    listed = get(server, "/v1/jobs?status=succeeded&label.case=life").json()["items"]
    assert job_id in [one["id"] for one in listed]
    assert 'intake_jobs_total{status="succeeded"} 1.0' in get(server, "/metrics").text
    for one in (job_id, waiting, later["id"]):
        assert call(server, "DELETE", f"/v1/jobs/{one}").status_code == 204
        assert get(server, f"/v1/jobs/{one}").status_code == 404
    for one in (job_id, waiting, later["id"]):
        wait_until(lambda one=one: not deployment.kept(one), LONG, f"nothing to be left of {one}")
    wait_until(lambda: not strays(deployment), LONG, "nothing to be left at all")


def test_a_job_runs_again_when_what_ran_it_is_killed(deployment: Deployment, tmp_path: Path) -> None:
    """Nobody is charged, and of the scratch folders those of the dead go too."""
    server = deployment.server
    job_id = submit(server, f"wait {tmp_path}/go; write out.txt 5")
    before = running(server, job_id, timeout=LONG)

    deployment.kill_runner()
    running(server, job_id, attempt=2, timeout=LONG)
    (tmp_path / "go").touch()

    after = ended(server, job_id)
    assert (after["status"], after["attempt"]) == ("succeeded", 2)
    assert after["max_attempts"] == before["max_attempts"] + 1
    assert get(server, artifact_of(after)).content == b"xxxxx"
    assert document(server, job_id) == after
    for folder in deployment.folders:  # an API and a runner have one each, as long as they live
        wait_until(
            lambda folder=folder: len(list(folder.glob("scratch/*"))) <= 2, LONG, "the scratch of the dead to go"
        )


def strays(deployment: Deployment) -> list[Path]:
    """Return what no job that is done needs, in all folders of a deployment."""
    found: list[Path] = []
    for folder in deployment.folders:
        found += [path for name in ("incoming", "pending") for path in (folder / name).glob("*")]
        found += [path for path in folder.glob("scratch/**/*") if path.is_file() and path.name != "lock"]
    return found
