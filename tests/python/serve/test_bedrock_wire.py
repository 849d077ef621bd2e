"""Every wire shape of Bedrock's dialect, as files; and what must hold between its answers and others."""

import base64
import json
import re
import signal
import threading

import pytest
from botocore.eventstream import EventStreamBuffer
from serving import full, running

PATH = "/model/null"
CONVERSE, CONVERSE_STREAM = f"{PATH}/converse", f"{PATH}/converse-stream"
INVOKE, INVOKE_STREAM = f"{PATH}/invoke", f"{PATH}/invoke-with-response-stream"
COUNT = f"{PATH}/count-tokens"


def user(text):
    return [{"role": "user", "content": [{"text": text}]}]


def converse(text="hi", **config):
    return {"messages": user(text), "inferenceConfig": {"maxTokens": 4, "temperature": 0, **config}}


def claude(text="hi", **more):
    messages = [{"role": "user", "content": text}]
    version = {"anthropic_version": "bedrock-2023-05-31"}
    return {**version, "messages": messages, "max_tokens": 4, "temperature": 0, **more}


def llama(text="hi", **more):
    return {"prompt": text, "max_gen_len": 4, "temperature": 0, **more}


def stable(value):
    """What differs from run to run, replaced."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    text = re.sub(r'"msg_[0-9a-f]{32}"', '"msg_ID"', text)
    text = re.sub(r'"(seed|latencyMs|\w+Latency)": \d+', r'"\1": 0', text)
    return re.sub(r'"(\w+_ms|\w+_per_s)": [\d.]+', r'"\1": 0.0', text) + "\n"


def messages(server, path, body):
    """A stream's messages as botocore reads them, which checks lengths and sums: headers and payload."""
    with server.http.stream("POST", path, json=body) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"] == "application/vnd.amazon.eventstream"
        buffer = EventStreamBuffer()
        for data in response.iter_bytes():
            buffer.add_data(data)
        found = [(message.headers, json.loads(message.payload)) for message in buffer]
    assert all(headers[":content-type"] == "application/json" for headers, _ in found)
    return found


def events(server, path, body):
    """Type and payload of each event; a chunk's payload is the JSON in it."""
    found = messages(server, path, body)
    assert all(headers[":message-type"] == "event" for headers, _ in found)
    pairs = [(headers[":event-type"], payload) for headers, payload in found]
    return [(name, json.loads(base64.b64decode(it["bytes"])) if name == "chunk" else it) for name, it in pairs]


def text_of(piece):
    """Where the text of an event stands: the object that has it, and the field."""
    field = "generation" if "generation" in piece else "text"
    return (piece if field == "generation" else piece.get("delta", {})), field


def joined(found):
    """Events without how many tokens each has, which depends on timing."""
    kept = []
    for name, piece in found:
        (last, _), (now, field) = text_of(kept[-1][1] if kept else {}), text_of(piece)
        if last.get(field) and now.get(field):
            last[field] += now[field]
            if "generation_token_count" in piece:
                kept[-1][1]["generation_token_count"] = piece["generation_token_count"]
        else:
            kept.append((name, piece))
    return kept


CASES = {
    "converse": (CONVERSE, converse("a talk")),
    "converse_tier": (CONVERSE, {**converse("b tier"), "serviceTier": {"type": "flex"}}),
    "invoke_claude": (INVOKE, claude("c claude")),
    "invoke_llama": (INVOKE, llama("d llama")),
}
STREAMS = {
    "converse_stream": (CONVERSE_STREAM, converse("e streamed talk")),
    "converse_stream_stop": (CONVERSE_STREAM, converse("f stopped", maxTokens=64, stopSequences=["a"])),
    "invoke_claude_stream": (INVOKE_STREAM, claude("g claude")),
    "invoke_llama_stream": (INVOKE_STREAM, llama("h llama")),
}


@pytest.mark.parametrize("case", CASES)
def test_whole_answers(null, snapshot, case):
    path, body = CASES[case]
    response = null.post(path, body)
    assert response.status_code == 200, response.text
    snapshot(f"bedrock_{case}.json", stable(response.json()))
    assert response.headers["x-amzn-requestid"] == response.headers["x-request-id"]


@pytest.mark.parametrize("case", STREAMS)
def test_streams(null, snapshot, case):
    snapshot(f"bedrock_{case}.json", stable(joined(events(null, *STREAMS[case]))))


def test_a_converse_stream_says_what_the_whole_answer_says(null):
    for more in ({}, {"stopSequences": ["a", "e"]}):
        body = converse(maxTokens=40, **more)
        null.post(CONVERSE, body)
        whole = null.post(CONVERSE, body).json()
        *pieces, (_, stop), (_, metadata) = events(null, CONVERSE_STREAM, body)
        text = "".join(piece["delta"]["text"] for name, piece in pieces if name == "contentBlockDelta")
        assert whole["output"]["message"] == {"role": "assistant", "content": [{"text": text}]}
        assert (whole["stopReason"], whole["usage"]) == (stop["stopReason"], metadata["usage"])


def test_an_invoke_stream_says_what_the_whole_answer_says(null):
    body = llama(max_gen_len=40)
    whole = null.post(INVOKE, body)
    pieces = [piece for _, piece in events(null, INVOKE_STREAM, body)]
    assert "".join(piece["generation"] for piece in pieces) == whole.json()["generation"]
    assert [piece["prompt_token_count"] for piece in pieces] == [2] + [None] * (len(pieces) - 1)
    assert [piece["stop_reason"] for piece in pieces] == [None] * (len(pieces) - 1) + ["length"]
    assert pieces[-1]["generation_token_count"] == whole.json()["generation_token_count"] == 40
    cost = pieces[-1]["amazon-bedrock-invocationMetrics"]
    assert (cost["inputTokenCount"], cost["outputTokenCount"]) == (2, 40)
    assert cost["invocationLatency"] >= cost["firstByteLatency"]
    counts = [whole.headers[f"x-amzn-bedrock-{kind}-token-count"] for kind in ("input", "output", "cache-read-input")]
    assert counts == ["2", "40", "0"]
    assert int(whole.headers["x-amzn-bedrock-invocation-latency"]) >= 0

    body = claude(max_tokens=40)
    whole = null.post(INVOKE, body).json()
    start, *pieces, delta, stop = (piece for _, piece in events(null, INVOKE_STREAM, body))
    text = "".join(piece["delta"]["text"] for piece in pieces if piece["type"] == "content_block_delta")
    assert whole["content"] == [{"type": "text", "text": text}]
    assert start["message"].keys() == whole.keys() - {"timing"}
    assert (delta["delta"]["stop_reason"], delta["usage"]["output_tokens"]) == ("max_tokens", 40)
    assert stop["amazon-bedrock-invocationMetrics"]["outputTokenCount"] == 40


def test_dialects_agree(null):
    """The same request in five ways."""
    sampling = {"temperature": 0.9, "top_p": 0.8, "top_k": 50}
    turns = [("user", "hi"), ("assistant", "hello"), ("user", "go on")]
    plain = [{"role": role, "content": text} for role, text in turns]
    system = "be brief"
    rendered = null.post("/apply-template", {"messages": [{"role": "system", "content": system}, *plain]}).json()

    body = {"messages": [{"role": "system", "content": system}, *plain], "seed": 3, **sampling, "max_tokens": 40}
    expected = null.post("/v1/chat/completions", body).json()
    point = {"cachePoint": {"type": "default"}}
    blocks = [{"role": role, "content": [{"text": text}, point]} for role, text in turns]
    config = {"maxTokens": 40, "temperature": 0.9, "topP": 0.8}
    additional = {"top_k": 50, "seed": 3}
    body = {"messages": blocks, "system": [{"text": "be "}, {"text": "brief"}, point], "inferenceConfig": config}
    found = null.post(CONVERSE, {**body, "additionalModelRequestFields": additional}).json()
    assert found["output"]["message"]["content"] == [{"text": expected["choices"][0]["message"]["content"]}]
    usage, counted = found["usage"], null.post(COUNT, {"input": {"converse": body}}).json()["inputTokens"]
    assert usage["inputTokens"] + usage["cacheReadInputTokens"] == counted == expected["usage"]["prompt_tokens"]
    assert usage["totalTokens"] == expected["usage"]["total_tokens"]

    greedy = {"temperature": 0, "max_tokens": 40}
    anthropic = null.post("/v1/messages", {"messages": plain, "system": system, **greedy}).json()
    invoked = claude(**greedy, system=system) | {"messages": plain}
    assert null.post(INVOKE, invoked).json()["content"] == anthropic["content"]
    raw = llama(rendered["prompt"], max_gen_len=40)
    assert null.post(INVOKE, raw).json()["generation"] == anthropic["content"][0]["text"]
    for body in (invoked, raw):
        encoded = base64.b64encode(json.dumps(body).encode()).decode()
        assert null.post(COUNT, {"input": {"invokeModel": {"body": encoded}}}).json() == {"inputTokens": counted}


def test_an_answer_that_was_begun_is_continued(null):
    body = converse(maxTokens=40)
    body["messages"] += [{"role": "assistant", "content": [{"text": "The answer"}, {"text": " is"}]}]
    prompt = null.post("/apply-template", {"messages": [{"role": "user", "content": "hi"}]}).json()["prompt"]
    expected = null.post(INVOKE, llama(prompt + "The answer is", max_gen_len=40)).json()["generation"]
    assert null.post(CONVERSE, body).json()["output"]["message"]["content"] == [{"text": expected}]
    said = [
        piece["delta"]["text"] for name, piece in events(null, CONVERSE_STREAM, body) if name == "contentBlockDelta"
    ]
    assert "".join(said) == expected


def test_what_amazon_does_with_llama_unless_a_request_says(null):
    plain = {"prompt": "go on", "temperature": 0}
    assert null.post(INVOKE, plain).json()["generation_token_count"] in range(1, 513)
    long = [null.post(INVOKE, {"prompt": f"go on {i}"}).json()["generation_token_count"] for i in range(8)]
    assert max(long) == 512


def test_names_of_models_are_percent_encoded():
    with running("org/a:b%=null") as server:
        for name in ("org%2Fa%3Ab%25", "org%2fa:b%25"):
            assert server.post(f"/model/{name}/converse", converse()).status_code == 200
        for name in ("org/a:b%25", "org%2Fa"):
            assert server.post(f"/model/{name}/converse", converse()).status_code == 404
        bad = server.post("/model/%ff/converse", converse())
        assert (bad.status_code, bad.headers["x-amzn-errortype"]) == (400, "ValidationException")


IMAGE = {"image": {"format": "png", "source": {"bytes": "aGk="}}}
TOOLS = {"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": {}}}}]}
BAD = [
    (CONVERSE, b"{", "not valid JSON"),
    (CONVERSE, [], "expected a map"),
    (CONVERSE, {}, "messages is empty"),
    (CONVERSE, {"messages": []}, "messages is empty"),
    (CONVERSE, {"messages": [{"role": "user", "content": "hi"}]}, "messages[0].content"),
    (CONVERSE, {"messages": [{"role": "tool", "content": []}]}, "messages[0].role"),
    (CONVERSE, {"messages": [{"role": "user", "content": [IMAGE]}]}, "messages[0].content[0] has 'image'"),
    (CONVERSE, {"messages": [{"role": "user", "content": [{}]}]}, "messages[0].content[0] has nothing"),
    (CONVERSE, {"messages": [*user("hi"), {"role": "assistant", "content": [{"text": "I "}]}]}, "end with white space"),
    (CONVERSE, {**converse(), "system": [{"guardContent": {}}]}, "system[0] has 'guardContent'"),
    (CONVERSE, {**converse(), "toolConfig": TOOLS}, "toolConfig is not supported"),
    (CONVERSE, {**converse(), "guardrailConfig": {}}, "guardrailConfig is not supported"),
    (CONVERSE, {**converse(), "performanceConfig": {"latency": "optimized"}}, "performanceConfig is not supported"),
    (CONVERSE, {**converse(), "additionalModelRequestFields": {"thinking": {}}}, "unknown field `thinking`"),
    (CONVERSE, {**converse(), "serviceTier": {"type": "reserved"}}, "serviceTier.type"),
    (CONVERSE, converse(maxTokens=0), "inferenceConfig.maxTokens is 0"),
    (CONVERSE, converse(maxTokens="x"), "inferenceConfig.maxTokens"),
    (CONVERSE, converse(temperature=-1), "temperature is -1"),
    (CONVERSE, converse(topP=2), "top_p is 2"),
    (CONVERSE, converse(stopSequences=[""]), "stop has an empty string"),
    (CONVERSE, converse("x" * 5000), "4096"),
    (CONVERSE_STREAM, converse(topP=2), "top_p is 2"),
    (INVOKE, {}, "neither"),
    (INVOKE, {"prompt": 3}, "prompt"),
    (INVOKE, llama(images=["aGk="]), "images is not supported"),
    (INVOKE, llama(max_gen_len=-1), "max_gen_len"),
    (INVOKE, claude(max_tokens=None), "max_tokens"),
    (INVOKE, claude(tools=[{"name": "f"}]), "tools is not supported"),
    (INVOKE_STREAM, claude(top_k=-1), "top_k"),
    (COUNT, {}, "input"),
    (COUNT, {"input": {"converse": {}}}, "messages is empty"),
    (COUNT, {"input": {"converse": converse(), "invokeModel": {"body": ""}}}, "input needs one of"),
    (COUNT, {"input": {}}, "input needs one of"),
    (COUNT, {"input": {"invokeModel": {"body": "%"}}}, "input.invokeModel.body is not base64"),
    (COUNT, {"input": {"invokeModel": {"body": "e30="}}}, "neither"),
]


@pytest.mark.parametrize(("path", "body", "says"), BAD)
def test_errors_have_bedrocks_shape(null, path, body, says):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = null.http.post(path, content=content)
    assert response.status_code == 400, response.text
    assert response.headers["x-amzn-errortype"] == "ValidationException"
    assert response.json().keys() == {"message"}
    assert says in response.json()["message"]


def test_errors_that_are_not_the_bodys(null):
    def error(method, path, **kwargs):
        response = null.http.request(method, path, **kwargs)
        assert response.json().keys() == {"message"}
        return response.status_code, response.headers["x-amzn-errortype"]

    assert error("POST", "/model/nope/converse", json=converse()) == (404, "ResourceNotFoundException")
    assert error("GET", CONVERSE) == (405, "UnknownOperationException")
    assert error("POST", f"{PATH}/async-invoke") == (404, "UnknownOperationException")
    guarded = {"x-amzn-bedrock-guardrailidentifier": "g"}
    assert error("POST", INVOKE, json=llama(), headers=guarded) == (400, "ValidationException")


def test_what_asks_for_nothing_is_ignored(null):
    harmless = {"toolConfig": None, "requestMetadata": {"a": "b"}, "performanceConfig": {"latency": "standard"}}
    assert null.post(CONVERSE, {**converse(), **harmless, "no_such_field": 1}).status_code == 200


def test_a_full_queue_throttles():
    long = converse(maxTokens=60)
    with full(CONVERSE, long) as server:
        refused = server.post(CONVERSE, long)
        assert (refused.status_code, refused.headers["x-amzn-errortype"]) == (429, "ThrottlingException")
        assert int(refused.headers["retry-after"]) >= 1


def test_tiers_decide_who_runs_earlier():
    with running("null:20", "--max-num-seqs", "1") as server:
        ended = []

        def ask(tier):
            answer = server.post(CONVERSE, {**converse(maxTokens=30), "serviceTier": {"type": tier}})
            ended.append(answer.json()["serviceTier"]["type"])

        threads = []
        for num_before, tier in enumerate(["default", "flex", "default", "priority"]):
            threads.append(threading.Thread(target=ask, args=[tier]))
            threads[-1].start()
            there = {"num_running": 1, "num_waiting": num_before}
            server.wait_until(lambda there=there: there.items() <= server.resident().items())
        for thread in threads:
            thread.join()
        assert ended == ["default", "priority", "default", "flex"]


@pytest.mark.parametrize(
    ("path", "body"), [(CONVERSE_STREAM, converse(maxTokens=4000)), (INVOKE_STREAM, llama(max_gen_len=4000))]
)
def test_a_stream_that_cannot_go_on_says_why(snapshot, path, body):
    with running("null:20", "--drain-timeout", "1") as server:
        found = []
        thread = threading.Thread(target=lambda: found.extend(messages(server, path, body)))
        thread.start()
        server.wait_until(lambda: server.resident()["num_used_blocks"] > 0)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        thread.join()
    headers, payload = found[-1]
    assert (headers[":message-type"], headers[":exception-type"]) == ("exception", "serviceUnavailableException")
    assert "shutting down" in payload["message"]
    snapshot("bedrock_stream_error.json", stable([headers, payload]))
    assert all(headers[":message-type"] == "event" for headers, _ in found[:-1])
