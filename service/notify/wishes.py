"""What an upload may wish for: to have somebody told of the end of its job. Allowed by the settings, or refused with the reason."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from service.errors import Invalid
from service.names import is_address
from service.notify.endpoints import Endpoints, callback_id
from service.notify.guard import Guard, RefusedError


class Wishes:
    """The rule for one service. It looks at what was said; where a name leads is judged when something is sent."""

    def __init__(
        self, *, callback_hosts: Sequence[str], recipients: Sequence[str], guard: Guard, endpoints: Endpoints
    ) -> None:
        self._hosts = callback_hosts
        self._recipients = recipients
        self._guard = guard
        self._endpoints = endpoints

    def callback(self, url: str, owner: str | None) -> str:
        """Return the URL if the jobs of this owner may name it. Reads one small file; raises Invalid."""
        if not self._hosts:
            raise _refused("This service makes no callbacks.", "Have the operator set INTAKE_CALLBACK_HOSTS.")
        try:
            host = self._guard.check(url)
        except RefusedError as error:
            raise _refused(
                f"The callback_url cannot be called: {error}.", "Give a URL of a host on the Internet."
            ) from None
        if not any(fnmatchcase(host.lower(), pattern) for pattern in self._hosts):
            raise _refused(
                f"The host {host[:200]!r} is none that callbacks may go to.",
                f"INTAKE_CALLBACK_HOSTS allows {', '.join(self._hosts)}.",
            )
        if self._endpoints.get(callback_id(owner)) is None:
            raise Invalid(
                "There is no secret yet that callbacks could be signed with.",
                code="callback-secret-missing",
                hint="Make one with POST /v1/callback-secret, or `intake webhooks callback-secret`.",
                field="callback_url",
            )
        return url

    def email(self, address: str) -> str:
        """Return the address if jobs may name it. Raises Invalid."""
        if not is_address(address) or not any(fnmatchcase(address.lower(), one) for one in self._recipients):
            allowed = ", ".join(self._recipients)
            raise Invalid(
                "The notify_email is no address that this service writes to.",
                code="email-refused",
                hint=f"INTAKE_NOTIFY_RECIPIENTS allows {allowed}."
                if allowed
                else "Have the operator set INTAKE_NOTIFY_RECIPIENTS.",
                field="notify_email",
            )
        return address


def not_by_link(_: str) -> str:
    """Refuse the wish of whoever has but a signed link: it speaks for another, and was given away for one file. Raises Invalid."""
    raise Invalid(
        "An upload by a link cannot say who is told of its end.",
        code="wish-by-link",
        hint="Leave callback_url and notify_email out; whoever made the link can follow the job.",
    )


def _refused(detail: str, hint: str) -> Invalid:
    return Invalid(detail, code="callback-refused", hint=hint, field="callback_url")
