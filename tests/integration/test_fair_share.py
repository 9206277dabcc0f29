"""One client's flood leaves the others' wait alone, from the upload to the start of the attempt."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx

from service.testing import Server
from tests.http import NO_TLS
from tests.integration.api import finished, go_on, holding, submit
from tests.integration.conftest import CONTROLLED

if TYPE_CHECKING:
    from pathlib import Path


def test_ten_to_one_the_few_start_within_twice_their_turn(tmp_path: Path):
    with Server(tmp_path, slots=1, durability="none", **CONTROLLED) as server:
        clients = []
        for name in ("flood", "few"):
            token = {"Authorization": f"Bearer {server.token('jobs:write', 'jobs:read', name=name)}"}
            clients.append(httpx.Client(base_url=server.url, timeout=30, trust_env=False, verify=NO_TLS, headers=token))
        flood, few = clients
        with flood, few:
            first = holding(flood)  # nothing else starts until all have come
            many = [submit(flood) for _ in range(50)]
            mine = [submit(few) for _ in range(5)]
            go_on(server, first)
            for http, jobs in ((few, mine), (flood, many)):
                for job in jobs:
                    finished(http, job)
    order = sorted((server.record(job["id"])["started_at"], job["id"]) for job in [*many, *mine])
    places = [[one for _, one in order].index(job["id"]) + 1 for job in mine]
    assert all(place <= 2 * alone for alone, place in enumerate(places, start=1)), places
