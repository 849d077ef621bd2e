"""Spans of requests, in the file format that OpenTelemetry's collector reads."""

import base64
import json
import re

import httpx
import pytest
from serving import running

TEXT = "/v1/completions"
BODY = {"model": "null", "prompt": "p" * 40, "max_tokens": 4, "ignore_eos": True}
TRACE_ID, PARENT_ID = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"


@pytest.fixture
def traced(tmp_path):
    """A running server, and a function that stops it and gives its spans."""
    file = tmp_path / "spans.jsonl"
    with running("null:5", "--trace-file", file) as server:

        def spans():
            assert server.stop() == 0
            batches = [json.loads(line) for line in file.read_text().splitlines()]
            resources = [json.dumps(batch["resourceSpans"][0]["resource"]) for batch in batches]
            assert all('"ferrule"' in resource for resource in resources)
            return [span for batch in batches for span in batch["resourceSpans"][0]["scopeSpans"][0]["spans"]]

        yield server, spans


def attributes(span):
    return {each["key"]: next(iter(each["value"].values())) for each in span["attributes"]}


def interval(span):
    return int(span["startTimeUnixNano"]), int(span["endTimeUnixNano"])


def test_stages_follow_each_other_within_their_request(traced):
    server, spans = traced
    headers = {"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01", "x-request-id": "mine"}
    server.post(TEXT, BODY, headers=headers)
    server.post(TEXT, BODY)
    server.http.get("/metrics")
    found = spans()
    own = {span["name"]: span for span in found if span["traceId"] == TRACE_ID}
    assert set(own) == {"POST /v1/completions", "generate", "queue", "prefill", "decode"}
    root, generate = own["POST /v1/completions"], own["generate"]
    assert (root["parentSpanId"], generate["parentSpanId"]) == (PARENT_ID, root["spanId"])
    assert {own[name]["parentSpanId"] for name in ("queue", "prefill", "decode")} == {generate["spanId"]}
    assert (root["kind"], generate["kind"]) == (2, 1)
    moments = [at for name in ("queue", "prefill", "decode") for at in interval(own[name])]
    assert moments == sorted(moments)
    assert interval(root)[0] <= interval(generate)[0] <= moments[0]
    assert moments[-1] <= interval(generate)[1]
    # Three steps of 5 ms.
    assert moments[-1] - moments[-2] >= 15e6
    told = attributes(root)
    assert (told["ferrule.request_id"], told["http.response.status_code"]) == ("mine", "200")
    told = attributes(generate)
    counts = [told[f"gen_ai.usage.{kind}_tokens"] for kind in ("input", "output")]
    assert (*counts, told["ferrule.cached_tokens"], told["ferrule.end"]) == ("40", "4", "0", "length")
    # The other request began a trace of its own; what asks no model is in none.
    others = [span for span in found if span["traceId"] != TRACE_ID]
    assert len({span["traceId"] for span in others}) == 1
    assert len(others) == 5
    assert len({span["spanId"] for span in found}) == 10


def test_a_caller_that_does_not_record_is_not_recorded(traced):
    server, spans = traced
    server.post(TEXT, BODY, headers={"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-00"})
    assert spans() == []


def test_a_request_that_was_left_tells_what_is_known(traced):
    server, spans = traced
    body = {**BODY, "max_tokens": 4000, "stream": True}
    with httpx.stream("POST", server.url + TEXT, json=body) as response:
        next(response.iter_lines())
    server.wait_idle()
    found = {span["name"]: span for span in spans()}
    assert set(found) == {"POST /v1/completions", "generate", "decode"}
    assert attributes(found["generate"])["ferrule.end"] == "abort"


def in_protobufs_json(line):
    """OTLP writes ids in hexadecimal digits, where Protobuf's JSON has base64."""

    def encoded(match):
        return f'"{match[1]}":"{base64.b64encode(bytes.fromhex(match[2])).decode()}"'

    return re.sub(r'"(traceId|spanId|parentSpanId)":"([0-9a-f]+)"', encoded, line)


def test_opentelemetrys_own_types_read_the_file(tmp_path):
    """A field that is not OTLP's would be an error."""
    reason = "opentelemetry-proto is not installed: make clients"
    trace_service = pytest.importorskip("opentelemetry.proto.collector.trace.v1.trace_service_pb2", reason=reason)
    json_format = pytest.importorskip("google.protobuf.json_format", reason=reason)
    file = tmp_path / "spans.jsonl"
    with running("null", "--trace-file", file) as server:
        server.post(TEXT, BODY, headers={"traceparent": f"00-{TRACE_ID}-{PARENT_ID}-01"})
        assert server.stop() == 0
    found = []
    for line in file.read_text().splitlines():
        batch = json_format.Parse(in_protobufs_json(line), trace_service.ExportTraceServiceRequest())
        found += [span for resource in batch.resource_spans for scope in resource.scope_spans for span in scope.spans]
    assert {span.name for span in found} == {"POST /v1/completions", "generate", "queue", "prefill", "decode"}
    assert {span.trace_id.hex() for span in found} == {TRACE_ID}
    assert [span.parent_span_id.hex() for span in found if span.kind == span.SPAN_KIND_SERVER] == [PARENT_ID]
    assert all(0 < span.start_time_unix_nano <= span.end_time_unix_nano for span in found)
