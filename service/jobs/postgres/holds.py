"""Holds: rights that one process has and the server's clock takes back when it does not renew them. Leases and keys are holds.

A hold is a row with a random token; who finds it past its time replaces it. Whoever lost it finds its token gone.
"""

from __future__ import annotations

import os
import re
import signal
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Final

import structlog

from service.errors import OutcomeUnknown
from service.jobs.model import Job
from service.jobs.postgres.database import Cursor, Database
from service.jobs.postgres.line import Line

log = structlog.get_logger(__name__)
_TAKE: Final = """
insert into holds (name, token, until) values (%s, %s, clock_timestamp() + make_interval(secs => %s))
on conflict (name) do update set token = excluded.token, until = excluded.until where holds.until <= clock_timestamp()
returning token
"""
_TAKEN: Final = "select from holds where name = %s and until > clock_timestamp()"
_GIVE_BACK: Final = """
with held as (delete from holds where name = %s and token = %s)
select exists (select from jobs where id = %s::uuid and due_at <= clock_timestamp())
"""


class Holds:
    """All holds of one process."""

    def __init__(self, database: Database, line: Line, *, ttl: float) -> None:
        self._database = database
        self._line = line
        self._ttl = ttl

    def take(self, cursor: Cursor, name: str) -> str | None:
        """Take a hold within the transaction of the caller and return its token; None while somebody has it.

        Once that is committed, ``keep`` has it renewed.
        """
        token = str(uuid.uuid4())
        return token if cursor.execute(_TAKE, [name, token, self._ttl]).fetchone() else None

    def keep(self, name: str, token: str) -> None:
        """Renew it from now on, until ``release``."""
        self._line.keep(token, name)

    def is_kept(self, token: str) -> bool:
        """Tell whether it has been renewed in time, as far as this process knows."""
        return self._line.is_kept(token)

    def is_anothers(self, name: str) -> bool:
        """Tell whether another process has it, or may have it, as the server cannot be asked."""
        if self._line.keeps(name):
            return False
        try:
            return bool(self._database.rows(_TAKEN, [name]))
        except OSError:
            return True

    def release(self, name: str, token: str, job_id: str | None = None) -> None:
        """Give it back; where that cannot be told to the server, it ends by itself. With a job, tell if that can be run now."""
        self._line.drop(token)
        try:
            ((due,),) = self._database.run(lambda cursor: cursor.execute(_GIVE_BACK, [name, token, job_id]).fetchall())
        except (OSError, OutcomeUnknown) as error:
            log.warning("a hold could not be given back; it ends by itself", hold=name, error=str(error))
            return
        if due and job_id:
            self._line.ring(job_id, due=True)


class PostgresLease:
    """The hold of a job, with a descriptor by which processes that inherit it are found on this machine (Linux)."""

    def __init__(self, job: Job, token: str, holds: Holds) -> None:
        self.job = job
        self._token: str | None = token
        self._holds = holds
        self._mark: int | None = None
        if hasattr(os, "memfd_create"):
            self._mark = os.memfd_create(_mark_of(job.id, os.getpid()))
        holds.keep(lease_name(job.id), token)

    def fileno(self) -> int | None:
        """Return the descriptor that marks the processes of the attempt."""
        return self._mark

    def release(self) -> None:
        """Give the hold back; processes that inherited the descriptor can still be evicted."""
        if self._mark is not None:
            os.close(self._mark)
            self._mark = None
        if self._token is not None:
            token, self._token = self._token, None
            self._holds.release(lease_name(self.job.id), token, self.job.id)


class PostgresLead:
    """The hold of the one process that looks after what all share."""

    _NAME: Final = "lead"

    def __init__(self, token: str, holds: Holds) -> None:
        self._token: str | None = token
        self._holds = holds
        holds.keep(self._NAME, token)

    @classmethod
    def take(cls, database: Database, holds: Holds) -> PostgresLead | None:
        """Take the lead; None while somebody has it. Raises StoreUnreachable or OutcomeUnknown."""
        token = database.run(lambda cursor: holds.take(cursor, cls._NAME))
        return None if token is None else cls(token, holds)

    @classmethod
    def is_taken(cls, database: Database) -> bool:
        """Tell whether anybody has it. Raises StoreUnreachable."""
        return bool(database.rows(_TAKEN, [cls._NAME]))

    def is_held(self) -> bool:
        """Tell whether the server will not have given it to somebody else yet."""
        return self._token is not None and self._holds.is_kept(self._token)

    def release(self) -> None:
        """Give the hold back."""
        if self._token is not None:
            token, self._token = self._token, None
            self._holds.release(self._NAME, token)


def lease_name(job_id: str) -> str:
    """Return the name of a job's lease among the holds."""
    return f"job:{job_id}"


def evict(job_id: str) -> int:
    """Kill the processes of this machine that have the mark of a lease of this job, and return how many. Needs Linux's /proc.

    The runner that took the lease is not among them: it may live, and have other jobs.
    """
    killed, mark = 0, re.compile(f"/memfd:{_mark_of(job_id, '([0-9]+)')} [(]deleted[)]")
    for folder in Path("/proc").glob("[0-9]*/fd"):
        with suppress(OSError):
            found = [mark.fullmatch(_target(descriptor)) for descriptor in folder.iterdir()]
            runners = {int(match[1]) for match in found if match}
            if runners and _own_pid(folder.parent) not in runners:
                os.kill(int(folder.parent.name), signal.SIGKILL)
                killed += 1
    return killed


def _mark_of(job_id: str, runner: int | str) -> str:
    return f"intake-{job_id}-{runner}"


def _own_pid(folder: Path) -> int:
    """Return the pid of a process as it knows it itself, which in a container is another one than here."""
    status = (folder / "status").read_text(errors="replace")
    return next((int(line.split()[-1]) for line in status.splitlines() if line.startswith("NSpid:")), int(folder.name))


def _target(descriptor: Path) -> str:
    with suppress(OSError):
        return str(descriptor.readlink())
    return ""
