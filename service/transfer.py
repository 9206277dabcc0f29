"""Moving records of jobs between stores, by way of a file: one record a line, as each store keeps it. Bytes stay where they are.

What moves: records, and the Idempotency-Keys that lead to them; tokens, and endpoints of webhooks with their secrets. What does
not: tombstones of expired jobs, progress, what was used of quotas, signed links, which end, and figures, which the new store counts
anew from the records it gets.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from service.access.model import Token
from service.durable import Disk
from service.errors import ConfigError, Conflict, Gone, IntakeError, KeyInFlight, NotFound, RecordCorrupt
from service.ids import is_id
from service.jobs.lease import is_led
from service.jobs.model import Job
from service.jobs.record import decode, encode
from service.jobs.store import JobStore
from service.notify.endpoints import Endpoint
from service.wiring import Services

NAME: Final = "records.jsonl"
ACCESS: Final = "access.jsonl"  #: tokens and endpoints; readable by its user alone


@dataclass(frozen=True, kw_only=True)
class Moved:
    """What was moved: how many records, how many were there already, and what could not be, with the reason."""

    records: int
    skipped: int
    failed: tuple[str, ...]


def require_stopped(services: Services) -> None:
    """Raise Conflict while a supervisor runs on the data directory: a job must not run under two records."""
    root = services.settings.data_dir.resolve()
    if is_led(root):
        raise Conflict(
            "The service runs on this data directory.", hint="Stop `intake serve` and `intake worker` first."
        )


def export(services: Services, folder: Path) -> Moved:
    """Write all records into ``folder``; durable when this returns. Raises Conflict if there is an export already."""
    require_stopped(services)
    target, disk = folder / NAME, Disk()
    if target.exists():
        raise Conflict(f"There is an export in {folder} already.", hint="Name another folder.")
    disk.make_folders(folder)
    new, count, failed = target.with_suffix(".new"), 0, list[str]()
    with new.open("wb") as out:
        for job_id in services.store.walk():
            try:
                out.write(encode(services.store.get(job_id)))
                count += 1
            except NotFound:  # deleted meanwhile, or a folder without a record
                continue
            except RecordCorrupt as error:
                failed.append(f"{services.store.where(job_id)}: {error}")
        out.flush()
        disk.sync_file(out.fileno())
    _export_access(services, folder / ACCESS, disk)
    new.replace(target)
    disk.sync_folder(folder)
    return Moved(records=count, skipped=0, failed=tuple(failed))


def load(services: Services, folder: Path) -> Moved:
    """Take the records of an export that are not there yet, or are older there; doing it twice is the same as once."""
    require_stopped(services)
    count, skipped, failed = 0, 0, list[str]()
    for number, line in enumerate(_lines(folder / NAME), 1):
        try:
            taken = _take(services.store, decode(line, _id_of(line)))
        except (IntakeError, ValueError) as error:
            failed.append(f"line {number}: {error}")
            continue
        count, skipped = count + taken, skipped + (not taken)
    _load_access(services, folder / ACCESS)
    return Moved(records=count, skipped=skipped, failed=tuple(failed))


def _export_access(services: Services, path: Path, disk: Disk) -> None:
    tokens = [{"token": one.model_dump(mode="json")} for one in services.tokens.all()]
    endpoints = [{"endpoint": one.model_dump(mode="json")} for one in services.endpoints.all()]
    disk.write(path, "".join(f"{json.dumps(one)}\n" for one in [*tokens, *endpoints]).encode(), mode=0o600)


def _load_access(services: Services, path: Path) -> None:
    """Take tokens and endpoints that are not there yet. Nobody is let in who was not: a line that cannot be read stops it."""
    if not path.exists():
        return
    for line in path.read_bytes().splitlines():
        match json.loads(line):
            case {"token": told}:
                token = Token.model_validate(told)
                if services.tokens.get(token.id) is None:
                    services.tokens.add(token)
            case {"endpoint": told}:
                endpoint = Endpoint.model_validate(told)
                if services.endpoints.get(endpoint.id) is None:
                    services.endpoints.put(endpoint)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as lines:
            yield from lines
    except FileNotFoundError:
        raise ConfigError(f"there is no export in {path.parent}: it has no {path.name}") from None


def _id_of(line: bytes) -> str:
    job_id = json.loads(line).get("id")
    if not isinstance(job_id, str) or not is_id(job_id):
        raise ValueError("it is not a record")
    return job_id


def _take(store: JobStore, job: Job) -> bool:
    try:
        if store.get(job.id).version >= job.version:
            return False
        store.update(job.id, lambda _: job)
    except Gone:  # it was deleted here
        return False
    except NotFound:
        _bind(store, job)
        store.create(job)
    store.settle(job.id)
    return True


def _bind(store: JobStore, job: Job) -> None:
    if job.key is not None:
        try:
            with store.hold_key(job.key) as hold:
                if hold.known is None:
                    hold.bind(job.id)
        except KeyInFlight as error:
            raise Conflict("Its Idempotency-Key is being used.", hint="Try again.") from error
