"""Checking a data directory: every record, marker, key, row and, where asked for, every byte; and bringing back what can be.

It may run beside the service. What looks wrong is looked at twice, the second time under the job's lock. Nothing is deleted that
might be the only copy of something: what belongs to no job goes to ``lost+found/`` in the data directory, and is named.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Final

from service.blob import is_whole
from service.durable import Disk, is_locked, locked
from service.errors import IntakeError, RecordCorrupt
from service.findings import FileExamination, Finding
from service.ids import is_id
from service.jobs.folders import job_folder
from service.jobs.index import JobIndex
from service.jobs.keys import key_path
from service.jobs.lease import is_led
from service.jobs.model import Artifact, Job, JobStatus
from service.jobs.notices import has_dead, is_open
from service.jobs.record import Overlay, decode, is_sealed
from service.maintenance import sweep_job
from service.wiring import Services

_AGAIN: Final = 0.2  #: seconds before what looks wrong is looked at again: somebody may be at work on it
_OWN: Final = frozenset({"job.json", "source", "lock", "lease", "progress.json", "room.json", "deleted.json"})
_LOCKS: Final = ("supervisor.lock", "start.lock", "index.lock")


class Fsck(FileExamination):
    """One look at a data directory. With ``deep`` it reads all files and the index; with ``repair`` it mends what it can."""

    def __init__(self, services: Services, *, deep: bool = False, repair: bool = False) -> None:
        settings = services.settings
        super().__init__(settings.data_dir.resolve(), Disk(sync=settings.durability == "sync"), repair=repair)
        self._store, self._storage = services.store, services.storage
        self._settings, self._clock = settings, services.clock
        self._deep = deep
        self._index = JobIndex(self._root / "engine" / "index.db")
        self._jobs = 0
        self._rows_wrong = False

    def run(self) -> Iterator[Finding]:
        """Yield what is wrong, thing by thing, and last how many jobs there are. A trouble with one thing hides no other."""
        indexed = self._deep and self._is_indexed()
        try:
            for folder in sorted((self._root / "jobs").glob("*/*/*/*"), reverse=True):
                yield from self._guarded(self._folder(folder), folder)
            for part in (self._upper(), self._markers(), self._keys(), self._incoming(), self._engine()):
                yield from self._guarded(part, self._root)
            if indexed:
                yield from self._guarded(self._rows(), self._root / "engine" / "index.db")
        finally:
            self._index.close()
        found = f"{self._jobs} jobs, {self._wrong} things wrong"
        yield Finding(level="fail" if self._wrong else "ok", subject="records", detail=found)

    def _folder(self, folder: Path) -> Iterator[Finding]:
        job_id = folder.name
        if not is_id(job_id) or job_folder(self._root, job_id) != folder or not folder.is_dir():
            yield from self._stray(folder)
            return
        self._jobs += 1
        subject = f"job {job_id}"
        try:
            data = (folder / "job.json").read_bytes()
            job = decode(data, job_id)
        except FileNotFoundError:
            self._jobs -= 1
            yield from self._without_record(job_id, folder, subject)
            return
        except (RecordCorrupt, OSError) as error:
            hint = (
                f"Look at {folder / 'job.json'}; `intake jobs delete {job_id}` removes the job. Its file is beside it."
            )
            yield from self._wrong_is(subject, str(error), hint)
            return
        if not is_sealed(data) and b'"sum"' in data:

            def mend() -> object:
                return self._store.update(job_id, lambda job: job.changed())

            detail = "The record was edited by hand."
            yield from self._wrong_is(subject, detail, "gives it a new sum.", mend, "It has a new sum.")
        if self._twice(job_id, self._is_astray):
            detail = "Its marker does not agree with its record: it would not be run, or is set aside without need."
            done = "It is where it belongs."

            def restore() -> None:
                with suppress(FileNotFoundError), (self._root / "pending" / job_id).open("r+b") as marker:
                    marker.truncate()
                self._store.restore(job_id)

            yield from self._wrong_is(subject, detail, "puts it where it belongs.", restore, done)
        if self._twice(job_id, self._is_told_wrongly):
            detail = "Its markers in outbox/ and deadletters/ do not say what its record says is to be sent."
            mend = partial(self._store.settle, job_id)
            yield from self._wrong_is(subject, detail, "lets them agree.", mend, "They agree.")
        yield from self._bytes_of(job, subject)
        yield from self._beside(job, folder, subject)
        yield from self._key_of(job, subject)
        if self._deep and self._twice(job_id, self._row_is_wrong):
            self._rows_wrong = True

    def _without_record(self, job_id: str, folder: Path, subject: str) -> Iterator[Finding]:
        if self._storage.is_receiving(job_id):
            return
        time.sleep(_AGAIN)
        if (folder / "job.json").exists() or not folder.exists():
            return
        if self._storage.is_closed(job_id) and not self._store.is_deleted(job_id):
            hint = f"The file is whole: upload its source again, then `intake jobs delete {job_id}`."
            detail = "The record of an accepted file is lost."
            if (self._root / "quarantine" / job_id).exists():
                yield from self._wrong_is(subject, detail, hint)
            else:
                yield from self._wrong_is(subject, detail, hint, lambda: self._store.set_aside(job_id), hint)
            return
        mend = partial(sweep_job, self._store, self._storage, job_id)
        detail = "It is left of an upload or of a delete that was cut short."
        yield from self._wrong_is(subject, detail, "sweeps it, as the supervisor does.", mend, "It is swept.")

    def _bytes_of(self, job: Job, subject: str) -> Iterator[Finding]:
        file, look = job.file, partial(is_whole, deep=self._deep)
        if not look(partial(self._storage.source_content, job.id), file.size, file.sha256):
            detail = "The file is not the one that was accepted, or is gone."
            yield from self._wrong_is(subject, detail, "Take it from a backup, or have it uploaded again.")
        for step, made in _artifacts(job):
            artifact = partial(self._storage.artifact_content, job.id, step, made)
            if not look(artifact, made.size, made.sha256):
                detail = f"The artifact {step}/{made.name} is not the one that was made, or is gone."
                yield from self._wrong_is(subject, detail, "Take it from a backup, or have the file uploaded again.")

    def _beside(self, job: Job, folder: Path, subject: str) -> Iterator[Finding]:
        """Look at what is beside record and source: locks, progress, and what belongs to nothing."""
        for name in ("lock", "lease"):
            yield from self._empty(folder / name, subject)
        with suppress(FileNotFoundError):
            try:
                good = Overlay.decode((folder / "progress.json").read_bytes()).id == job.id
            except ValueError:
                good = False
            if not good:
                mend = (folder / "progress.json").unlink
                detail = "The progress is not as it was written; it is shown to nobody."
                yield from self._wrong_is(subject, detail, "removes it.", mend, "It is removed.")
        if is_locked(folder / "lease"):
            return  # an attempt is at work here
        if job.status is JobStatus.RUNNING:  # a lost attempt, which the supervisor makes good
            if is_led(self._root) and self._twice(
                job.id, lambda now: now.status is JobStatus.RUNNING and not is_locked(folder / "lease")
            ):
                detail = "It is said to run, and nobody holds its lease."
                yield from self._wrong_is(subject, detail, "The supervisor takes it up again; look at its log if not.")
            return
        needed = {folder / f"attempt-{made.attempt}" / step / made.name for step, made in _artifacts(job)}
        waiting = [folder]
        while waiting:
            for path in sorted(waiting.pop().iterdir()):
                is_own = path.parent == folder and path.name in _OWN
                if path.is_dir() and not path.is_symlink() and any(path in one.parents for one in needed):
                    waiting.append(path)  # into others nobody has to look: an attempt may have nested them without end
                elif not is_own and path not in needed and self._twice(job.id, partial(_exists, path)):
                    yield from self._stray(path)

    def _key_of(self, job: Job, subject: str) -> Iterator[Finding]:
        young = self._clock() - job.created_at < self._settings.idempotency_ttl - timedelta(minutes=1)
        if job.key is None or not young:
            return
        path = key_path(self._root, job.key)
        if is_locked(path) or (path.is_file() and path.read_bytes() == job.id.encode()):
            return

        def mend() -> None:
            self._disk.make_folders(path.parent)
            self._disk.write(path, job.id.encode())

        detail = "Its Idempotency-Key does not lead to it: the same upload would make a second job."
        yield from self._wrong_is(subject, detail, "writes the key again.", mend, "The key is written again.")

    def _upper(self) -> Iterator[Finding]:
        """Look for what lies between the dated folders."""
        for pattern in ("*", "*/*", "*/*/*"):
            for path in (self._root / "jobs").glob(pattern):
                if not path.name.isdigit() or not path.is_dir():
                    yield from self._stray(path)

    def _markers(self) -> Iterator[Finding]:
        for kind in ("pending", "quarantine", "outbox", "deadletters"):
            for path in sorted((self._root / kind).iterdir()):
                job_id = path.name
                if not is_id(job_id):
                    yield from self._stray(path)
                    continue
                if kind != "pending":
                    yield from self._empty(path, f"{kind}/{job_id}")
                if job_folder(self._root, job_id).exists() or self._storage.is_receiving(job_id):
                    continue
                mend = path.unlink
                detail = "A marker of a job that is not there."
                yield from self._wrong_is(f"{kind}/{job_id}", detail, "removes it.", mend, "It is removed.")

    def _keys(self) -> Iterator[Finding]:
        for path in sorted((self._root / "keys").glob("*/*")):
            scope = path.name
            if path.parent.name != scope[:2] or len(scope) != 64:
                yield from self._stray(path)
            elif not is_locked(path):
                job_id = path.read_bytes().decode("ascii", "replace")
                if job_id and (not is_id(job_id) or not self._is_key_of(scope, job_id)):
                    yield from self._stray(path)

    def _incoming(self) -> Iterator[Finding]:
        for job_id in sorted(self._storage.leftovers()):
            if not self._storage.is_receiving(job_id):
                mend = partial(sweep_job, self._store, self._storage, job_id)
                detail = "It is left of an upload whose process died."
                hint = "sweeps it, as the supervisor does."
                yield from self._wrong_is(f"incoming/{job_id}", detail, hint, mend, "It is swept.")
        with suppress(FileNotFoundError):  # bytes that are elsewhere do not arrive here
            for path in sorted((self._root / "incoming").iterdir()):
                if not is_id(path.name) and not path.name.startswith("probe-"):
                    yield from self._stray(path)

    def _engine(self) -> Iterator[Finding]:
        for name in _LOCKS:
            yield from self._empty(self._root / "engine" / name, f"engine/{name}")

    def _rows(self) -> Iterator[Finding]:
        damage = self._index.damage(self._jobs)
        if not damage and not self._rows_wrong:
            return
        detail = f"The index does not agree with the records{': ' + damage if damage else ''}; lists may be wrong."
        yield from self._wrong_is("index", detail, "builds it again.", self._reindex, "It is built again.")

    def _reindex(self) -> None:
        self._index.discard()
        self._store.sweep(self._clock())  # whoever keeps house builds it again

    def _is_astray(self, job: Job) -> bool:
        try:
            said = (self._root / "pending" / job.id).read_bytes().decode("ascii", "replace")
        except FileNotFoundError:
            return not job.done or (self._root / "quarantine" / job.id).exists()
        return job.done or (self._root / "quarantine" / job.id).exists() or said not in ("", job.owner)

    def _is_told_wrongly(self, job: Job) -> bool:
        """Tell whether the markers of what is to be sent, and of what was given up, differ from the record."""
        waits, gave_up = ((self._root / kind / job.id).exists() for kind in ("outbox", "deadletters"))
        if job.done and (self._root / "pending" / job.id).exists():
            return False  # whoever takes that marker away makes these
        return waits != is_open(job) or gave_up != has_dead(job)

    def _is_key_of(self, scope: str, job_id: str) -> bool:
        """Tell whether a key may name this job; one whose job is gone is free again."""
        with suppress(IntakeError):
            return self._store.get(job_id).key == scope
        return True

    def _is_indexed(self) -> bool:
        try:
            return self._index.is_complete()
        except sqlite3.Error:
            return True  # it cannot be read: that is told by looking at it

    def _row_is_wrong(self, job: Job) -> bool:
        try:
            return not self._index.agrees(job)
        except sqlite3.Error:
            return True

    def _twice(self, job_id: str, wrong: Callable[[Job], bool]) -> bool:
        """Tell whether something is wrong with a job, and still is a moment later, when nobody changes its record."""
        folder = job_folder(self._root, job_id)

        def look() -> bool:
            try:
                return wrong(decode((folder / "job.json").read_bytes(), job_id))
            except (FileNotFoundError, RecordCorrupt):
                return False  # deleted meanwhile, or told elsewhere

        if not look():
            return False
        time.sleep(_AGAIN)
        with suppress(FileNotFoundError), locked(folder / "lock"):
            return look()
        return False


def _artifacts(job: Job) -> list[tuple[str, Artifact]]:
    return [(step.name, made) for step in job.steps for made in step.artifacts]


def _exists(path: Path, _: Job) -> bool:
    return path.exists()
