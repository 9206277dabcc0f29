"""File names as clients really send them, and as they are shown and saved again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx
import pytest
import requests

from tests.integration.api import accepted
from tests.integration.curl import curl
from tests.integration.wire import Wire, form, part

if TYPE_CHECKING:
    from pathlib import Path

    from service.testing import Server

#: Names of files on a disk, and how they are shown, whichever client sends them.
NAMES = [
    ("plain.txt", "plain.txt"),
    ('na"me.txt', 'na"me.txt'),
    ("naïve €.txt", "naïve €.txt"),
    ("back\\slash.txt", "slash.txt"),
    ("two\r\nlines.txt", "two lines.txt"),
    ("semi;colon=1.txt", "semi;colon=1.txt"),
    ("per%20cent.txt", "per%20cent.txt"),
    ("nai\u0308ve.txt", "naïve.txt"),
    ("invoice\u202efdp.exe", "invoicefdp.exe"),
    ("tab\tbed.txt", "tab bed.txt"),
    (".profile", "profile"),
    ("日本語.txt", "日本語.txt"),
]
THREE_THOUSAND = ("ü" * 3000 + ".pdf", "ü" * 125 + ".pdf")
#: Values of a part's `filename` parameter, as bytes, that no file on a disk would lead to.
RAW = [
    (b'filename=""', "upload.bin"),
    (b'filename="..."', "upload.bin"),
    (b'filename="../../etc/passwd"', "passwd"),
    (b'filename="/etc/cron.d/"', "upload.bin"),
    (rb'filename="C:\Users\me\secret.txt"', "secret.txt"),
    (rb'filename="na\"me.txt"', 'na"me.txt'),
    (b'filename="a%22b.txt"', 'a"b.txt'),
    (b'filename="a%0d%0Ab.txt"', "a b.txt"),
    (b'filename="nul\x00byte.txt"', "nulbyte.txt"),
    (b'filename="na\xefve.txt"', "naïve.txt"),
    (b"filename=bare.txt", "bare.txt"),
    (b"filename*=UTF-8''extended.txt", "upload.bin"),
    (b"filename=\"plain.txt\"; filename*=UTF-8''extended.txt", "plain.txt"),
    (b'FileName="case.txt"', "case.txt"),
    (f'filename="{THREE_THOUSAND[0]}"'.encode(), THREE_THOUSAND[1]),
]


@pytest.mark.needs("curl")
@pytest.mark.parametrize(("name", "shown"), NAMES)
def test_a_name_that_curl_sends_is_understood(server: Server, tmp_path: Path, name: str, shown: str):
    (tmp_path / name).write_bytes(b"1")
    quoted = name.replace("\\", "\\\\").replace('"', '\\"')
    sent = curl("-F", f'file=@"{quoted}"', f"{server.url}/v1/jobs?pipeline=checksum", cwd=tmp_path)
    assert accepted(sent.answer)["file"]["name"] == shown


@pytest.mark.parametrize(("name", "shown"), [*NAMES, THREE_THOUSAND])
def test_a_name_that_requests_sends_is_understood(server: Server, name: str, shown: str):
    answer = requests.post(f"{server.url}/v1/jobs?pipeline=checksum", files={"file": (name, b"1")}, timeout=30)
    assert accepted(answer)["file"]["name"] == shown


@pytest.mark.parametrize(("name", "shown"), [*NAMES, THREE_THOUSAND])
def test_a_name_that_httpx_sends_is_understood(http: httpx.Client, name: str, shown: str):
    if "\t" in name:
        shown = "tab%09bed.txt"  # httpx escapes it as nobody else does
    answer = http.post("/v1/jobs?pipeline=checksum", files={"file": (name, b"1")})
    assert accepted(answer)["file"]["name"] == shown


@pytest.mark.parametrize(("parameter", "shown"), RAW)
def test_a_name_that_nobody_should_send_is_made_fit(server: Server, parameter: bytes, shown: str):
    with Wire(server.url) as wire:
        job = accepted(
            wire.post_form(form([part(b'name="file"; ' + parameter, b"1")]), path="/v1/jobs?pipeline=checksum")
        )
    assert job["file"]["name"] == shown
    assert server.record(job["id"])["file"]["name"] == shown
    assert {path.name for path in server.job_dir(job["id"]).iterdir()} >= {"source", "job.json"}


def test_a_form_without_any_name_gets_one(server: Server):
    with Wire(server.url) as wire:
        assert accepted(wire.post_form(form([part('name="file"', b"1")])))["file"]["name"] == "upload.bin"


@pytest.mark.parametrize(("name", "shown"), [*NAMES, THREE_THOUSAND, ("../x", "x"), ("\0", "upload.bin")])
def test_a_name_in_the_query_is_made_fit(http: httpx.Client, name: str, shown: str):
    answer = http.post("/v1/jobs", content=b"1", params={"filename": name, "pipeline": "checksum"})
    assert accepted(answer)["file"]["name"] == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ('attachment; filename="a.txt"', "a.txt"),
        ("attachment; filename=a.txt", "a.txt"),
        ("attachment; filename*=UTF-8''%E2%82%AC.txt", "€.txt"),
        ("attachment; filename*=utf-8'en'%E2%82%AC.txt", "€.txt"),
        ("attachment; filename*=iso-8859-1''na%EFve.txt", "naïve.txt"),
        ("attachment; filename*=UTF-8''..%2F..%2Fetc%2Fpasswd; filename=b.txt", "passwd"),
        ("attachment; filename*=x-unknown''a.txt; filename=b.txt", "b.txt"),
        ("attachment; filename*=nonsense; filename=b.txt", "b.txt"),
        ("attachment; filename=b.txt; filename*=UTF-8''", "b.txt"),
        ("attachment", "query.txt"),
        ('attachment; filename=""', "query.txt"),
        ("", "query.txt"),
    ],
)
def test_a_content_disposition_is_read_to_the_letter(http: httpx.Client, value: str, shown: str):
    headers = {"Content-Disposition": value}
    answer = http.post("/v1/jobs?filename=query.txt&pipeline=checksum", content=b"1", headers=headers)
    assert accepted(answer)["file"]["name"] == shown


@pytest.mark.parametrize("path", ["/v1/files/a%2Fb.txt", "/v1/files/..%5Cb.txt", "/v1/files/%2e%2e%2fb.txt"])
def test_a_path_in_a_put_is_only_a_name(http: httpx.Client, path: str):
    assert accepted(http.put(path, content=b"1"))["file"]["name"] == "b.txt"
