"""Trying an endpoint out: one signed ``webhook.ping``, sent at once by whoever asks for it, and never again."""

from __future__ import annotations

from service.clock import utc_now
from service.ids import new_id
from service.jobs.notices import Delivery, Kind, Notice
from service.notify.base import Letter, Outcome
from service.notify.endpoints import no_such_endpoint
from service.notify.guard import Guard
from service.settings import Settings
from service.shared import build_endpoints


async def ping(settings: Settings, name: str) -> Outcome:
    """Send a ping to a standing endpoint and return what became of it. Raises NotFound."""
    from service.notify.webhooks import WebhookSender

    endpoints, now = build_endpoints(settings), utc_now()
    endpoint = endpoints.get(name)
    if endpoint is None or endpoint.url is None:
        raise no_such_endpoint(name)
    delivery = Delivery(to=name, kind=Kind.WEBHOOK, address=endpoint.url)
    notice = Notice(id=f"msg_{new_id().replace('-', '')}_ping", event="webhook.ping", at=now, deliveries=(delivery,))
    sender = WebhookSender(
        endpoints=endpoints,
        guard=Guard(settings.names("webhook_allow")),
        timeout=settings.webhook_timeout.total_seconds(),
    )
    try:
        return await sender.send(Letter(notice=notice, delivery=delivery, job={"endpoint": name}, owner=None, at=now))
    finally:
        await sender.close()
