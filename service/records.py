"""The job store that the settings ask for: a part of the composition root."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.clock import Clock, utc_now
from service.durable import Disk, locked
from service.errors import ConfigError
from service.ids import new_id
from service.jobs.file_store import FileJobStore
from service.jobs.store import JobStore
from service.settings import Settings


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
    mine = _name_of(settings.data_dir.resolve(), Disk(sync=durable))
    if store.belong_to(mine) != mine:
        store.close()
        raise ConfigError(
            f"INTAKE_DATA_DIR={settings.data_dir}: the records of INTAKE_RECORDS belong to the bytes of another data directory; "
            "name that one, or another database"
        )
    return store


def _name_of(root: Path, disk: Disk) -> str:
    """Return what tells this data directory from any other, also after it was moved; made when it is asked for first."""
    path = root / "engine" / "name"
    disk.make_folders(path.parent)
    with locked(path.parent):
        if not path.exists():
            disk.write(path, new_id().encode("ascii"))
    return path.read_text(encoding="ascii")


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


@contextmanager
def extra(name: str, setting: str) -> Iterator[None]:
    """Say which extra of the package is missing when an import within fails. Raises ConfigError."""
    try:
        yield
    except ImportError as error:
        raise ConfigError(f"{setting}: {error.name} is not installed; pip install 'file-intake[{name}]'") from error
