"""What all processes must agree on beside jobs: tokens, what they have used, links, endpoints. A part of the composition root.

They are where the records are: in the data directory, or in the database, where any number of machines has the same.
"""

from __future__ import annotations

import atexit
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from service.access.file_store import FileTokenStore
from service.access.links import FileLinks, Links
from service.access.quota import FileUsage, Usage
from service.access.store import TokenStore
from service.durable import Disk
from service.errors import ConfigError
from service.notify.endpoints import Endpoints, FileEndpoints
from service.placement import extra
from service.settings import Settings

if TYPE_CHECKING:
    from service.jobs.postgres.database import Database

_CONNECTIONS: Final = 4  #: of one process, apart from those of the records: a change of a record may ask for endpoints


@dataclass(frozen=True, kw_only=True)
class Shared:
    """These parts of one process."""

    tokens: TokenStore
    usage: Usage
    links: Links
    endpoints: Endpoints
    close: Callable[[], None]


def build_shared(settings: Settings) -> Shared:
    """Build all of them. Raises ConfigError, or OSError when folders cannot be made."""
    if settings.records.get_secret_value() == "files":
        root, disk = settings.data_dir.resolve(), _disk(settings)
        return Shared(
            tokens=FileTokenStore(root, disk=disk),
            usage=FileUsage(root),
            links=FileLinks(root, disk=disk),
            endpoints=FileEndpoints(root, disk=disk),
            close=lambda: None,
        )
    database = _database(settings)
    from service.access.postgres_store import PostgresLinks, PostgresTokenStore, PostgresUsage
    from service.notify.postgres_endpoints import PostgresEndpoints

    return Shared(
        tokens=PostgresTokenStore(database),
        usage=PostgresUsage(database),
        links=PostgresLinks(database),
        endpoints=PostgresEndpoints(database),
        close=database.close,
    )


def build_tokens(settings: Settings) -> TokenStore:
    """Build the tokens alone, for a process that has little else to do. Raises ConfigError when they cannot be kept there."""
    if settings.records.get_secret_value() != "files":
        return _for_good(build_shared(settings)).tokens
    root, disk = settings.data_dir.resolve(), _disk(settings)
    try:
        disk.make_folders(root)
        return FileTokenStore(root, disk=disk)
    except OSError as error:
        raise ConfigError(f"INTAKE_DATA_DIR={settings.data_dir}: {error.strerror or error}") from error


def build_endpoints(settings: Settings) -> Endpoints:
    """Build the webhook endpoints alone, likewise."""
    if settings.records.get_secret_value() != "files":
        return _for_good(build_shared(settings)).endpoints
    return FileEndpoints(settings.data_dir.resolve(), disk=_disk(settings))


def _for_good(shared: Shared) -> Shared:
    atexit.register(shared.close)
    return shared


def _database(settings: Settings) -> Database:
    with extra("postgres", "INTAKE_RECORDS"):
        from service.jobs.postgres.schema import opened
    durable = settings.durability == "sync"
    return opened(settings.records.get_secret_value(), durable=durable, size=_CONNECTIONS)


def _disk(settings: Settings) -> Disk:
    return Disk(sync=settings.durability == "sync")
