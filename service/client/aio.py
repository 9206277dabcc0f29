"""The client for event loops: the methods of ``service.client.sync``, to be awaited."""

from __future__ import annotations

from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Self, cast

import httpx

from service.client.connect import connect, loopback
from service.client.document import JobView, Snapshot
from service.client.downloads import fetch_artifact, fetch_source
from service.client.files import Progress, Source
from service.client.following import follow
from service.client.links import Link, download_link, upload_link
from service.client.wire import Operation, T, each_async, run_async

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
    from pathlib import Path

    from service.client.downloads import Target
    from service.client.errors import ClientError
    from service.client.files import Content, Ends


class AsyncJob(JobView):
    """A job and the asynchronous client that looks after it. The methods are those of ``Job``."""

    def __init__(self, client: AsyncClient, snapshot: Snapshot) -> None:
        super().__init__(snapshot)
        self._client = client

    async def refresh(self) -> Self:
        """Look at the job again and return it."""
        self._snapshot = await self._client.run(self._client.api.job(self.id))
        return self

    async def wait(self, *, timeout: float | None = None) -> Self:
        """Return the job when it has ended, also when it failed; WaitTimeout after ``timeout`` seconds."""
        async for _ in self.watch(timeout=timeout):
            pass
        return self

    async def watch(self, *, timeout: float | None = None) -> AsyncIterator[Self]:
        """Yield the job now and after every change seen, up to its end; WaitTimeout after ``timeout`` seconds."""
        yield self
        async with aclosing(self._client.each(follow(self._client.api, self._snapshot, timeout=timeout))) as states:
            async for seen in states:
                self._snapshot = seen
                yield self

    async def cancel(self) -> Self:
        """Ask for the job's end; a running attempt takes a moment to stop."""
        self._snapshot = await self._client.run(self._client.api.cancel(self.id))
        return self

    async def retry(self) -> Self:
        """Queue the failed or canceled job again, from the step it failed at."""
        self._snapshot = await self._client.run(self._client.api.retry(self.id))
        return self

    async def delete(self) -> None:
        """Delete the ended job with its file and artifacts."""
        await self._client.run(self._client.api.delete(self.id))

    async def download(
        self,
        step: str,
        name: str | None = None,
        *,
        to: Target = ".",
        progress: Progress | None = None,
    ) -> Path | None:
        """Fetch an artifact, as ``Job.download`` does."""
        fetch = fetch_artifact(self._client.api, self, self.artifact(step, name), to, progress)
        return await self._client.run(fetch)

    async def link(self, step: str | None = None, name: str | None = None, *, expires_in: int = 900) -> Link:
        """Return a link to an artifact or the source, as ``Job.link`` does."""
        artifact = None if step is None else self.artifact(step, name)
        return await self._client.run(download_link(self._client.api, self, artifact, expires_in))

    async def source(self, *, to: Target = ".", progress: Progress | None = None) -> Path | None:
        """Fetch the file as it was uploaded, as ``download`` does."""
        return await self._client.run(fetch_source(self._client.api, self, to, progress))


class AsyncClient:
    """The same for an event loop: ``async with AsyncClient() as client: job = await client.submit(...)``.

    The arguments are those of ``Client``. A file is read in a thread; a download is written in the loop, piece by piece.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        token: str | None = None,
        timeout: float = 30,
        retries: int = 5,
        on_retry: Callable[[ClientError, float], None] | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.api = connect(url, token=token, timeout=timeout, retries=retries, on_retry=on_retry)
        self._http = httpx.AsyncClient(transport=transport, trust_env=not loopback(self.api.url))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def run(self, operation: Operation[T]) -> T:
        """Carry out an operation of ``api``; the methods below are made of it."""
        return await run_async(self._http, operation)

    def each(self, operation: Operation[Any]) -> AsyncGenerator[Any, None]:
        """Carry out an operation of ``api`` and yield what it tells."""
        return each_async(self._http, operation)

    async def submit(
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
    ) -> AsyncJob:
        """Upload a file and return its job, as ``Client.submit`` does."""
        source = Source.of(content, name)
        options = {"pipeline": pipeline, "labels": labels, "sha256": sha256, "idempotency_key": idempotency_key}
        options |= {"callback_url": callback_url, "notify_email": notify_email, "notify_on": notify_on}
        job = AsyncJob(self, await self.run(self.api.submit(source, **cast("Any", options), progress=progress)))
        return job if wait is None else await job.wait(timeout=wait)

    async def job(self, job_id: str) -> AsyncJob:
        """Return a job by its id."""
        return AsyncJob(self, await self.run(self.api.job(job_id)))

    async def jobs(self, *, labels: Mapping[str, str] | None = None, **filters: Any) -> AsyncIterator[AsyncJob]:
        """Yield jobs, newest first, page by page, as ``Client.jobs`` does."""
        filters |= {f"label.{key}": value for key, value in (labels or {}).items()}
        cursor = None
        while True:
            page, cursor = await self.run(self.api.page(filters, cursor))
            for snapshot in page:
                yield AsyncJob(self, snapshot)
            if cursor is None:
                return

    async def cancel(self, job_id: str) -> AsyncJob:
        """Ask for a job's end and return the job."""
        return AsyncJob(self, await self.run(self.api.cancel(job_id)))

    async def retry(self, job_id: str) -> AsyncJob:
        """Queue a failed or canceled job again and return it."""
        return AsyncJob(self, await self.run(self.api.retry(job_id)))

    async def delete(self, job_id: str) -> None:
        """Delete an ended job with its file and artifacts."""
        await self.run(self.api.delete(job_id))

    async def upload_link(
        self,
        *,
        max_size: int | None = None,
        pipeline: str | None = None,
        filename: str | None = None,
        expires_in: int = 900,
    ) -> Link:
        """Return a link for one upload, as ``Client.upload_link`` does."""
        return await self.run(
            upload_link(self.api, max_size=max_size, pipeline=pipeline, filename=filename, expires_in=expires_in)
        )

    async def pipelines(self) -> Any:
        """Return the pipelines that can be asked for."""
        return await self.run(self.api.read("/v1/pipelines"))

    async def processors(self) -> Any:
        """Return the processors there are, with the JSON Schemas of their options."""
        return await self.run(self.api.read("/v1/processors"))

    async def limits(self) -> Any:
        """Return what the service takes: sizes, counts, times."""
        return await self.run(self.api.read("/v1/limits"))
