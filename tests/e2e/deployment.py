"""What the tests of the engine ``celery`` share: an API on a broker, and jobs wherever their records are."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import pytest

from service.testing import Server
from tests.brokers import NEEDS, Broker
from tests.e2e.rig import ENDS, get, serve
from tests.waiting import wait_until

LONG: Final = 90.0  #: seconds; a broker that comes back is asked again within half a minute


def on(kind: str) -> pytest.MarkDecorator:
    """Have a test run with one kind of broker alone."""
    return pytest.mark.parametrize("broker", [pytest.param(kind, marks=pytest.mark.needs(*NEEDS[kind]))], indirect=True)


def api(broker: Broker, folder: Path, **settings: Any) -> Server:
    """Return an API that is not started yet, with records in files that its workers share."""
    secret = folder / "broker"
    secret.write_text(f"{broker.url}\n")
    return serve(folder, engine="celery", broker_url_file=secret, durability="none", **{"data_shared": True} | settings)


def document(server: Server, job_id: str) -> dict[str, Any]:
    found: dict[str, Any] = get(server, f"/v1/jobs/{job_id}").json()
    return found


def ended(server: Server, job_id: str, timeout: float = LONG) -> dict[str, Any]:
    """Wait for the end of a job and return its document, wherever its record is."""

    def look() -> dict[str, Any] | None:
        found = document(server, job_id)
        return found if found["status"] in ENDS else None

    return wait_until(look, timeout, f"the end of {job_id}")


def state(server: Server) -> str:
    return str(get(server, "/readyz").json()["status"])


def succeeded(server: Server, *ids: str) -> None:
    """Wait until each of these jobs has succeeded, in one attempt."""
    for job_id in ids:
        found = ended(server, job_id)
        assert (found["status"], found["attempt"]) == ("succeeded", 1), found
