"""Downloads: streamed, resumed where they broke off, checked, and in place only when whole."""

from __future__ import annotations

import hashlib
from contextlib import nullcontext
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import quote

import httpx

from service.client.errors import Corrupt, Unreachable
from service.client.files import place, whole_file
from service.client.operations import job_path, words
from service.client.wire import Operation, Read

if TYPE_CHECKING:
    import os
    from pathlib import Path

    from service.client.document import Artifact, JobView
    from service.client.files import Progress
    from service.client.operations import Api

    Target = str | os.PathLike[str] | BinaryIO


def fetch_artifact(
    api: Api, job: JobView, artifact: Artifact, to: Target, progress: Progress | None = None
) -> Operation[Path | None]:
    """Fetch an artifact to a directory, a path or an open file; return the path, if there is one."""
    path = f"{job_path(job.id)}/artifacts/{quote(artifact.step, safe='')}/{quote(artifact.name, safe='')}"
    return _fetch(api, path, to, artifact.name, artifact.size, artifact.sha256, progress)


def fetch_source(api: Api, job: JobView, to: Target, progress: Progress | None = None) -> Operation[Path | None]:
    """Fetch the file as it was uploaded, in the same way."""
    file = job.file
    return _fetch(api, f"{job_path(job.id)}/source", to, file["name"], file["size"], file["sha256"], progress)


def _fetch(
    api: Api, path: str, to: Target, name: str, size: int, sha256: str, progress: Progress | None
) -> Operation[Path | None]:
    if hasattr(to, "write"):
        yield from download(api, path, cast("BinaryIO", to), size=size, sha256=sha256, progress=progress)
        return None
    target = place(to, name)
    with whole_file(target) as file:
        yield from download(api, path, file, size=size, sha256=sha256, progress=progress)
    return target


def download(
    api: Api, path: str, file: BinaryIO, *, size: int, sha256: str, progress: Progress | None = None
) -> Operation[None]:
    """Write the bytes at ``path`` to ``file``; after a lost connection, go on where it broke off.

    Raises:
        Corrupt: they do not have the size and SHA-256 that were promised.

    """
    hasher, received, failures, etag = hashlib.sha256(), 0, 0, ""
    while True:
        headers = {"Accept-Encoding": "identity"}
        if received:
            headers |= {"Range": f"bytes={received}-"} | ({"If-Range": etag} if etag else {})
        request = api.request("GET", path, headers=headers)
        response = yield from api.send(lambda request=request: nullcontext(request), stream=True)  # type: ignore[misc]
        etag = etag or response.headers.get("ETag", "")
        skip = 0 if response.status_code == httpx.codes.PARTIAL_CONTENT else received  # the service began at the start
        try:
            while piece := (yield Read()):
                fresh, skip = piece[skip:], max(0, skip - len(piece))
                if fresh:
                    file.write(fresh)
                    hasher.update(fresh)
                    received, failures = received + len(fresh), 0
                    if progress:
                        progress(received, size)
            break
        except httpx.TransportError as error:
            if received >= size:
                break
            failure = Unreachable(f"the download from {api.url} broke off: {words(error)}")
            if failures >= api.retries:
                raise failure from error
            yield api.pause(failure, failures)
            failures += 1
    if received != size:
        raise Corrupt(f"{path} has {received} bytes instead of {size}", hint="download it again")
    if hasher.hexdigest() != sha256:
        raise Corrupt(f"{path} does not have the SHA-256 {sha256}", hint="download it again")
