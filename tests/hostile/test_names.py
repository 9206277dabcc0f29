"""Names that are meant to do harm, through an upload and a download: attachments of a safe name, and nothing raw in the log."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from urllib.parse import quote

import httpx
import pytest

from service.testing import Server
from tests.hostile.images import SMALL
from tests.http import NO_TLS
from tests.waiting import wait_until

# fmt: off
_PARTS = [
    "../../etc/passwd", "..\\..\\boot.ini", "/etc/shadow", "C:\\x\\y", "\\\\host\\share\\x",
    "file:///etc/passwd", "~root", "-rf",
    "CON", "NUL.txt", "aux.", "com1", "LPT1.txt", "a:stream", "trailing.", "trailing ", ".", "..", "...", "", " ", ".htaccess",
    "a\0.php", "a\r\nX-Evil: 1", "a\nSet-Cookie: x=1", "\x1b[31mred", "\x07\x08\x7f", "\x85\x9b",
    "a\tb", 'a"b', "a'b", "a;b", "a%00b",
    "%2e%2e%2f", "%0d%0a", "a%", "a%zz", "=cmd|' /C calc'!A0", "@SUM(1)", "+1", "<script>alert(1)</script>",
    "${7*7}", "{{7*7}}", "`id`",
    "$(id)", "a|b", "a&b", "a*?", "\u202egnp.exe", "\u2066x\u2069", "\ufeffx", "a\u200bb", "\u2028\u2029", "\ud7ffx", "\ue000",
    "\U000e0001", "\ufdd0", "\U0010ffff", "e\u0301", "\u0301" * 200, "ﷺ" * 50, "日本語.txt", "🙈" * 100, "\u0130\u0131",
    "x" * 3000, "x" * 3000 + ".pdf", "ü" * 3000, "." * 3000, "a/" * 1500, " " * 3000, "\u202e" * 3000,
    "%s%n%x", "null", "undefined",
    "a.tar.gz", "name.PNG ", "a\u3000b", "\u0000", "\r", "\n", "'; DROP TABLE jobs; --", "../" * 500 + "x",
    "a\\", '\\"', '"; filename="x',
    "UTF-8''x", "=?utf-8?b?eA==?=", "x\u0000\u202e\u001b.pdf",
]
# fmt: on
#: As bytes of a form or percent-encoded, with what no text can hold: halves of pairs, overlong forms, no UTF-8 at all.
NAMES = [part.encode("utf-8", "surrogatepass") for part in _PARTS] + [
    b"\xed\xa0\x80x",
    b"x\xed\xbf\xbf",
    b"\xff\xfe",
    b"\xc0\xae\xc0\xae/",
    b"na\xefve",
    b"\x80" * 500,
    b"\xf8\x88\x80\x80\x80",
]  # fmt: skip
_SAFE = re.compile(r"attachment; filename=\"[ !#-\[\]-~]{1,255}\"; filename\*=UTF-8''(?:[A-Za-z0-9._~-]|%[0-9A-F]{2})+")


def _is_refused(answer: httpx.Response) -> bool:
    assert answer.status_code < 500, answer.text
    if answer.status_code == 202:
        return False
    assert answer.headers["content-type"] == "application/problem+json"
    return True


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with Server(tmp_path_factory.mktemp("names"), log_format="json", log_level="debug") as server:
        yield server


def test_no_name_does_harm(server: Server) -> None:
    with httpx.Client(base_url=server.url, trust_env=False, verify=NO_TLS) as http:
        before = {path.name for path in server.folder.iterdir()}
        taken, shown = 0, {}
        for number, name in enumerate(NAMES):
            form = b'--b\r\nContent-Disposition: form-data; name="file"; filename="%b"\r\n\r\nx\r\n--b--\r\n' % name
            kinds = {"content-type": "multipart/form-data; boundary=b"}
            sent = [http.post("/v1/jobs?pipeline=checksum", content=form, headers=kinds)]
            if number % 2 == 0:
                sent.append(http.post(f"/v1/jobs?pipeline=checksum&filename={quote(name, safe='')}", content=b"x"))
            if number % 5 == 0:
                sent.append(http.put(f"/v1/files/{quote(name, safe='')}?pipeline=checksum", content=b"x"))
            for job in [answer.json() for answer in sent if not _is_refused(answer)]:
                taken += 1
                shown[job["file"]["name"]] = job["links"]["source"]
        assert taken > len(NAMES), "most are taken, under a name that is fit"

        for name, link in shown.items():
            assert 0 < len(name.encode()) <= 255
            assert not set("/\\\0\r\n\x1b\u202e") & set(name)
            source = http.get(link)
            assert (source.status_code, source.content) == (200, b"x")
            assert _SAFE.fullmatch(source.headers["content-disposition"]), source.headers["content-disposition"]
            assert source.headers["x-content-type-options"] == "nosniff"
            assert "sandbox" in source.headers["content-security-policy"]
            assert not {"x-evil", "set-cookie"} & set(source.headers)
        for asked in ("source", "artifacts/../job.json", "artifacts/checksum/..%2f..%2fjob.json"):
            for odd in ("%00", "..%2f..", "%1b%5b31m", "%ed%a0%80", "%ff"):
                assert http.get(f"/v1/jobs/{odd}/{asked}").status_code < 500
        assert {path.name for path in server.folder.iterdir()} == before

    log = (server.folder / "server.log").read_bytes()
    assert len(log.splitlines()) > 50
    assert set(log) & (set(range(32)) - {10}) == set()
    assert not re.search(b"\xc2[\x80-\x9f]|\xe2\x80[\xa8-\xae]", log), "C1 controls, line ends and turns of direction"


ACTIVE = {
    "page.html": b"<!DOCTYPE html><html><script>alert(1)</script></html>",
    "picture.svg": b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
    "data.xml": b'<?xml version="1.0"?><?xml-stylesheet href="javascript:alert(1)"?><a/>',
    "page.xhtml": b'<html xmlns="http://www.w3.org/1999/xhtml"><script>alert(1)</script></html>',
    "script.js": b"alert(1)",
    "picture.png": SMALL + b"<script>alert(1)</script>",
}
CLAIMS = [None, "text/html", "image/svg+xml"]


def test_nothing_is_served_as_what_a_browser_would_run(server: Server) -> None:
    with server.client() as client, httpx.Client(base_url=server.url, trust_env=False, verify=NO_TLS) as http:
        jobs = []
        for claim, (name, data) in itertools.product(CLAIMS, ACTIVE.items()):
            headers = {"content-type": claim} if claim else {}
            answer = http.post(f"/v1/jobs?filename={name}&pipeline=identify", content=data, headers=headers)
            jobs.append(answer.json()["id"])
        photo = client.submit(ACTIVE["picture.png"], name="a.png").wait(timeout=60)
        links = [f"/v1/jobs/{photo.id}/artifacts/image.previews/preview-256.webp"]
        for job_id in jobs:
            wait_until(lambda job_id=job_id: http.get(f"/v1/jobs/{job_id}").json()["done"], 60)
            links.append(f"/v1/jobs/{job_id}/source")
        for link, ranged in itertools.product(links, ({}, {"Range": "bytes=0-0"})):
            answer = http.get(link, headers=ranged)
            assert answer.status_code in (200, 206)
            kind = answer.headers["content-type"].partition(";")[0]
            assert kind in ("application/octet-stream", "text/plain", "image/png", "image/webp")
            assert answer.headers["content-disposition"].startswith("attachment; ")
            assert answer.headers["x-content-type-options"] == "nosniff"
            assert answer.headers["content-security-policy"] == "sandbox; default-src 'none'"
