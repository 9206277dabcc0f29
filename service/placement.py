"""The storage that the settings ask for, and which records belong to which bytes: a part of the composition root.

Bytes without their records are leftovers to whoever looks at them with other records, and would be swept. So each place knows
whose it is, and a start with what does not belong together is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from service.durable import Disk, locked
from service.errors import ConfigError
from service.ids import new_id
from service.settings import Settings
from service.storage.address import FILES
from service.storage.base import Storage
from service.storage.local import LocalStorage

if TYPE_CHECKING:
    from service.storage.s3 import Bucket

_OWNER: Final = "owner"  #: key of the object that says whose the bytes of a bucket are


def build_storage(settings: Settings, records: Callable[[], str], *, disk: Disk) -> Storage:
    """Build the storage for the records of this identity, which is asked for where bytes are in a bucket.

    Raises ConfigError when it cannot be used, OSError when the data directory cannot be written to.
    """
    root, address, in_files = (
        settings.data_dir.resolve(),
        settings.bucket,
        settings.records.get_secret_value() == "files",
    )
    noted = root / "engine" / "bytes"  # is there once the bytes of the records in files are in a bucket
    if in_files and noted.exists() and noted.read_text() != (address.place if address else FILES):
        raise ConfigError(
            f"INTAKE_STORAGE={settings.storage}: the bytes of the jobs in {settings.data_dir} are in {noted.read_text()}; "
            "name that, or copy them and remove engine/bytes"
        )
    if address is None:
        return LocalStorage(root, disk=disk, reserve=settings.min_free)
    with extra("s3", "INTAKE_STORAGE"):
        from service.storage.objects import ObjectStorage
        from service.storage.s3 import Bucket
    bucket = Bucket(address, credentials=settings.s3_credentials)
    bucket.check()
    _claim(bucket, records())
    if in_files and not noted.exists():
        disk.write(noted, address.place.encode())
    return ObjectStorage(
        bucket,
        (settings.scratch or root / "scratch").resolve(),
        lease=settings.lease.total_seconds(),
        largest=settings.max_upload,
    )


def name_of(root: Path, disk: Disk) -> str:
    """Return what tells this data directory from any other, also after it was moved; made when it is asked for first."""
    path = root / "engine" / "name"
    disk.make_folders(path.parent)
    with locked(path.parent):
        if not path.exists():
            disk.write(path, new_id().encode("ascii"))
    return path.read_text(encoding="ascii")


@contextmanager
def extra(name: str, setting: str) -> Iterator[None]:
    """Say which extra of the package is missing when an import within fails. Raises ConfigError."""
    try:
        yield
    except ImportError as error:
        library = (error.name or "").partition(".")[0]
        raise ConfigError(f"{setting}: {library} is not installed; pip install 'file-intake[{name}]'") from error


def _claim(bucket: Bucket, records: str) -> None:
    """Require that the bytes in a bucket belong to these records, from now on or before. Raises ConfigError."""
    try:
        owner = _owner(bucket)
        if owner is None:
            with suppress(FileExistsError):  # another process was quicker
                bucket.put(_OWNER, f"{records}\n".encode(), new=True)
            owner = _owner(bucket)
    except OSError as error:
        raise ConfigError(f"INTAKE_STORAGE ({bucket.address}): {error}") from error
    if owner != records:
        raise ConfigError(
            f"INTAKE_STORAGE ({bucket.address}): its bytes belong to other records; use another prefix, or set INTAKE_RECORDS "
            "(on several machines to the same database). If you have moved the records, remove the object `owner`"
        )


def _owner(bucket: Bucket) -> str | None:
    try:
        with bucket.read(_OWNER) as body:
            return body.read(200).decode("utf-8", "replace").strip()
    except FileNotFoundError:
        return None
