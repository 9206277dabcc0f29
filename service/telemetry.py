"""Traces: a request's, by FastAPI's own support, and an attempt's, told from the record when the attempt has ended.

The context of an upload is kept in its job's record, so it survives the queue, restarts and retries. An attempt may begin hours
later, so its span is the root of a trace of its own with a link to the upload's (OpenTelemetry's conventions for messaging).
Off unless ``INTAKE_TELEMETRY`` says so; where spans go is said by the standard ``OTEL_`` variables, which the SDK reads itself.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from opentelemetry.context import Context
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TracerProvider, set_span_in_context
from opentelemetry.trace import get_current_span as current
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service import __version__
from service.errors import ConfigError
from service.jobs.model import Attempt, Job, Reason, Trace

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider as Provider

    from service.settings import Settings

_PROPAGATOR: Final = TraceContextTextMapPropagator()
_DESTINATION: Final = "intake.jobs"
_PROBES: Final = frozenset({"/livez", "/readyz", "/metrics"})
_STOP_WITHIN: Final = 3.0  #: seconds in which the last spans must have reached their collector
_BLAMELESS: Final = frozenset({Reason.SUCCEEDED, Reason.CANCELED, Reason.INTERRUPTED, Reason.RETRY})


def trace_of(headers: Iterable[tuple[bytes, bytes]]) -> Trace | None:
    """Return the trace that the running request belongs to: that of its span, else the one its headers name.

    What is no ``traceparent`` of W3C's Trace Context, or more than one, counts as none.
    """
    context = current().get_span_context()
    if not context.is_valid:
        found = [(name, value.decode("latin-1")) for name, value in headers if name in (b"traceparent", b"tracestate")]
        parents = [value for name, value in found if name == b"traceparent"]
        states = [value for name, value in found if name == b"tracestate"]
        if len(parents) != 1:
            return None
        context = _context(Trace(parent=parents[0], state=",".join(states) or None))
    if not context.is_valid:
        return None
    parent = f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"
    return Trace(parent=parent, state=context.trace_state.to_header() or None)


def _context(trace: Trace) -> SpanContext:
    carrier = {"traceparent": trace.parent, **({"tracestate": trace.state} if trace.state else {})}
    return current(_PROPAGATOR.extract(carrier, Context())).get_span_context()


def require(settings: Settings) -> None:
    """Raise ConfigError when the settings ask for traces and the extra is missing."""
    if not settings.telemetry:
        return
    try:
        import opentelemetry.exporter.otlp.proto.http.trace_exporter
        import opentelemetry.sdk.trace  # noqa: F401 - to see whether they are there
    except ImportError as error:
        raise ConfigError(
            f"INTAKE_TELEMETRY: {error.name} is not installed; pip install 'file-intake[telemetry]'"
        ) from error


def start(settings: Settings) -> Provider | None:
    """Begin to export spans; None when the settings do not ask for it. Raises ConfigError when the extra is missing."""
    require(settings)
    if not settings.telemetry:
        return None
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider as Provider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    resource = Resource.create({"service.version": __version__})
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "file-intake"}))
    provider = Provider(resource=resource, shutdown_on_exit=False)
    provider.sampler = own_decision(provider.sampler)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def stop(provider: Provider | None) -> None:
    """Send the last spans. A collector that does not answer holds nobody up for long. Blocks."""
    if provider is not None:
        ending = threading.Thread(target=provider.shutdown, name="telemetry", daemon=True)
        ending.start()
        ending.join(_STOP_WITHIN)


def of_requests(provider: TracerProvider | None) -> Any:
    """Return what FastAPI is told: spans of requests, probes left out, to this provider alone."""
    return {
        "tracer_provider": provider,
        "tracing": provider is not None,
        "metrics": False,  # /metrics has them
        "logs": False,
        "operation_spans": False,
        "auto_configure": False,
        "exclude": lambda scope: scope.get("path", "").removeprefix(scope.get("root_path", "")) in _PROBES,
    }


def own_decision(sampler: Any) -> Any:
    """Return a sampler that decides for strangers' requests as for our own: their ``sampled`` neither costs nor hides."""
    from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult

    class OwnDecision(Sampler):
        def should_sample(
            self, parent_context: Context | None, trace_id: int, name: str, *rest: Any, **more: Any
        ) -> SamplingResult:
            parent = current(parent_context).get_span_context()
            if not parent.is_valid or not parent.is_remote:
                result: SamplingResult = sampler.should_sample(parent_context, trace_id, name, *rest, **more)
                return result
            ours = sampler.should_sample(Context(), trace_id, name, *rest, **more)
            return SamplingResult(ours.decision, ours.attributes, parent.trace_state)

        def get_description(self) -> str:
            return f"OwnDecision({sampler.get_description()})"

    return OwnDecision()


class AttemptSpans:
    """Makes the spans of attempts."""

    def __init__(self, provider: TracerProvider) -> None:
        self._tracer = provider.get_tracer("file-intake", __version__)

    def tell(self, job: Job) -> None:
        """Make the spans of the job's last attempt, which has ended: ``process``, and one below it for each step that ran."""
        attempt = job.attempts[-1]
        if attempt.ended_at is None or attempt.reason is None:
            return
        span = self._tracer.start_span(
            f"process {_DESTINATION}",
            context=Context(),
            kind=SpanKind.CONSUMER,
            links=_links(job),
            attributes=_attributes(job, attempt),
            start_time=_nanoseconds(attempt.started_at),
        )
        if attempt.reason not in _BLAMELESS:
            span.set_attribute("error.type", job.error.code if job.error else attempt.reason)
            span.set_status(Status(StatusCode.ERROR, job.error.code if job.error else None))
        within = set_span_in_context(span, Context())
        for ran in attempt.ran:
            began = _nanoseconds(ran.started_at)
            step = self._tracer.start_span(
                f"stage {ran.step}", context=within, attributes={"intake.stage.name": ran.step}, start_time=began
            )
            if ran.status == "failed":
                step.set_attribute("error.type", attempt.reason)
                step.set_status(StatusCode.ERROR)
            step.end(began + int(ran.seconds * 1e9))
        span.end(_nanoseconds(attempt.ended_at))


def _links(job: Job) -> Sequence[Link]:
    context = _context(job.trace) if job.trace else None
    return [Link(context)] if context is not None and context.is_valid else []


def _attributes(job: Job, attempt: Attempt) -> dict[str, str | int]:
    return {
        "messaging.system": "file_intake",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": _DESTINATION,
        "messaging.message.id": job.id,
        "intake.pipeline": job.pipeline,
        "intake.attempt": attempt.number,
        "intake.attempt.reason": attempt.reason or "",
    }


def _nanoseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000) * 1_000_000
