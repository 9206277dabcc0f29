"""Sending one webhook: Standard Webhooks 1.0, signed by its own library, over a connection to a judged address.

A redirect is a failure and is not followed; no proxy of the environment is used; the answer is read to 64 KiB at most and within
the time of the try, and only its status counts.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from email.utils import parsedate_to_datetime
from typing import Any, Final

import httpcore
import httpx
import structlog
from standardwebhooks.webhooks import Webhook

from service import __version__
from service.jobs.document import json_bytes
from service.notify.base import Letter, Outcome
from service.notify.endpoints import Endpoints, callback_id
from service.notify.guard import Guard, RefusedError

log = structlog.get_logger(__name__)
_MOST: Final = 64 * 2**10  #: bytes of an answer that are read
_CONNECT: Final = 3.0  #: seconds for one address
_GONE: Final = 410
_REDIRECTS: Final = range(300, 400)

logging.getLogger("httpx").setLevel(logging.WARNING)  # it would log URLs, which may be somebody's secret


class WebhookSender:
    """Sends webhooks. One for a process and its event loop."""

    def __init__(self, *, endpoints: Endpoints, guard: Guard, timeout: float) -> None:
        self._endpoints = endpoints
        self._timeout = timeout
        self._http = httpx.AsyncClient(
            transport=_PinnedTransport(guard), trust_env=False, follow_redirects=False, timeout=timeout
        )

    async def send(self, letter: Letter) -> Outcome:
        """Try once. A 2xx is a success; 410 ends the endpoint; 429 and 503 may say how long to wait."""
        standing = letter.delivery.to.startswith("ep_")
        name = letter.delivery.to if standing else callback_id(letter.owner)
        endpoint = await asyncio.to_thread(self._endpoints.get, name)
        secrets = endpoint.valid_secrets(letter.at) if endpoint else []
        if endpoint is None or endpoint.disabled_at is not None or not secrets:
            said = (
                "was disabled" if endpoint and endpoint.disabled_at else "has no secret" if endpoint else "was removed"
            )
            return Outcome(ok=False, detail=f"The endpoint {said}.", final=True)
        outcome = await self._post(letter.delivery.address, *signed(letter, secrets))
        if outcome.status == _GONE and standing:
            why = "it answered 410 Gone"
            change = {"disabled_at": letter.at, "disabled_because": why}
            await asyncio.to_thread(self._endpoints.change, name, lambda one: one.evolve(**change))
            log.warning("a webhook endpoint is disabled", endpoint=name, reason=why)
        return outcome

    async def close(self) -> None:
        """Close what is open."""
        await self._http.aclose()

    async def _post(self, url: str, body: bytes, headers: dict[str, str]) -> Outcome:
        try:
            async with (
                asyncio.timeout(self._timeout),
                self._http.stream("POST", url, content=body, headers=headers) as response,
            ):
                read = 0
                async for part in response.aiter_raw():
                    read += len(part)
                    if read > _MOST:
                        break
                return _judged(response)
        except (TimeoutError, httpx.TimeoutException):
            return Outcome(ok=False, detail=f"No whole answer within {self._timeout:g} s.")
        except RefusedError as error:
            return Outcome(ok=False, detail=f"Not sent: {error}.")
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            return Outcome(ok=False, detail=f"{type(error).__name__}: {error}"[:200])


def payload(letter: Letter) -> bytes:
    """Return the body: the same bytes at every try."""
    at = letter.notice.model_dump(mode="json", include={"at"})["at"]
    return json_bytes({"type": letter.notice.event, "timestamp": at, "data": letter.job})


def signed(letter: Letter, secrets: Iterable[str]) -> tuple[bytes, dict[str, str]]:
    """Return body and headers, signed with each of these secrets for the moment of this try."""
    body = payload(letter)
    signatures = [Webhook(secret).sign(letter.notice.id, letter.at, body.decode()) for secret in secrets]
    return body, {
        "Content-Type": "application/json",
        "User-Agent": f"file-intake/{__version__}",
        "Accept-Encoding": "identity",
        "Connection": "close",
        "webhook-id": letter.notice.id,
        "webhook-timestamp": str(int(letter.at.timestamp())),
        "webhook-signature": " ".join(signatures),
    }


def _judged(response: httpx.Response) -> Outcome:
    status = response.status_code
    if response.is_success:
        return Outcome(ok=True, detail="delivered", status=status)
    if status in _REDIRECTS:
        return Outcome(ok=False, detail=f"It answered {status}; redirects are not followed.", status=status)
    return Outcome(
        ok=False,
        detail=f"It answered {status}.",
        status=status,
        retry_after=_retry_after(response),
        final=status == _GONE,
    )


def _retry_after(response: httpx.Response) -> float | None:
    value = response.headers.get("retry-after", "")
    if value.isascii() and value.isdigit():
        return float(value[:9])
    try:
        then, now = (parsedate_to_datetime(text) for text in (value, response.headers["date"]))
        return max(0.0, (then - now).total_seconds())
    except (KeyError, ValueError, TypeError):
        return None


class _PinnedTransport(httpx.AsyncHTTPTransport):
    """httpx's transport, over connections to judged addresses. Name, certificate and Host stay those of the URL."""

    def __init__(self, guard: Guard) -> None:
        super().__init__(trust_env=False)
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=httpx.create_ssl_context(),  # heeds SSL_CERT_FILE
            max_connections=None,
            max_keepalive_connections=0,
            network_backend=_PinnedBackend(guard),
        )


class _PinnedBackend(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that the guard has found good at this moment, one after the other."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._plain = httpcore.AnyIOBackend()

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        failure: Exception | None = None
        try:
            addresses = await self._guard.addresses(host, port)
        except OSError as error:
            raise httpcore.ConnectError(f"{host} cannot be resolved") from error
        for address in addresses:
            try:
                return await self._plain.connect_tcp(address, port, timeout=_CONNECT)
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failure = error
        assert failure is not None, "there is an address, or it was refused"
        raise failure
