"""What a client does, decision by decision, as generators that ``service.client.wire`` carries out."""

from __future__ import annotations

import base64
import hashlib
import mimetypes
import random
import time
import uuid
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx

from service.client.document import JobView, Snapshot
from service.client.errors import ClientError, NotFound, Unreachable, WaitTimeout, refusal, retry_after
from service.client.files import Body
from service.client.wire import Operation, Send, Sleep

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from service.client.files import Ends, Progress, Source

_FIRST_POLL, _LAST_POLL = 0.2, 2.0  # seconds between looks at a job, where the service names none
_LONGEST_WAIT = 20.0  # seconds that the service is asked to wait, below what proxies cut off
_PATIENCE = 120.0  # seconds; who is told to come back later than that is told so
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


@dataclass(frozen=True)
class Api:
    """The operations on one service.

    Attributes:
        url: address of the service, without a slash at its end.
        timeout: seconds that connecting, or a silence while sending or receiving, may take.
        retries: how often a request is repeated after a failure that may pass.
        backoff: seconds before the first repetition; they double up to ``backoff_cap``.
        clock: monotonic seconds.
        chance: random numbers from 0 to 1, which keep many clients from coming back at the same moment.
        on_retry: called with what went wrong and the seconds until the next try.

    """

    url: str
    timeout: float = 30
    retries: int = 5
    headers: Mapping[str, str] = field(default_factory=dict)
    backoff: float = 0.5
    backoff_cap: float = 20
    clock: Callable[[], float] = time.monotonic
    chance: Callable[[], float] = random.random
    on_retry: Callable[[ClientError, float], None] | None = None

    def submit(
        self,
        source: Source,
        *,
        pipeline: str | None = None,
        labels: Mapping[str, str] | None = None,
        sha256: str | None = None,
        idempotency_key: str | None = None,
        callback_url: str | None = None,
        notify_email: str | None = None,
        notify_on: Ends | None = None,
        progress: Progress | None = None,
    ) -> Operation[Snapshot]:
        """Upload a file as a raw body and return its job, with the same Idempotency-Key however often it takes."""
        wishes = {"callback_url": callback_url, "notify_email": notify_email, "notify_on": notify_on}
        parameters = {"pipeline": pipeline} if pipeline else {}
        parameters |= {name: value for name, value in wishes.items() if value is not None}
        parameters |= {f"labels.{key}": value for key, value in (labels or {}).items()}
        headers = {
            "Content-Type": mimetypes.guess_type(source.name)[0] or "application/octet-stream",
            "Content-Disposition": disposition(source.name),
            "Idempotency-Key": quoted(str(uuid.uuid4()) if idempotency_key is None else idempotency_key),
        }
        if sha256 is not None:
            headers["Repr-Digest"] = digest(sha256)

        @contextmanager
        def prepare() -> Iterator[httpx.Request]:
            with source.opened() as (file, size):
                length = {"Transfer-Encoding": "chunked"} if size is None else {"Content-Length": str(size)}
                body = Body(file, size, progress)
                yield self.request("POST", "/v1/jobs", headers=headers | length, params=parameters, stream=body)

        response = yield from self.send(prepare, repeatable=source.repeatable)
        return _snapshot(response)

    def job(self, job_id: str) -> Operation[Snapshot]:
        """Return a job as it is now."""
        response = yield from self._get(job_path(job_id))
        return _snapshot(response)

    def page(self, filters: Mapping[str, Any], cursor: str | None) -> Operation[tuple[list[Snapshot], str | None]]:
        """Return one page of jobs and the cursor of the next."""
        parameters = {key: value for key, value in filters.items() if value is not None}
        parameters |= {"cursor": cursor} if cursor else {}
        page = yield from self.read("/v1/jobs", parameters)
        return [Snapshot(document) for document in page["items"]], page["next_cursor"]

    def read(self, path: str, params: Mapping[str, Any] | None = None) -> Operation[Any]:
        """Return what a GET of ``path`` answers, parsed."""
        response = yield from self._get(path, params=params)
        return _json(response)

    def cancel(self, job_id: str) -> Operation[Snapshot]:
        """Ask for a job's end and return the job; twice is the same as once."""
        response = yield from self.send(lambda: nullcontext(self.request("POST", f"{job_path(job_id)}/cancel")))
        return _snapshot(response)

    def retry(self, job_id: str) -> Operation[Snapshot]:
        """Queue a failed or canceled job again; repeated only where the first request was surely not carried out."""
        request = self.request("POST", f"{job_path(job_id)}/retry")
        response = yield from self.send(lambda: nullcontext(request), once=True)
        return _snapshot(response)

    def delete(self, job_id: str) -> Operation[None]:
        """Delete a job with all its files; one that is gone at a repeated request was deleted by the first."""
        sent = 0

        def prepare() -> AbstractContextManager[httpx.Request]:
            nonlocal sent
            sent += 1
            return nullcontext(self.request("DELETE", job_path(job_id)))

        try:
            yield from self.send(prepare)
        except NotFound:
            if sent == 1:
                raise

    def poll(self, last: Snapshot, *, deadline: float | None = None) -> Operation[Snapshot]:
        """Return the job when it differs from ``last``; where the service does not wait, look as often as it asks.

        Raises:
            WaitTimeout: ``deadline`` (of ``clock``) has come and nothing has changed.

        """
        pause, etag, path = _FIRST_POLL, last.etag, job_path(str(last.document["id"]))
        while True:
            left = _LONGEST_WAIT if deadline is None else deadline - self.clock()
            wait = int(max(0, min(left, _LONGEST_WAIT, self.timeout / 2)))  # a silence of ``timeout`` would be an error
            headers = {"If-None-Match": etag} | ({"Prefer": f"wait={wait}"} if wait else {}) if etag else {}
            response = yield from self._get(path, headers=headers)
            if response.status_code != httpx.codes.NOT_MODIFIED:
                now = _snapshot(response)
                if now.document != last.document:
                    return now
                etag = now.etag
            if left <= 0:
                raise WaitTimeout(JobView(last))
            can_wait = etag and not headers  # from the next time on
            if "Preference-Applied" not in response.headers and not can_wait:
                delay = retry_after(response)
                yield Sleep(min(left, pause if delay is None else max(delay, _FIRST_POLL)))
                pause = min(pause * 1.5, _LAST_POLL)

    def request(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> httpx.Request:
        """Make a request to ``path`` with the headers and time limits that all of them have."""
        url = httpx.URL(self.url + path)
        fields = {"Host": url.netloc.decode("ascii"), **self.headers, **(headers or {})}
        limits = httpx.Timeout(self.timeout, connect=min(self.timeout, 10)).as_dict()
        return httpx.Request(method, url, headers=fields, extensions={"timeout": limits}, **options)

    def send(
        self,
        prepare: Callable[[], AbstractContextManager[httpx.Request]],
        *,
        stream: bool = False,
        repeatable: bool = True,
        once: bool = False,
    ) -> Operation[httpx.Response]:
        """Send what ``prepare`` makes until there is a good answer or no point in going on.

        ``repeatable`` is False for a body that cannot be read again. With ``once``, a request that may have been carried
        out is not sent again.
        """
        failures = 0
        while True:
            failure: ClientError
            with prepare() as request:
                try:
                    response: httpx.Response = yield Send(request, stream)
                except httpx.LocalProtocolError as error:
                    hint = "did the file change while it was sent?"
                    raise ClientError(f"the upload did not go through: {error}", hint=hint) from error
                except httpx.TransportError as error:
                    failure = Unreachable(
                        f"{bare(self.url)} does not answer: {words(error)}", hint="is the service running?"
                    )
                    failure.__cause__ = error
                    hopeless = once and not isinstance(error, _NEVER_SENT)
                    wait = 0.0
                else:
                    if response.has_redirect_location:
                        target = response.headers["Location"]
                        raise Unreachable(f"{bare(self.url)} redirects to {target}", hint="use that address")
                    if not response.is_error:
                        return response
                    refused = failure = refusal(response)
                    wait = refused.retry_after or 0.0
                    hopeless = not refused.repeated or wait > _PATIENCE  # a quota of the day, for example
            if hopeless or not repeatable or failures >= self.retries:
                raise failure
            yield self.pause(failure, failures, at_least=wait)
            failures += 1

    def pause(self, failure: ClientError, failures: int, *, at_least: float = 0) -> Sleep:
        """Return the pause after a failure that so many came before, and tell ``on_retry`` of it."""
        seconds = max(self._delay(failures), at_least)
        if self.on_retry:
            self.on_retry(failure, seconds)
        return Sleep(seconds)

    def _get(self, path: str, **options: Any) -> Operation[httpx.Response]:
        return (yield from self.send(lambda: nullcontext(self.request("GET", path, **options))))

    def _delay(self, failures: int) -> float:
        longest = min(self.backoff * 2.0**failures, self.backoff_cap)
        return longest / 2 + longest / 2 * self.chance()


def disposition(name: str) -> str:
    """Write a file name as ``Content-Disposition`` (RFC 6266), in UTF-8 where ASCII will not do (RFC 8187)."""
    if name.isascii() and name.isprintable() and not set(name) & set('"\\%'):
        return f'attachment; filename="{name}"'
    return f"attachment; filename*=UTF-8''{quote(name, safe='', errors='replace')}"


def digest(sha256: str) -> str:
    """Write a hexadecimal SHA-256 as ``Repr-Digest`` (RFC 9530); anything else raises ValueError."""
    value = bytes.fromhex(sha256)
    if len(value) != hashlib.sha256().digest_size:
        raise ValueError("sha256 takes 64 hexadecimal digits")
    return f"sha-256=:{base64.b64encode(value).decode()}:"


def quoted(key: str) -> str:
    """Write an Idempotency-Key as a string of structured fields (RFC 9651, section 3.3.3)."""
    if not (key and key.isascii() and key.isprintable()):
        raise ValueError("an idempotency key is made of printable ASCII characters")
    return '"' + key.replace("\\", "\\\\").replace('"', '\\"') + '"'


def job_path(job_id: str) -> str:
    """Return the path of a job; anything in ``job_id`` stays one segment of it."""
    return f"/v1/jobs/{quote(job_id, safe='')}"


def _json(response: httpx.Response) -> Any:
    try:
        return response.json()
    except ValueError as error:
        raise Unreachable(f"{response.url} answered something that is not JSON", hint="is this the service?") from error


def _snapshot(response: httpx.Response) -> Snapshot:
    document = _json(response)
    if not isinstance(document, dict) or not {"id", "status", "done"} <= document.keys():
        raise Unreachable(f"{response.url} answered something that is not a job", hint="is this the service?")
    return Snapshot(document, response.headers.get("ETag"), retry_after(response))


def words(error: httpx.TransportError) -> str:
    """Say what went wrong; some of these errors have no message."""
    return str(error) or type(error).__name__


def bare(url: str) -> str:
    """Return an address without the user and password in it: fit for messages."""
    return str(httpx.URL(url).copy_with(userinfo=b""))
