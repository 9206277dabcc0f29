"""The storage that the settings ask for, and which records belong to which bytes: a part of the composition root.

Bytes without their records are leftovers to whoever looks at them with other records, and would be swept. So each place knows
whose it is, and a start with what does not belong together is refused.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Final

from service.durable import Disk, locked
from service.errors import ConfigError
from service.ids import new_id
from service.settings import Settings
from service.storage.base import Storage
from service.storage.local import LocalStorage

if TYPE_CHECKING:
    from service.storage.s3 import Bucket

_OWNER: Final = "owner"  #: key of the object that says whose the bytes of a bucket are


def build_storage(settings: Settings, *, disk: Disk) -> Storage:
    """Build the storage. Raises ConfigError when it cannot be used, OSError when the data directory cannot be written to."""
    root, address = settings.data_dir.resolve(), settings.bucket
    elsewhere = root / "engine" / "bytes"  # is there once the bytes of these records are in a bucket
    if address is None:
        if elsewhere.exists() and _is_files(settings):
            raise ConfigError(
                f"INTAKE_STORAGE=files: the bytes of the jobs in {settings.data_dir} are in {elsewhere.read_text().split()[0]}; "
                "set INTAKE_STORAGE to that, or copy them here and remove engine/bytes"
            )
        return LocalStorage(root, disk=disk, reserve=settings.min_free)
    with extra("s3", "INTAKE_STORAGE"):
        from service.storage.objects import ObjectStorage
        from service.storage.s3 import Bucket
    bucket = Bucket(address, credentials=settings.s3_credentials)
    bucket.check()
    name = _claimed(bucket, settings, name_of(root, disk))
    if _is_files(settings):
        told = f"{address.place} {name}"
        if not elsewhere.exists():
            disk.write(elsewhere, told.encode())
        elif elsewhere.read_text() != told:
            raise ConfigError(
                f"INTAKE_STORAGE={settings.storage}: the bytes of the jobs in {settings.data_dir} are in "
                f"{elsewhere.read_text().split()[0]}; name that, or copy them and remove engine/bytes"
            )
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
        raise ConfigError(f"{setting}: {error.name} is not installed; pip install 'file-intake[{name}]'") from error


def _is_files(settings: Settings) -> bool:
    return settings.records.get_secret_value() == "files"


def _claimed(bucket: Bucket, settings: Settings, mine: str) -> str:
    """Return the name of the bytes in a bucket, which are this data directory's, at the latest from now on. Raises ConfigError."""
    place = f"INTAKE_STORAGE ({bucket.address})"
    try:
        owner = _owner(bucket)
        if owner is None:
            with suppress(FileExistsError):  # another process was quicker
                bucket.put(_OWNER, json.dumps({"name": new_id(), "data_dir": mine}).encode(), new=True)
            owner = _owner(bucket)
    except OSError as error:
        raise ConfigError(f"{place}: {error}") from error
    if owner is None or "name" not in owner:
        raise ConfigError(f"{place}: its object {_OWNER!r} is not one of this service's; use another prefix")
    if owner.get("data_dir") != mine:
        raise ConfigError(
            f"{place}: its bytes belong to the records of another data directory than INTAKE_DATA_DIR={settings.data_dir}; "
            "name that one, or another prefix"
        )
    return owner["name"]


def _owner(bucket: Bucket) -> dict[str, str] | None:
    try:
        with bucket.read(_OWNER) as body:
            told = json.loads(body.read(4096))
    except FileNotFoundError:
        return None
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
