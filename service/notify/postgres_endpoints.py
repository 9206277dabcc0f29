"""Endpoints of webhooks in the database of the records: the same on every machine."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from service.jobs.postgres.database import Cursor, Database
from service.notify.endpoints import Endpoint, no_such_endpoint, standing

log = structlog.get_logger(__name__)


class PostgresEndpoints:
    """The endpoints of a deployment, with their secrets: whoever may read the table can sign."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def put(self, endpoint: Endpoint) -> None:
        """Keep it."""
        self._database.run(lambda cursor: _keep(cursor, endpoint))

    def get(self, name: str) -> Endpoint | None:
        """Return it."""
        found = self._database.rows("select endpoint from endpoints where id = %s", [name])
        return _read(name, found[0][0]) if found else None

    def all(self) -> list[Endpoint]:
        """Return all of them."""
        return self._found("")

    def standing(self) -> list[Endpoint]:
        """Return those with a URL."""
        return standing(self._found("ep_"))

    def change(self, name: str, change: Callable[[Endpoint], Endpoint]) -> Endpoint:
        """Replace it."""

        def work(cursor: Cursor) -> Endpoint:
            row = cursor.execute("select endpoint from endpoints where id = %s for update", [name]).fetchone()
            found = _read(name, row[0]) if row else None
            if found is None:
                raise no_such_endpoint(name)
            after = change(found)
            _keep(cursor, after)
            return after

        return self._database.run(work)

    def remove(self, name: str) -> None:
        """Forget it."""
        sql = "delete from endpoints where id = %s returning id"
        if not self._database.run(lambda cursor: cursor.execute(sql, [name]).fetchall()):
            raise no_such_endpoint(name)

    def _found(self, prefix: str) -> list[Endpoint]:
        rows = self._database.rows("select id, endpoint from endpoints where starts_with(id, %s)", [prefix])
        return [one for row in rows if (one := _read(*row)) is not None]


def _keep(cursor: Cursor, endpoint: Endpoint) -> None:
    sql = "insert into endpoints values (%s, %s) on conflict (id) do update set endpoint = excluded.endpoint"
    cursor.execute(sql, [endpoint.id, endpoint.model_dump_json()])


def _read(name: str, text: str) -> Endpoint | None:
    try:
        found = Endpoint.model_validate_json(text)
    except ValueError:
        log.error("the record of a webhook endpoint cannot be read; it counts as unknown", endpoint=name)
        return None
    return found if found.id == name else None
