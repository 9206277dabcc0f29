"""The job store that the settings ask for: a part of the composition root."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from service.clock import Clock, utc_now
from service.durable import Disk
from service.errors import ConfigError
from service.jobs.file_store import FileJobStore
from service.jobs.store import JobStore
from service.placement import extra, name_of
from service.settings import Settings

if TYPE_CHECKING:
    from service.jobs.postgres_store import PostgresJobStore


def build_store(settings: Settings, *, clock: Clock = utc_now) -> JobStore:
    """Build the job store alone. Raises ConfigError when it cannot be used, OSError when its folders cannot be made."""
    url, times = (
        settings.records.get_secret_value(),
        {"key_ttl": settings.idempotency_ttl, "gone_for": settings.gone_for},
    )
    durable = settings.durability == "sync"
    if url == "files":
        return FileJobStore(settings.data_dir.resolve(), disk=Disk(sync=durable), clock=clock, **times)
    with extra("postgres", "INTAKE_RECORDS"):
        from service.jobs.postgres_store import PostgresJobStore
    store = PostgresJobStore(url, durable=durable, lease=settings.lease, clock=clock, **times)
    bytes_are = settings.bucket.place if settings.bucket else name_of(settings.data_dir.resolve(), Disk(sync=durable))
    if (noted := store.belong_to(bytes_are)) != bytes_are:
        store.close()
        where = f"INTAKE_STORAGE={settings.storage}" if settings.bucket else f"INTAKE_DATA_DIR={settings.data_dir}"
        raise ConfigError(
            f"{where}: the records of INTAKE_RECORDS belong to other bytes, those of {_told(noted)}; name that, or another "
            "database"
        )
    return store


def identity_of(settings: Settings, store: JobStore) -> str:
    """Return what tells these records from any others, as the bytes that belong to them note it."""
    if settings.records.get_secret_value() == "files":
        return f"files:{name_of(settings.data_dir.resolve(), Disk(sync=settings.durability == 'sync'))}"
    return cast("PostgresJobStore", store).identity()


def _told(place: str) -> str:
    return place if "://" in place else "another data directory"


def migrate(settings: Settings, *, check: bool = False) -> tuple[str | None, str]:
    """Migrate the records' database; return the schema it was at, and the one that is needed. With ``check`` change nothing.

    Raises ConfigError when there is no such database, or its schema is newer than this version.
    """
    url = settings.records.get_secret_value()
    if url == "files":
        raise ConfigError("INTAKE_RECORDS=files: files need no migration; name a PostgreSQL database")
    with extra("postgres", "INTAKE_RECORDS"):
        from service.jobs.postgres import schema
    return schema.migrate(url, check=check)
