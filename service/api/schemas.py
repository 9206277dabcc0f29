"""The documents of the API as models: what OpenAPI shows. The replies themselves are written by ``api/reply.py``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, Field

from service.jobs.model import Artifact, JobDocument, Step


class ArtifactDocument(Artifact):
    """An artifact with the place to download it."""

    href: str


class StepDocument(Step):
    """A step with downloadable artifacts."""

    artifacts: tuple[ArtifactDocument, ...]


class Links(BaseModel):
    """Where to go from a job. A link that is missing is not possible in the job's present status."""

    self: str
    source: str
    cancel: str | None = None
    retry: str | None = None


class JobView(JobDocument):
    """A job."""

    steps: tuple[StepDocument, ...]
    links: Links


class JobPage(BaseModel):
    """A page of jobs, newest first."""

    items: list[JobView]
    next_cursor: str | None = Field(description="Null on the last page.")


class ProblemDocument(BaseModel):
    """An RFC 9457 problem document. Further members depend on the code."""

    type: str = Field(description="Leads to what the code means.")
    title: str
    status: int
    code: str = Field(description="Stable; compare this.")
    detail: str
    hint: str | None = None
    instance: str | None = None
    request_id: str | None = None


class ProblemType(BaseModel):
    """What a problem code means."""

    code: str
    title: str
    status: int
    phrase: str
    meaning: str
    reason: str | None = Field(None, description="Of a job's error: how its attempt ended.")


class PipelineStep(BaseModel):
    """A step of a pipeline."""

    name: str
    processor: str
    input: str
    options: dict[str, Any]


class Pipeline(BaseModel):
    """A named list of steps."""

    name: str
    description: str
    steps: list[PipelineStep]


class Pipelines(BaseModel):
    """All pipelines."""

    items: list[Pipeline]
    default: str


class Processor(BaseModel):
    """A processor and the JSON Schema of its options."""

    name: str
    description: str
    accepts: list[str]
    options: dict[str, Any]


class Processors(BaseModel):
    """All processors."""

    items: list[Processor]


class QuotaView(BaseModel):
    """What a token may use in a day of UTC and at a time, null for no limit, and what it has used."""

    jobs_per_day: int | None
    jobs_today: int
    bytes_per_day: int | None
    bytes_today: int
    active: int | None = Field(description="Jobs that may be waiting or running.")
    active_now: int
    day_ends_at: str


class Limits(BaseModel):
    """The limits of an upload and of an attempt; sizes in bytes, times in seconds."""

    max_upload: int
    upload_idle_seconds: float
    upload_min_rate: int
    queue_limit: int
    max_attempts: int
    deadline_seconds: float
    max_output: int
    max_pixels: int
    max_total_pixels: int
    max_frames: int
    max_side: int
    max_scan: int
    retention_seconds: float | None
    idempotency_ttl_seconds: float
    quota: QuotaView | None = Field(description="Of the token that asks; null without a quota.")


class Probe(BaseModel):
    """The answer of a probe."""

    status: str
    checks: dict[str, str] | None = None


class LinkView(BaseModel):
    """A signed link."""

    url: str = Field(description="A path, or a whole URL where INTAKE_PUBLIC_URL is set.")
    method: str = Field(description="GET, POST or PUT.")
    expires_at: str
    max_size: int | None = Field(None, description="Bytes; of an upload.")


class EndpointView(BaseModel):
    """A standing webhook endpoint."""

    id: str
    url: str
    events: list[str] = Field(description="Empty for all.")
    description: str
    state: str = Field(description="`ok` or `disabled`.")
    created_at: str
    disabled_at: str | None
    disabled_because: str | None


class EndpointList(BaseModel):
    """All standing endpoints."""

    items: list[EndpointView]


class EndpointSecret(EndpointView):
    """An endpoint with its newest secret."""

    secret: str = Field(description="`whsec_…`; shown this once.")


class CallbackSecret(BaseModel):
    """The secret that signs the callbacks of a token's jobs."""

    secret: str = Field(description="`whsec_…`; shown this once.")


class TryView(BaseModel):
    """One try at a delivery."""

    at: str
    seconds: float
    status: int | None = Field(description="What the other side answered, if it did.")
    detail: str


class DeliveryView(BaseModel):
    """An event on its way to one subscriber."""

    to: str = Field(description="Id of the endpoint.")
    kind: str
    address: str | None = Field(description="Null for standing endpoints.")
    state: str = Field(description="`waiting`, `delivered` or `dead`.")
    tries: int
    due_at: str | None
    log: list[TryView]


class NoticeView(BaseModel):
    """One end of a job, and who is told of it."""

    id: str = Field(description="The `webhook-id`.")
    event: str
    at: str
    deliveries: list[DeliveryView]


class NoticeList(BaseModel):
    """The ends of a job."""

    items: list[NoticeView]


DOCUMENTED = (
    LinkView,
    EndpointList,
    EndpointSecret,
    CallbackSecret,
    NoticeList,
    JobView,
    JobPage,
    ProblemDocument,
    ProblemType,
    Pipelines,
    Processors,
    Limits,
    Probe,
)
