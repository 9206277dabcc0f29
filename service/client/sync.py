"""The client for threads: every method does its work before it returns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self, cast

import httpx

from service.client.connect import connect, loopback
from service.client.document import JobView, Snapshot
from service.client.downloads import fetch_artifact, fetch_source
from service.client.files import Progress, Source
from service.client.following import follow
from service.client.links import Link, download_link, upload_link
from service.client.wire import Operation, T, each, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from service.client.downloads import Target
    from service.client.errors import ClientError
    from service.client.files import Content, Ends


class Job(JobView):
    """A job and the client that looks after it."""

    def __init__(self, client: Client, snapshot: Snapshot) -> None:
        super().__init__(snapshot)
        self._client = client

    def refresh(self) -> Self:
        """Look at the job again and return it."""
        self._snapshot = self._client.run(self._client.api.job(self.id))
        return self

    def wait(self, *, timeout: float | None = None) -> Self:
        """Return the job when it has ended, also when it failed; WaitTimeout after ``timeout`` seconds."""
        for _ in self.watch(timeout=timeout):
            pass
        return self

    def watch(self, *, timeout: float | None = None) -> Iterator[Self]:
        """Yield the job now and after every change seen, up to its end; WaitTimeout after ``timeout`` seconds."""
        yield self
        for seen in self._client.each(follow(self._client.api, self._snapshot, timeout=timeout)):
            self._snapshot = seen
            yield self

    def cancel(self) -> Self:
        """Ask for the job's end; a running attempt takes a moment to stop."""
        self._snapshot = self._client.run(self._client.api.cancel(self.id))
        return self

    def retry(self) -> Self:
        """Queue the failed or canceled job again, from the step it failed at."""
        self._snapshot = self._client.run(self._client.api.retry(self.id))
        return self

    def delete(self) -> None:
        """Delete the ended job with its file and artifacts."""
        self._client.run(self._client.api.delete(self.id))

    def download(
        self,
        step: str,
        name: str | None = None,
        *,
        to: Target = ".",
        progress: Progress | None = None,
    ) -> Path | None:
        """Fetch an artifact: into the directory ``to``, to the path ``to``, or into an open file.

        The name may be left out when the step has made one artifact. A path appears only whole and checked, and
        replaces what was there.

        Returns:
            The path, or None for an open file.

        """
        fetch = fetch_artifact(self._client.api, self, self.artifact(step, name), to, progress)
        return self._client.run(fetch)

    def link(self, step: str | None = None, name: str | None = None, *, expires_in: int = 900) -> Link:
        """Return a link by which anybody fetches an artifact, or without ``step`` the file as it was uploaded.

        It is good for ``expires_in`` seconds, seven days at most, as long as this client's token is.
        """
        artifact = None if step is None else self.artifact(step, name)
        return self._client.run(download_link(self._client.api, self, artifact, expires_in))

    def source(self, *, to: Target = ".", progress: Progress | None = None) -> Path | None:
        """Fetch the file as it was uploaded, as ``download`` does."""
        return self._client.run(fetch_source(self._client.api, self, to, progress))


class Client:
    """A connection to the service. Close it, or use it in a ``with`` block; it may be shared between threads.

    Args:
        url: address of the service; without one, that of the setting INTAKE_SERVER.
        token: sent with every request; without one, that of the setting INTAKE_TOKEN. An empty one sends none.
        timeout: seconds that connecting, or a silence while sending or receiving, may take.
        retries: how often a request is repeated after a lost connection or an answer that asks to come back later.
        on_retry: called with what went wrong and the seconds until the next try.
        transport: how requests travel, for tests.

    Raises:
        ConfigError: the address is not one.

    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout: float = 30,
        retries: int = 5,
        on_retry: Callable[[ClientError, float], None] | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        self.api = connect(url, token=token, timeout=timeout, retries=retries, on_retry=on_retry)
        self._http = httpx.Client(transport=transport, trust_env=not loopback(self.api.url))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def run(self, operation: Operation[T]) -> T:
        """Carry out an operation of ``api``; the methods below are made of it."""
        return run(self._http, operation)

    def each(self, operation: Operation[Any]) -> Iterator[Any]:
        """Carry out an operation of ``api`` and yield what it tells."""
        return each(self._http, operation)

    def submit(
        self,
        content: Content,
        *,
        name: str | None = None,
        pipeline: str | None = None,
        labels: Mapping[str, str] | None = None,
        sha256: str | None = None,
        wait: float | None = None,
        idempotency_key: str | None = None,
        callback_url: str | None = None,
        notify_email: str | None = None,
        notify_on: Ends | None = None,
        progress: Progress | None = None,
    ) -> Job:
        """Upload a file and return its job, which the service has promised to keep.

        Args:
            content: a path, bytes, or a file opened in binary mode, which is read from where it stands and not closed.
                One that cannot seek, like a pipe, is sent only once.
            name: the file's name; by default that of the path or file object.
            pipeline: what the file goes through; the service's default if left out.
            labels: any words to find the job by.
            sha256: hexadecimal; the service refuses bytes with another one.
            wait: seconds to wait for the job's end; WaitTimeout when it has not come. None does not wait.
            idempotency_key: the same key again gives the same job, for a day. One is made for each call, which covers
                the client's own retries.
            callback_url: a URL that is told of the job's end by a signed webhook, where the service allows its host.
            notify_email: an address that is told by e-mail, where the service allows it.
            notify_on: which ends the e-mail is for; the service's rule is ``both``.
            progress: called with the bytes sent so far and their total. They begin anew with every retry.

        """
        source = Source.of(content, name)
        options = {"pipeline": pipeline, "labels": labels, "sha256": sha256, "idempotency_key": idempotency_key}
        options |= {"callback_url": callback_url, "notify_email": notify_email, "notify_on": notify_on}
        job = Job(self, self.run(self.api.submit(source, **cast("Any", options), progress=progress)))
        return job if wait is None else job.wait(timeout=wait)

    def job(self, job_id: str) -> Job:
        """Return a job by its id."""
        return Job(self, self.run(self.api.job(job_id)))

    def jobs(self, *, labels: Mapping[str, str] | None = None, **filters: Any) -> Iterator[Job]:
        """Yield jobs, newest first, page by page.

        ``filters`` are those of ``GET /v1/jobs``, such as ``status="failed"`` or ``created_after="2026-11-22T10:00:00Z"``.
        """
        filters |= {f"label.{key}": value for key, value in (labels or {}).items()}
        cursor = None
        while True:
            page, cursor = self.run(self.api.page(filters, cursor))
            yield from (Job(self, snapshot) for snapshot in page)
            if cursor is None:
                return

    def cancel(self, job_id: str) -> Job:
        """Ask for a job's end and return the job."""
        return Job(self, self.run(self.api.cancel(job_id)))

    def retry(self, job_id: str) -> Job:
        """Queue a failed or canceled job again and return it."""
        return Job(self, self.run(self.api.retry(job_id)))

    def delete(self, job_id: str) -> None:
        """Delete an ended job with its file and artifacts."""
        self.run(self.api.delete(job_id))

    def upload_link(
        self,
        *,
        max_size: int | None = None,
        pipeline: str | None = None,
        filename: str | None = None,
        expires_in: int = 900,
    ) -> Link:
        """Return a link by which anybody sends one file, which becomes a job of this client's token.

        Args:
            max_size: bytes; the service's own limit if left out.
            pipeline: what the file goes through; the service's default if left out.
            filename: the only name it can have; otherwise the sender names it.
            expires_in: seconds that the link is good, seven days at most.

        """
        return self.run(
            upload_link(self.api, max_size=max_size, pipeline=pipeline, filename=filename, expires_in=expires_in)
        )

    def pipelines(self) -> Any:
        """Return the pipelines that can be asked for."""
        return self.run(self.api.read("/v1/pipelines"))

    def processors(self) -> Any:
        """Return the processors there are, with the JSON Schemas of their options."""
        return self.run(self.api.read("/v1/processors"))

    def limits(self) -> Any:
        """Return what the service takes: sizes, counts, times."""
        return self.run(self.api.read("/v1/limits"))
