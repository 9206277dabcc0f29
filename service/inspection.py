"""Checking records that are not files, and the bytes that belong to them: by the ports alone, beside a running service.

What a database keeps in order by itself, rows, indexes and keys, is left to it and to its own tools.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from functools import partial
from typing import Final

from service.blob import is_whole
from service.errors import IntakeError, NotFound, RecordCorrupt
from service.findings import Examination, Finding
from service.jobs.model import Job
from service.maintenance import sweep_job
from service.storage.keys import folder_key
from service.wiring import Services

_AGAIN: Final = 0.2  #: seconds before what looks wrong is looked at again: somebody may be at work on it


class Inspection(Examination):
    """One look at all records. With ``deep`` it reads all files; with ``repair`` it mends what it can."""

    def __init__(self, services: Services, *, deep: bool = False, repair: bool = False) -> None:
        super().__init__(repair=repair)
        self._store, self._storage = services.store, services.storage
        self._root = services.settings.data_dir.resolve()
        self._deep = deep
        self._jobs = 0

    def run(self) -> Iterator[Finding]:
        """Yield what is wrong, thing by thing, and last how many jobs there are."""
        for part in (self._records(), self._leftovers(), self._strangers()):
            yield from self._guarded(part, self._root)
        found = f"{self._jobs} jobs, {self._wrong} things wrong"
        yield Finding(level="fail" if self._wrong else "ok", subject="records", detail=found)

    def _records(self) -> Iterator[Finding]:
        pending = set(self._store.pending())
        for job_id in self._store.walk():
            self._jobs += 1
            subject = f"job {job_id}"
            try:
                job = self._store.get(job_id)
            except NotFound:
                continue
            except RecordCorrupt as error:
                hint = f"Look at {self._store.where(job_id)}; `intake jobs delete {job_id}` removes the job."
                yield from self._wrong_is(subject, str(error), hint)
                continue
            if job.done == (job_id in pending) and self._is_astray(job_id):
                detail = "It would not be run, or be looked at without need."
                mend = partial(self._store.restore, job_id)
                yield from self._wrong_is(subject, detail, "puts it where it belongs.", mend, "It is where it belongs.")
            yield from self._bytes_of(job, subject)

    def _is_astray(self, job_id: str) -> bool:
        time.sleep(_AGAIN)
        try:
            return self._store.get(job_id).done == (job_id in self._store.pending())
        except IntakeError:
            return False

    def _bytes_of(self, job: Job, subject: str) -> Iterator[Finding]:
        again = "Take it from a backup, or have the file uploaded again."
        file, look = job.file, partial(is_whole, deep=self._deep)
        source = partial(self._storage.source_content, job.id)
        if not look(source, file.size, file.sha256) and self._is_there(job):
            yield from self._wrong_is(subject, "The file is not the one that was accepted, or is gone.", again)
        for step in job.steps:
            for made in step.artifacts:
                artifact = partial(self._storage.artifact_content, job.id, step.name, made)
                if not look(artifact, made.size, made.sha256) and self._is_there(job):
                    detail = f"The artifact {step.name}/{made.name} is not the one that was made, or is gone."
                    yield from self._wrong_is(subject, detail, again)

    def _is_there(self, job: Job) -> bool:
        """Tell whether the job is still the one that was looked at: it may have been deleted, or have run again."""
        try:
            return self._store.get(job.id).steps == job.steps
        except IntakeError:
            return False

    def _leftovers(self) -> Iterator[Finding]:
        for job_id in list(self._storage.leftovers()):
            if not self._storage.is_receiving(job_id):
                mend = partial(sweep_job, self._store, self._storage, job_id)
                detail = "It is left of an upload whose process died."
                hint = "sweeps it, as the supervisor does."
                yield from self._wrong_is(f"upload {job_id}", detail, hint, mend, "It is swept.")

    def _strangers(self) -> Iterator[Finding]:
        """Look for bytes that no record knows."""
        pending = set(self._store.pending())
        for job_id in sorted(self._storage.walk()):
            if job_id in pending or self._storage.is_receiving(job_id):
                continue
            try:
                self._store.get(job_id)
            except RecordCorrupt:
                continue
            except NotFound:
                hint = (
                    "If its client was told 503 `outcome-unknown`, or it comes from other records, it may be deleted."
                )
                yield from self._wrong_is(folder_key(job_id), "No record knows these bytes.", hint)
