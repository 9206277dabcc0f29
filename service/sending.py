"""The part of the composition root that sends: what tells people and services, by the settings."""

from __future__ import annotations

from service.jobs.notices import Kind
from service.notify.base import Sender
from service.notify.outbox import Outbox
from service.settings import Settings
from service.wiring import Services


def build_outbox(settings: Settings, services: Services) -> Outbox:
    """Build what sends notices. What it sends with is loaded when there is something to send."""

    def webhooks() -> Sender:
        from service.notify.webhooks import WebhookSender

        timeout = settings.webhook_timeout.total_seconds()
        return WebhookSender(endpoints=services.endpoints, guard=services.guard, timeout=timeout)

    def email() -> Sender:
        from service.notify.email import EmailSender

        return EmailSender(
            host=settings.smtp_host,
            port=settings.smtp_port,
            security=settings.smtp_security,
            user=settings.smtp_user,
            password_file=settings.smtp_password_file,
            sender=settings.email_from,
            templates=settings.email_templates,
            public_url=settings.public_url,
        )

    return Outbox(
        store=services.store,
        senders={Kind.WEBHOOK: webhooks, Kind.EMAIL: email},
        clock=services.clock,
        counts=services.counts,
        poll=settings.poll.total_seconds(),
        root_path=settings.root_path,
    )
