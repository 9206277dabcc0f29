"""Having what was told, or could not be, told once more."""

from __future__ import annotations

from contextlib import suppress

from service.engines.bell import ring
from service.errors import Conflict
from service.jobs.model import Job
from service.jobs.notices import replayed
from service.wiring import Services


def replay(services: Services, job_id: str, *, delivered: bool) -> int:
    """Have what was given up of a job sent again, with ``delivered`` all of it; return how many deliveries wait now.

    Durable when it returns. Raises NotFound, Gone, RecordCorrupt, and Conflict when nobody was to be told of the job.
    """
    now = services.clock()

    def change(job: Job) -> Job:
        if not job.notices:
            hint = "Only what was sent, or given up, can be sent again."
            raise Conflict(
                "Nobody was told of this job.", code="nothing-to-replay", hint=hint, job_status=str(job.status)
            )
        return replayed(job, now, delivered=delivered)

    after = services.store.update(job_id, change)
    with suppress(OSError):  # a hint; the supervisor finds the marker without it
        ring(services.settings.data_dir.resolve() / "engine" / "bell", job_id)
    return sum(one.state == "waiting" for notice in after.notices for one in notice.deliveries)
