"""What the commands of this machine leave in the audit log: like the API, with the user in the place of the token."""

from __future__ import annotations

import getpass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from service.settings import Settings


def audited(settings: Settings, action: str, **members: str) -> None:
    """Write down what was done by whoever runs this command."""
    from service.audit import Audit

    try:
        user = getpass.getuser()
    except (OSError, KeyError):  # of an id without a name, in a container
        user = None
    Audit.of(settings).write(action, user=user, **members)
