"""The whole service with its bytes on an S3 server that is away, slow or failing; see ``test_deployments`` for the rest."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing

import httpx
import pytest

from service.doctor import diagnose, examine
from service.errors import ConfigError
from service.settings import Settings
from service.testing import Server
from service.wiring import build
from tests.e2e.deployment import artifact_of, ended
from tests.e2e.rig import call, get, post, running, serve, submit
from tests.http import NO_TLS
from tests.s3 import SECRET_KEY, Proxy, proxy
from tests.waiting import wait_until

PREFIX = "intake/test"


@pytest.fixture(scope="module")
def way(s3) -> Iterator[Proxy]:
    with proxy(s3) as way:
        yield way


@pytest.fixture(scope="module")
def bucket(s3) -> str:
    return s3.create_bucket()


@pytest.fixture(scope="module")
def server(s3, way, bucket, tmp_path_factory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("service")
    with serve(folder, storage=f"s3://{bucket}/{PREFIX}?endpoint={way.url}", durability="none", timeout=90) as server:
        yield server


@pytest.fixture(autouse=True)
def nothing_goes_wrong(way) -> Iterator[None]:
    yield
    way.trouble.judge = lambda method, path: None
    way.trouble.gate.set()


def keys(s3, bucket: str) -> list[str]:
    """Return what the bucket has of jobs."""
    return [key.removeprefix(f"{PREFIX}/") for key in s3.keys(bucket) if key != f"{PREFIX}/owner"]


def of(s3, bucket: str, job_id: str) -> list[str]:
    return [key for key in keys(s3, bucket) if job_id in key]


def test_a_file_of_several_parts_comes_back_as_it_was(server):
    data = b"nothing\n" * (12 * 2**17)  # 12 MiB

    job_id = submit(server, data, pipeline="obey")

    source = get(server, f"/v1/jobs/{job_id}/source")
    assert source.content == data
    call(server, "POST", f"/v1/jobs/{job_id}/cancel")


def test_a_server_that_is_away_refuses_uploads_and_nothing_is_half_there(s3, server, bucket, way):
    kept = submit(server, "write out.txt 5")
    document = ended(server, kept)
    before = keys(s3, bucket)

    way.stop()
    try:
        refused = post(server, "write out.txt 5")
        ready = get(server, "/readyz")
        looked = get(server, f"/v1/jobs/{kept}")
        fetched = get(server, artifact_of(document))
    finally:
        way.start()

    assert (refused.status_code, refused.json()["code"]) == (503, "storage-unavailable")
    assert int(refused.headers["Retry-After"]) > 0
    assert (ready.status_code, looked.status_code) == (503, 200)
    assert (fetched.status_code, fetched.json()["code"]) == (503, "storage-unavailable")
    assert keys(s3, bucket) == before
    assert get(server, "/readyz").status_code == 200
    assert get(server, artifact_of(document)).content == b"xxxxx"
    assert ended(server, submit(server, "write out.txt 5"))["status"] == "succeeded"


def test_a_server_that_fails_and_loses_answers_now_and_then_costs_nothing(s3, server, way):
    """Every request fails at first; every third one is done, and its answer lost."""
    seen: set[tuple[str, str]] = set()

    def judge(method: str, path: str) -> int | str | None:
        if (method, path) in seen:
            return None
        seen.add((method, path))
        return "lost" if len(seen) % 3 == 0 else 500 if len(seen) % 3 == 1 else 503

    way.trouble.judge = judge
    jobs = [submit(server, f"write out.txt {size}") for size in (5, 6, 7)]
    documents = [ended(server, job_id) for job_id in jobs]
    way.trouble.judge = lambda method, path: None

    assert [(one["status"], one["attempt"]) for one in documents] == [("succeeded", 1)] * 3
    assert [len(get(server, artifact_of(one)).content) for one in documents] == [5, 6, 7]


def test_a_slow_server_makes_uploads_slow_and_nothing_else(server, way):
    way.trouble.gate.clear()
    with httpx.Client(trust_env=False, verify=NO_TLS, timeout=30) as http:
        assert http.get(f"{server.url}/livez").status_code == 200
        before = len(way.trouble.seen)
        command = [sys.executable, "-c", _UPLOAD, server.url]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as upload:
            wait_until(lambda: len(way.trouble.seen) > before, 30, "an upload on its way")
            assert http.get(f"{server.url}/livez").status_code == 200
            assert http.get(f"{server.url}/v1/jobs").status_code == 200
            way.trouble.gate.set()
            answer, _ = upload.communicate(timeout=60)

    assert answer.split() == [b"202"]


_UPLOAD = """
import sys, httpx
answer = httpx.post(sys.argv[1] + "/v1/jobs?filename=o.txt", content=b"write out.txt 5", trust_env=False, timeout=60)
print(answer.status_code)
"""


def test_results_wait_for_a_server_that_is_away(server, way, tmp_path):
    job_id = submit(server, f"wait {tmp_path}/go; write out.txt 5")
    running(server, job_id)

    way.stop()
    try:
        (tmp_path / "go").touch()
        wait_until(lambda: "the results of an attempt cannot be stored yet" in server.log, 60)
    finally:
        way.start()

    document = ended(server, job_id)
    assert (document["status"], document["attempt"]) == ("succeeded", 1)
    assert len(get(server, artifact_of(document)).content) == 5


def test_a_source_that_cannot_be_fetched_yet_charges_nobody(server, way):
    way.trouble.judge = lambda method, path: 500 if method == "GET" and path.endswith("/source") else None
    job_id = submit(server, "write out.txt 5")
    wait_until(lambda: "no attempt can be prepared" in server.log, 60)
    way.trouble.judge = lambda method, path: None

    document = ended(server, job_id)
    assert document["status"] == "succeeded"
    reasons = [one["reason"] for one in server.record(job_id)["attempts"]]
    assert reasons[-1] == "succeeded"
    assert set(reasons[:-1]) == {"interrupted"}


def test_a_download_goes_on_where_the_server_broke_off(server, way):
    job_id = submit(server, "write out.bin 1000000")
    document = ended(server, job_id)
    seen: list[str] = []

    def judge(method: str, path: str) -> str | None:
        if method == "GET" and "out.bin" in path:
            seen.append(path)
            return "cut" if len(seen) == 1 else None
        return None

    way.trouble.judge = judge
    fetched = get(server, artifact_of(document))

    assert (fetched.status_code, len(fetched.content), len(seen)) == (200, 1_000_000, 2)


def test_downloads_can_be_redirected_to_signed_addresses(s3, server, tmp_path):
    """The client that follows one is known to the storage by the signature alone."""
    job_id = submit(server, "write out.bin 1000")
    document = ended(server, job_id)
    token = server.token("admin")  # from here on
    options = {"data_dir": server.data_dir, "storage": server.settings["storage"], "s3_redirect": "5m", "timeout": 90}
    try:
        with (
            serve(tmp_path / "redirecting", **options) as other,
            httpx.Client(
                base_url=other.url,
                trust_env=False,
                verify=NO_TLS,
                headers={"Authorization": f"Bearer {token}"},
                timeout=30,
            ) as http,
            other.client(token=token) as client,
        ):
            href = artifact_of(document)
            told = http.get(href)
            location = httpx.URL(told.headers["Location"])
            anybody = httpx.get(location, headers={"Range": "bytes=990-"}, trust_env=False, verify=NO_TLS)
            looked = http.head(href)
            tag = looked.headers["ETag"]
            unchanged = http.get(href, headers={"If-None-Match": tag})
            target = tmp_path / "out.bin"
            client.job(job_id).download("obey", "out.bin", to=target)

            assert (told.status_code, told.headers["Cache-Control"]) == (307, "no-store")
            assert (anybody.status_code, anybody.content) == (206, b"x" * 10)
            assert anybody.headers["Content-Type"] == "application/octet-stream"
            assert anybody.headers["Content-Disposition"].startswith('attachment; filename="out.bin"')
            assert SECRET_KEY not in str(location)
            assert (looked.status_code, looked.headers["Content-Length"]) == (200, "1000")
            assert unchanged.status_code == 304
            assert target.read_bytes() == b"x" * 1000
    finally:
        for path in (server.data_dir / "access" / "tokens").iterdir():
            path.unlink()


def test_an_api_that_is_killed_while_a_file_arrives_leaves_nothing_that_is_not_swept(s3, bucket, way, tmp_path):
    """Its marker leads to it once it has been silent for long enough, by the server's clock."""
    settings = {"storage": f"s3://{bucket}/{PREFIX}-killed?endpoint={way.url}", "durability": "none", "timeout": 90}
    with serve(tmp_path / "killed", **settings) as server:
        sent = b"x" * (6 * 2**20)
        url = httpx.URL(server.url)
        with httpx.Client(trust_env=False, verify=NO_TLS, timeout=30) as http:

            def body() -> Iterator[bytes]:
                yield sent
                wait_until(lambda: any(key.endswith("source+") for key in s3.keys(bucket, f"{PREFIX}-killed")), 60)
                server.kill()

            with pytest.raises(httpx.TransportError):
                http.post(url.join("/v1/jobs?filename=a.txt"), content=body())
        (marker,) = s3.keys(bucket, f"{PREFIX}-killed/incoming/")
        s3.age(bucket, marker)
        server.start()

        wait_until(lambda: s3.keys(bucket, f"{PREFIX}-killed") == [f"{PREFIX}-killed/owner"], 90, "a swept bucket")


def settings_of(server: Server, **others: object) -> Settings:
    return Settings.load(**{"data_dir": server.data_dir, "storage": server.settings["storage"], **others})


def wrong(server: Server, *, deep: bool) -> str:
    with closing(build(settings_of(server))) as services:
        return " ".join(f"{one.subject} {one.detail}" for one in examine(services, deep=deep) if one.level != "ok")


def test_doctor_and_fsck_look_at_the_bytes_where_they_are(s3, server, bucket):
    good, lost = (submit(server, "write out.txt 5") for _ in range(2))
    for job_id in (good, lost):
        ended(server, job_id)
    source = next(key for key in of(s3, bucket, lost) if key.endswith("source"))
    told = {one.subject: one for one in diagnose(settings_of(server))}
    assert (told["storage"].level, told["records"].level) == ("ok", "ok")
    assert f"s3://{bucket}/{PREFIX}/" in told["storage"].detail

    s3.client.put_object(Bucket=bucket, Key=f"{PREFIX}/{source}", Body=b"write out.txt 6")  # the same size
    assert wrong(server, deep=False) == ""
    assert lost in wrong(server, deep=True)
    assert good not in wrong(server, deep=True)

    s3.client.delete_object(Bucket=bucket, Key=f"{PREFIX}/{source}")
    assert lost in wrong(server, deep=False)
    assert get(server, f"/v1/jobs/{lost}/source").json()["code"] == "bytes-lost"
    call(server, "DELETE", f"/v1/jobs/{lost}")


def test_what_does_not_belong_together_is_refused(server, s3, bucket, tmp_path):
    for others, said in (
        ({"data_dir": tmp_path / "other"}, "its bytes belong to other records"),
        ({"storage": "files"}, "name that"),
        ({"storage": f"s3://{bucket}/elsewhere?endpoint={s3.url}"}, "name that"),
    ):
        with pytest.raises(ConfigError, match=said):
            build(settings_of(server, **others))


def test_secrets_are_shown_nowhere(server):
    settings = settings_of(server)
    assert SECRET_KEY not in f"{settings} {settings.model_dump()} {settings.environment()} {server.log}"


@pytest.mark.skipif(not os.path.isdir("/proc"), reason="this system has no /proc")  # noqa: PTH112
def test_attempts_get_no_credentials(server, tmp_path):
    from tests.e2e.rig import processes

    job_id = submit(server, f"wait {tmp_path}/go")
    running(server, job_id)
    found = processes(server)

    for pid in (*found.zygotes, *found.attempts):
        with open(f"/proc/{pid}/environ", "rb") as environ:  # noqa: PTH123
            names = re.findall(rb"(?:^|\0)([^=\0]+)=", environ.read())
        assert b"PATH" in names
        assert not [name for name in names if name.startswith((b"AWS_", b"INTAKE_")) and b"TEST" not in name]
    (tmp_path / "go").touch()
    ended(server, job_id)
