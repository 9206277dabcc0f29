"""Trace contexts as W3C writes them, whose decision sampling is, and what happens without the extra."""

from __future__ import annotations

import sys

import pytest
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF, ALWAYS_ON, ParentBased
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from service import telemetry
from service.errors import ConfigError
from service.jobs.model import Reason, StepRun, Trace
from service.jobs.retry import AttemptEnd, ended
from service.settings import Settings
from tests.jobs import NOON, POLICY, make_job

ID, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GOOD = f"00-{ID}-{SPAN}-01"


def headers(*pairs: tuple[str, str]) -> list[tuple[bytes, bytes]]:
    return [(name.encode(), value.encode()) for name, value in pairs]


@pytest.mark.parametrize("flags", ["00", "01", "03"])
def test_a_trace_of_the_client_is_kept(flags):
    trace = telemetry.trace_of(headers(("traceparent", f"00-{ID}-{SPAN}-{flags}"), ("tracestate", "a=1,b=2")))

    assert trace == Trace(parent=f"00-{ID}-{SPAN}-{flags}", state="a=1,b=2")
    assert trace.id == ID


def test_states_of_several_fields_are_one():
    trace = telemetry.trace_of(headers(("traceparent", GOOD), ("tracestate", "a=1"), ("tracestate", "b=2")))

    assert trace is not None
    assert trace.state == "a=1,b=2"


def test_of_a_newer_version_the_known_part_is_taken():
    trace = telemetry.trace_of(headers(("traceparent", f"01-{ID}-{SPAN}-01-more")))

    assert trace == Trace(parent=GOOD)


@pytest.mark.parametrize(
    "fields",
    [
        [],
        [""],
        ["nonsense"],
        [GOOD.upper()],
        [GOOD + "-more"],
        [f"ff-{ID}-{SPAN}-01"],
        [f"00-{'0' * 32}-{SPAN}-01"],
        [f"00-{ID}-{'0' * 16}-01"],
        [f"00-{ID[:-1]}-{SPAN}-01"],
        [f"00-{ID}-{SPAN}-1"],
        [f"00-{ID}-{SPAN}"],
        [f"00-{ID}-{SPAN}-0g"],
        ["00-" + "9" * 600],
        [GOOD, GOOD],
        ["\u0660" * 55],
    ],
)
def test_what_is_no_trace_counts_as_none(fields):
    assert telemetry.trace_of(headers(*[("traceparent", value) for value in fields], ("tracestate", "a=1"))) is None


def test_a_broken_state_does_not_cost_the_trace():
    trace = telemetry.trace_of(headers(("traceparent", GOOD), ("tracestate", "\x00=,,=;" * 50)))

    assert trace is not None
    assert trace.id == ID


def recorded(sampler, flags: str | None) -> list:
    exporter = InMemorySpanExporter()
    provider = TracerProvider(sampler=telemetry.own_decision(sampler))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    carrier = {"traceparent": f"00-{ID}-{SPAN}-{flags}", "tracestate": "a=1"} if flags else {}
    tracer = provider.get_tracer("test")
    with tracer.start_as_current_span("server", context=TraceContextTextMapPropagator().extract(carrier)):
        tracer.start_span("inner").end()
    return list(exporter.get_finished_spans())


@pytest.mark.parametrize("flags", [None, "00", "01"])
@pytest.mark.parametrize(("sampler", "count"), [(ParentBased(ALWAYS_ON), 2), (ParentBased(ALWAYS_OFF), 0)])
def test_whether_a_request_is_recorded_is_not_the_clients_decision(sampler, count, flags):
    spans = recorded(sampler, flags)

    assert len(spans) == count
    if flags and spans:
        assert {f"{span.context.trace_id:032x}" for span in spans} == {ID}
        assert spans[1].parent.span_id == int(SPAN, 16)
        assert spans[1].context.trace_state.to_header() == "a=1"


def test_an_attempt_is_told_from_its_record():
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    ran = StepRun(step="look", status="failed", started_at=NOON, seconds=1.5)
    job = make_job(trace=Trace(parent=GOOD, state="a=1")).claimed(NOON)
    telemetry.AttemptSpans(provider).tell(job)  # has not ended
    assert not exporter.get_finished_spans()
    telemetry.AttemptSpans(provider).tell(ended(job, AttemptEnd(reason=Reason.ERROR, ran=(ran,)), POLICY, NOON))

    step, span = exporter.get_finished_spans()
    assert (span.name, span.parent, span.attributes["error.type"]) == ("process intake.jobs", None, "error")
    assert [f"{link.context.span_id:016x}" for link in span.links] == [SPAN]
    assert (step.name, step.parent.span_id) == ("stage look", span.context.span_id)
    assert step.end_time - step.start_time == 1_500_000_000


def test_a_job_without_a_trace_has_spans_without_a_link():
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    for trace in (None, Trace(parent="nonsense")):
        job = make_job(trace=trace).claimed(NOON)
        telemetry.AttemptSpans(provider).tell(ended(job, AttemptEnd(reason=Reason.SUCCEEDED), POLICY, NOON))

    assert [len(span.links) for span in exporter.get_finished_spans()] == [0, 0]


def test_without_the_extra_the_start_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.trace", None)
    telemetry.require(Settings.load())
    with pytest.raises(ConfigError, match=r"pip install 'file-intake\[telemetry\]'"):
        telemetry.start(Settings.load(telemetry=True))


def test_who_does_not_ask_for_it_loads_nothing_of_it():
    assert telemetry.start(Settings.load()) is None
    assert telemetry.of_requests(None)["tracing"] is False
    telemetry.stop(None)
