"""Event streams: server-sent events (HTML standard, section 9.2), written by FastAPI's own functions, keep-alive comments included.

Of FastAPI's machinery for streams only these are used: it has two tasks and two queues for each stream, which were most of the work
where hundreds are told of the same change.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from typing import Annotated, Final

from fastapi import APIRouter, Depends, Header, Request, Response
from fastapi.sse import KEEPALIVE_COMMENT, EventSourceResponse, format_sse_event
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from service.api import headers as fields
from service.api.auth import Reads
from service.api.deps import RootPath
from service.api.filters import LABELS, Filters, require_known
from service.api.openapi import events_response, problems
from service.api.presence import while_there
from service.api.reply import job_bytes, job_document, json_bytes
from service.errors import ClientGone, TooManyStreams
from service.intake import Intake
from service.jobs.model import Job, JobStatus, StatusChange
from service.jobs.status import ENDS, PROGRESS
from service.jobs.store import JobQuery, Position
from service.same import Same
from service.streams import Event, Heard, events_of, events_of_all, is_over
from service.watch import Watch

router = APIRouter(tags=["events"])
_RETRY: Final = 3000  #: milliseconds after which a browser comes back
_NOTHING: Final = {"Content-Type": "text/event-stream; charset=utf-8", "Cache-Control": "no-cache"}

LastEventId = Annotated[
    str | None,
    Header(alias="Last-Event-ID", description="The id of the last event that was seen; those after it follow."),
]


class _Stream(EventSourceResponse):
    """A stream that is sent in the request's own task, until it ends or the client has left."""

    def __init__(self, pieces: AsyncIterator[bytes], headers: Mapping[str, str]) -> None:
        fields = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no", **headers}  # no proxy shall hold events back
        super().__init__(pieces, headers=fields)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:  # noqa: ARG002
        with suppress(ClientGone):
            await while_there(scope, self.stream_response(send))
        if self.background is not None:
            await self.background()


async def _of_job(
    job_id: str, request: Request, intake: Reads, root_path: RootPath, last_event_id: LastEventId = None
) -> AsyncIterator[Response]:
    """Open the stream of a job before its answer begins: what must be refused is refused in full."""
    job = await intake.get(job_id)
    last = int(last_event_id) if last_event_id and last_event_id.isdecimal() and len(last_event_id) < 10 else None
    if is_over(job, last):
        yield Response(status_code=204, headers={"Cache-Control": "no-cache"})  # which ends a browser's coming back
        return
    seconds, headers = _granted(request, intake)
    with _place(intake), intake.watch.follow(job) as follower:
        yield _Stream(_pieces(events_of(follower, last=last, seconds=seconds), root_path, intake.watch), headers)


async def _of_all(
    request: Request, intake: Reads, root_path: RootPath, filters: Filters, last_event_id: LastEventId = None
) -> AsyncIterator[Response]:
    """Open the stream of all jobs."""
    require_known(request)
    query = JobQuery(**filters, owner=intake.by.only)
    last = Position.parse(last_event_id) if last_event_id else None
    seconds, headers = _granted(request, intake)
    with _place(intake), intake.watch.listen() as feed:
        yield _Stream(_pieces(events_of_all(feed, query, last=last, seconds=seconds), root_path, intake.watch), headers)


@contextmanager
def _place(intake: Intake) -> Iterator[None]:
    with intake.watch.streams.take() as taken:
        if not taken:
            raise TooManyStreams(
                "All event streams of this process are taken.",
                hint="Wait for the job in requests with Prefer: wait, or try again later.",
                retry_after=10,
            )
        yield


@router.get(
    "/v1/jobs/{job_id}/events",
    operation_id="followJob",
    summary="Follow a job",
    response_class=StreamingResponse,
    responses={
        200: events_response(),
        204: {"description": "The job is done, and that was seen."},
        **problems(404, 410, 503),
    },
)
async def job_events(stream: Annotated[Response, Depends(_of_job)]) -> Response:
    """Stream the job: where it stands at first, then each change, until it is done.

    `job.queued`, `job.started`, `job.succeeded`, `job.failed` and `job.canceled` tell a change of the status and have an id;
    `job.changed` tells one of the steps, `job.progress` that one of them has got further. With `Last-Event-ID` no change of the
    status is missed or told twice. `Prefer: wait=N` ends the stream after N seconds.
    """
    return stream


@router.head("/v1/jobs/{job_id}/events", include_in_schema=False)
async def job_events_head(job_id: str, intake: Reads) -> Response:
    """Say whether there is such a stream."""
    await intake.get(job_id)
    return Response(headers=_NOTHING)


@router.get(
    "/v1/events",
    operation_id="followJobs",
    summary="Follow all jobs",
    response_class=StreamingResponse,
    responses={200: events_response(), **problems(422, 503)},
    openapi_extra=LABELS,
)
async def all_events(stream: Annotated[Response, Depends(_of_all)]) -> Response:
    """Stream the changes of the status of all jobs that match the filters, which are those of the list.

    It begins with `ready`: from then on nothing is missed, and what was before, `GET /v1/jobs` tells. With `Last-Event-ID` it goes
    on after that event instead. `ready` comes again when the thread was lost, for example after a reboot.
    """
    return stream


@router.head("/v1/events", include_in_schema=False)
async def all_events_head(request: Request, _: Reads, __: Filters) -> Response:
    """Say that there is such a stream."""
    require_known(request)
    return Response(headers=_NOTHING)


def _granted(request: Request, intake: Intake) -> tuple[float, dict[str, str]]:
    """Return how many seconds a stream may last, as long as the client prefers within the settings, and what tells it so."""
    longest = int(intake.services.settings.max_stream.total_seconds())
    wanted = fields.preferred_wait(request.headers)
    if wanted is None:
        return longest, {}
    return min(wanted, longest), {"Preference-Applied": f"wait={min(wanted, longest)}"}


async def _pieces(told: AsyncIterator[Event | Heard | None], root_path: str, watch: Watch) -> AsyncIterator[bytes]:
    """Yield what is sent. The first event says after how long to come back."""
    retry: int | None = _RETRY
    async for one in told:
        if one is None:
            yield KEEPALIVE_COMMENT
            continue
        event, position = (one.event, one.position) if isinstance(one, Heard) else (one, None)
        if event is not None:
            yield _made(Same(event.job), event.name, event.move, event.passed, root_path, retry, position)
        elif isinstance(one, Heard) and one.ready:
            yield format_sse_event(data_str="{}", event="ready", id=str(position), retry=retry)
        else:
            yield format_sse_event(id=str(position), retry=retry)
        retry = None
        await watch.all_told()


@lru_cache(maxsize=256)
def _made(
    one: Same[Job],
    name: str,
    change: StatusChange | None,
    passed: bool,
    root_path: str,
    retry: int | None,
    position: Position | None,
) -> bytes:
    """Return an event as it is sent: a line for people, and JSON in one line. For all who are told it, it is made once."""
    event = Event(name=name, job=one.value, move=change, passed=passed)
    words = f"{event.job.id} {event.job.file.name}: {_words(event)}" if position else _words(event)
    return format_sse_event(
        event=name,
        id=str(position) if position else str(change.version) if change else None,
        data_str=_data(event, root_path).decode().rstrip("\n"),
        retry=retry,
        comment=words,
    )


def _data(event: Event, root_path: str) -> bytes:
    job = event.job
    if event.move and event.passed:
        passed = event.move.model_dump(mode="json") | {"done": event.move.status in ENDS}
        return json_bytes({"id": job.id, **passed})
    if event.name != PROGRESS:
        return job_bytes(job, root_path)
    document = job_document(job, root_path)
    kept = {name: document[name] for name in ("id", "status", "version", "attempt", "progress")}
    running = (step for step in document["steps"] if step["progress"] is not None)
    steps = [{name: step[name] for name in ("name", "status", "progress")} for step in running]
    return json_bytes({**kept, "steps": steps})


def _words(event: Event) -> str:
    if event.move and event.passed:
        return str(event.move.status)
    return _where(event.job)


def _where(job: Job) -> str:
    progress = job.progress
    words = [str(job.status)]
    if job.status is JobStatus.RUNNING and progress.step:
        words.append(f"step {progress.done + 1} of {progress.total}: {progress.step}")
        step = next(step for step in job.steps if step.name == progress.step)
        if step.progress:
            total = "" if step.progress.total is None else f" of {step.progress.total:g}"
            words.append(f"{step.progress.done:g}{total} {step.progress.unit or ''}".rstrip())
    if job.error:
        words.append(job.error.detail)
    return ", ".join(words)
