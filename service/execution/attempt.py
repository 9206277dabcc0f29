"""One attempt at a job, from outside: claim, start its process, follow what it reports, record how it ended.

The same under every engine. It blocks, so each slot runs it in a thread of its own.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import structlog

from processors.contract import Limits
from processors.pipeline import Pipeline
from service import faults
from service.clock import Clock, utc_now
from service.errors import NotFound, OutcomeUnknown, StaleAttempt
from service.execution.follow import Bounds, Follower
from service.execution.launcher import SHARED_TROUBLE, Launcher, NotStartedError
from service.execution.live import LiveJob
from service.execution.process import SMALL, Processes
from service.execution.sandbox import ProcessLimits
from service.execution.verdict import Verdict
from service.execution.wire import Request
from service.jobs.model import Artifact, Job, JobStatus, Reason, Step, StepStatus
from service.jobs.problem import job_problem
from service.jobs.retry import AttemptEnd, RetryPolicy, ended
from service.jobs.store import Change, JobStore, Lease, StoreUnreachable
from service.storage.base import Storage, StorageUnreachable

log = structlog.get_logger(__name__)
_AGAIN: Final = 0.5  #: seconds between two tries to write the end of an attempt to a server that does not answer
_PATIENCE: Final = 300.0  #: seconds that the results of an attempt wait for a server that does not take them


class AttemptRunner:
    """Runs attempts for one process. Safe to call from many threads."""

    def __init__(
        self,
        *,
        store: JobStore,
        storage: Storage,
        launcher: Launcher,
        pipelines: Mapping[str, Pipeline],
        shareable: Collection[str] = (),
        policy: RetryPolicy,
        bounds: Bounds,
        process: ProcessLimits,
        limits: Limits,
        code: Sequence[Path] = (),
        helpers: Mapping[str, Mapping[str, Path]] = MappingProxyType({}),
        ending: Callable[[Job], Job] = lambda job: job,
        clock: Clock = utc_now,
        tell: Callable[[Job], None] = lambda _: None,
    ) -> None:
        self._store = store
        self._storage = storage
        self._processes = Processes(launcher)
        self._pipelines = pipelines
        self._shareable = shareable  # names of those of which several small jobs may share a process
        self._policy = policy
        self._bounds = bounds
        self._process = process
        self._limits = limits
        self._code = code
        self._helpers = helpers  # by pipeline: name of each that its steps need, and its Unix socket
        self._ending = ending
        self._clock = clock
        self._tell = tell

    def run(self, job_id: str, stop: threading.Event) -> Job | None:
        """Run one attempt if the job is due, and return the job as it is then; None when there is no such job.

        When ``stop`` is set the attempt is ended and the job goes back to the queue, uncharged. Raises NotStartedError, with
        the job back in the queue likewise, when no process can be started.
        """
        try:
            job, lease = self._store.claim(job_id, self._claim)
        except NotFound:
            return None
        if lease is None:
            return job
        with structlog.contextvars.bound_contextvars(**_ids(job)):
            return self._run(job, lease, stop)

    def judge(self, job_id: str) -> Job | None:
        """End the attempt of a running job whose runner is gone, without beginning another; return the job as it is then."""
        try:
            return self._store.claim(job_id, self._without_runner)[0]  # nothing runs after that, so there is no lease
        except NotFound:
            return None

    def _run(self, job: Job, lease: Lease, stop: threading.Event) -> Job:
        try:
            faults.reach("attempt.claimed")
            live = LiveJob(job, store=self._store, lease=lease, clock=self._clock)
            end = self._execute(lease, live, stop)
            faults.reach("attempt.ended")
            return self._record(live, end, stop)
        except NotStartedError:
            self._record(live, AttemptEnd(reason=Reason.INTERRUPTED), stop)
            raise
        except StaleAttempt:
            log.warning("the attempt was overtaken; its results are dropped")
            return self._store.get(job.id)
        finally:
            lease.release()

    def _without_runner(self, job: Job) -> Job:
        """Return the job after its attempt was lost, if it is running: nobody holds its lease, so its runner has died."""
        if job.status is not JobStatus.RUNNING:
            return job
        log.warning("an attempt was lost with its runner", job_id=job.id, attempt=job.attempt)
        unsure = tuple(Step(name=step.name, processor=step.processor) for step in job.steps)  # nothing of it was synced
        end = AttemptEnd(reason=Reason.LOST, problem=job_problem(job, Reason.LOST))
        return self._ending(ended(job.evolve(steps=unsure), end, self._policy, self._clock()))

    def _claim(self, job: Job) -> Job:
        now = self._clock()
        job = self._without_runner(job)
        if job.status is not JobStatus.QUEUED or not job.is_due(now):
            return job
        return job.claimed(now)

    def _execute(self, lease: Lease, live: LiveJob, stop: threading.Event) -> AttemptEnd:
        job = live.job
        pipeline = self._pipelines.get(job.pipeline)
        if pipeline is None:
            problem = job_problem(
                job, Reason.ERROR, code="pipeline-gone", detail=f"There is no pipeline {job.pipeline} any more."
            )
            return AttemptEnd(reason=Reason.ERROR, problem=problem)
        live.follow_steps([(step.name, step.processor) for step in pipeline.steps])
        with ExitStack() as files:  # that the process reads: they are there until it has ended
            try:
                source = files.enter_context(self._storage.source(job.id))
            except FileNotFoundError:
                return AttemptEnd(reason=Reason.LOST_INPUT, problem=job_problem(job, Reason.LOST_INPUT))
            except OSError as error:
                return _unprepared(job, error)
            try:
                request = self._request(live.job, pipeline, source, files)
            except OSError as error:
                return _unprepared(job, error)
            return self._judge(live.job, self._follow(lease, live, request, stop))

    def _follow(self, lease: Lease, live: LiveJob, request: Request, stop: threading.Event) -> Verdict:
        helpers = self._helpers.get(live.job.pipeline, {})
        verdict = None
        while verdict is None:
            with self._processes.given(lease, shared=request.is_shared) as process:
                follower = Follower(
                    process, live=live, store=self._store, bounds=self._bounds, stop=stop, helpers=helpers
                )
                verdict = follower.follow(request)
        return verdict

    def _request(self, job: Job, pipeline: Pipeline, source: Path, files: ExitStack) -> Request:
        finished: dict[str, dict[str, Any]] = {}
        for step in job.steps:
            if step.status is StepStatus.SUCCEEDED:
                try:
                    finished[step.name] = {"facts": step.facts or {}, "artifacts": self._kept(job.id, step, files)}
                except FileNotFoundError:
                    log.warning(
                        "artifacts of an earlier attempt are lost; the step runs again", job_id=job.id, step=step.name
                    )
        file = job.file
        descriptor = None
        if job.pipeline in self._shareable and file.size <= SMALL and not finished:
            descriptor = files.enter_context(source.open("rb", buffering=0)).fileno()
        return Request(
            job_id=job.id,
            attempt=job.attempt,
            source={"path": str(source), "filename": file.name, "declared_type": file.declared_type, "size": file.size},
            sha256=file.sha256,
            workdir="" if descriptor is not None else str(self._storage.workspace(job.id, job.attempt)),
            steps=[
                {"name": step.name, "processor": step.processor, "options": dict(step.options), "input": step.input}
                for step in pipeline.steps
            ],
            finished=finished,
            limits=vars(self._limits),
            process=self._process,
            code=[str(folder) for folder in self._code],
            descriptor=descriptor,
        )

    def _kept(self, job_id: str, step: Step, files: ExitStack) -> dict[str, list[Any]]:
        kept: dict[str, list[Any]] = {}
        for artifact in step.artifacts:
            path = files.enter_context(self._storage.artifact(job_id, step.name, artifact))
            kept[artifact.name] = [str(path), artifact.media_type, artifact.size, artifact.sha256]
        return kept

    def _judge(self, job: Job, verdict: Verdict) -> AttemptEnd:
        problem = None
        if verdict.reason not in (Reason.SUCCEEDED, Reason.CANCELED, Reason.INTERRUPTED):
            problem = job_problem(
                job, verdict.reason, step=verdict.step, code=verdict.code, detail=verdict.detail, hint=verdict.hint
            )
        return AttemptEnd(
            reason=verdict.reason,
            problem=problem,
            retry_after=verdict.retry_after,
            exit_status=verdict.exit_status,
            max_rss=verdict.max_rss,
            cpu_seconds=verdict.cpu_seconds,
            sandbox=verdict.sandbox,
        )

    def _record(self, live: LiveJob, end: AttemptEnd, stop: threading.Event) -> Job:
        job = live.job
        number = job.attempt
        made = [
            (step.name, artifact) for step in job.steps for artifact in step.artifacts if artifact.attempt == number
        ]
        try:
            if not self._publish(job.id, number, made, stop):
                end = AttemptEnd(reason=Reason.INTERRUPTED)
                live.drop_results()
        except OSError as error:
            log.exception("the artifacts of an attempt cannot be kept", job_id=job.id, attempt=number)
            detail = f"The results could not be stored: {error.strerror or error}."
            problem = job_problem(job, Reason.ERROR, code="artifacts-not-stored", detail=detail)
            end = AttemptEnd(reason=Reason.ERROR, problem=problem)
            live.drop_results()

        end = replace(end, ran=live.runs(end))

        def change(stored: Job) -> Job:
            stored.require_attempt(number)
            shown = stored.evolve(steps=live.steps_after(end), file=live.job.file)
            return self._ending(ended(shown, end, self._policy, self._clock()))

        after = self._update(job.id, change, stop)
        self._storage.prune(job.id, [artifact for step in after.steps for artifact in step.artifacts])
        self._tell(after)
        log.info("attempt ended", reason=str(end.reason), status=str(after.status))
        return after

    def _publish(self, job_id: str, number: int, made: list[tuple[str, Artifact]], stop: threading.Event) -> bool:
        """Keep the results of an attempt, as soon as the storage's server takes them; False when stopped before that.

        Raises OSError when they cannot be kept, or when a server that is away has been waited for long enough.
        """
        until, said = time.monotonic() + _PATIENCE, False
        while True:
            try:
                self._storage.publish(job_id, number, made)
            except StorageUnreachable as error:
                if time.monotonic() > until:
                    raise
                if stop.wait(_AGAIN):
                    return False
                if not said:
                    log.warning(
                        "the results of an attempt cannot be stored yet; it is tried until they can", error=str(error)
                    )
                said = True
            else:
                return True

    def _update(self, job_id: str, change: Change, stop: threading.Event) -> Job:
        """Write the end of an attempt, as soon as the records' server takes it: the attempt is fenced, so trying again is safe."""
        said = False
        while True:
            try:
                return self._store.update(job_id, change)
            except (StoreUnreachable, OutcomeUnknown) as error:
                if stop.wait(_AGAIN):
                    raise
                if not said:
                    log.warning(
                        "the end of an attempt cannot be recorded yet; it is tried until it can", error=str(error)
                    )
                said = True


def _ids(job: Job) -> dict[str, str | int]:
    """Return what every line of an attempt's log carries."""
    ids: dict[str, str | int | None] = {"job_id": job.id, "attempt": job.attempt, "request_id": job.request_id}
    ids["trace_id"] = job.trace.id if job.trace else None
    return {name: value for name, value in ids.items() if value is not None}


def _unprepared(job: Job, error: OSError) -> AttemptEnd:
    """Return the end of an attempt whose files cannot be made ready, unless no other job's could: that raises NotStartedError."""
    if error.errno in SHARED_TROUBLE or isinstance(error, StorageUnreachable):
        raise NotStartedError(f"no attempt can be prepared: {error}") from error
    detail = f"The stored files cannot be read: {error.strerror or error}."
    return AttemptEnd(reason=Reason.ERROR, problem=job_problem(job, Reason.ERROR, detail=detail))
