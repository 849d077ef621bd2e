"""Every wire shape of Anthropic's dialect, as files; and what must hold between its answers and others."""

import json
import re
import signal
import threading

import pytest
from serving import full, running

MESSAGES = "/v1/messages"
COUNT = "/v1/messages/count_tokens"
USER = [{"role": "user", "content": "hi"}]
GREEDY = {"model": "null", "messages": USER, "max_tokens": 4, "temperature": 0}
VERSION = {"anthropic-version": "2023-06-01"}


def stable(value):
    """What differs from run to run, replaced."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    text = re.sub(r'"(msg_|req-)[0-9a-f]{32}"', r'"\1ID"', text)
    text = re.sub(r'"seed": \d+', '"seed": 0', text)
    text = re.sub(r'"created_at": "[^"]*"', '"created_at": "TIME"', text)
    return re.sub(r'"(\w+_ms|\w+_per_s)": [\d.]+', r'"\1": 0.0', text) + "\n"


def events(server, body):
    """The data of each event, whose name must be its type."""
    with server.http.stream("POST", MESSAGES, json={**body, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"] == "text/event-stream"
        frames = response.read().decode().split("\n\n")
    assert frames.pop() == ""
    found = []
    for frame in frames:
        name, data = frame.split("\n")
        found.append(json.loads(data.removeprefix("data: ")))
        assert name == f"event: {found[-1]['type']}"
    return found


def joined(found):
    """Events without how many tokens each has, which depends on timing."""
    kept = []
    for event in found:
        if kept and event["type"] == kept[-1]["type"] == "content_block_delta":
            kept[-1]["delta"]["text"] += event["delta"]["text"]
        else:
            kept.append(event)
    return kept


def message(found):
    """The whole message that the events make, as Anthropic's documentation puts them together."""
    start, *_, delta, stop = found
    assert (start["type"], delta["type"], stop) == ("message_start", "message_delta", {"type": "message_stop"})
    text = "".join(event["delta"]["text"] for event in found if event["type"] == "content_block_delta")
    content = [{"type": "text", "text": text}] if text else []
    return {**start["message"], "content": content, **delta["delta"], "usage": delta["usage"]}


CASES = {
    "plain": {},
    "stop": {"max_tokens": 64, "stop_sequences": ["a"]},
    "begun": {"messages": [*USER, {"role": "assistant", "content": "whole begun"}]},
    "system": {"system": [{"type": "text", "text": "two "}, {"type": "text", "text": "blocks"}]},
}


def case(kind, name):
    """No other test's prompt begins like this one's, so nothing of it is cached."""
    return {**GREEDY, "messages": [{"role": "user", "content": f"{kind} {name}"}], **CASES[name]}


@pytest.mark.parametrize("name", CASES)
def test_whole_answers(null, snapshot, name):
    response = null.post(MESSAGES, case("whole", name))
    assert response.status_code == 200, response.text
    snapshot(f"anthropic_{name}.json", stable(response.json()))


@pytest.mark.parametrize("name", ["plain", "stop"])
def test_streams(null, snapshot, name):
    snapshot(f"anthropic_{name}_stream.json", stable(joined(events(null, case("streamed", name)))))


def test_counted_tokens_and_models(null, snapshot):
    counted = null.post(COUNT, {"model": "null", "messages": USER})
    snapshot("anthropic_count_tokens.json", stable(counted.json()))
    models = null.http.get("/v1/models", headers=VERSION)
    snapshot("anthropic_models.json", stable(models.json()))
    assert null.http.get("/v1/models/null", headers=VERSION).json() == models.json()["data"][0]
    assert null.http.get("/v1/models").json()["object"] == "list"


@pytest.mark.parametrize("more", [{}, {"max_tokens": 40}, {"max_tokens": 40, "stop_sequences": ["a", "e"]}])
def test_a_stream_says_what_the_whole_answer_says(null, more):
    body = {**GREEDY, **more}
    null.post(MESSAGES, body)
    whole, streamed = null.post(MESSAGES, body).json(), message(events(null, body))
    del whole["timing"]
    assert whole.pop("id") != streamed.pop("id")
    assert whole == streamed


def test_an_answer_of_no_text_has_no_block(null):
    body = {**GREEDY, "messages": USER}
    first = null.post(MESSAGES, body).json()["content"][0]["text"][0]
    found = events(null, {**body, "stop_sequences": [first]})
    assert [event["type"] for event in found] == ["message_start", "ping", "message_delta", "message_stop"]
    assert found[2]["delta"] == {"stop_reason": "stop_sequence", "stop_sequence": first}
    assert null.post(MESSAGES, {**body, "stop_sequences": [first]}).json()["content"] == []


def test_dialects_agree(null):
    """The same conversation and parameters under OpenAI's and Anthropic's names."""
    turns = [*USER, {"role": "assistant", "content": "hello"}, {"role": "user", "content": "go on"}]
    sampling = {"temperature": 0, "top_p": 0.8, "top_k": 50, "max_tokens": 40}
    system = {"role": "system", "content": "be brief"}
    stop = ["za", "zo"]
    expected = null.post("/v1/chat/completions", {"messages": [system, *turns], "stop": stop, **sampling}).json()
    turns[2] = {"role": "user", "content": [{"type": "text", "text": "go "}, {"type": "text", "text": "on"}]}
    body = {"messages": turns, "system": "be brief", "stop_sequences": stop, **sampling}
    found = null.post(MESSAGES, body).json()
    assert found["content"][0]["text"] == expected["choices"][0]["message"]["content"]
    usage = found["usage"]
    read = usage["input_tokens"] + usage["cache_read_input_tokens"]
    assert (read, usage["output_tokens"]) == (
        expected["usage"]["prompt_tokens"],
        expected["usage"]["completion_tokens"],
    )
    assert null.post(COUNT, body).json() == {"input_tokens": read}
    # Who speaks twice has one turn, and a system's turn may stand in the middle.
    twice = [system, {"role": "user", "content": "hi"}, {"role": "user", "content": "you"}]
    once = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi\nyou"}]
    counted = null.post("/tokenize", {"messages": once}).json()["count"]
    assert null.post(COUNT, {"messages": twice}).json() == {"input_tokens": counted}


def test_an_answer_that_was_begun_is_continued(null):
    """By two roads: the turn that is open, and its text as the template writes it."""
    turns = [*USER, {"role": "assistant", "content": [{"type": "text", "text": "The answer is"}]}]
    body = {**GREEDY, "messages": turns, "max_tokens": 40}
    prompt = "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\nThe answer is"
    written = {"anthropic_version": "bedrock-2023-05-31", **body}
    answers = [
        null.post(MESSAGES, body).json()["content"][0]["text"],
        message(events(null, body))["content"][0]["text"],
        null.post("/model/null/invoke", written).json()["content"][0]["text"],
        null.post("/model/null/invoke", {"prompt": prompt, "max_gen_len": 40, "temperature": 0}).json()["generation"],
    ]
    assert len(set(answers)) == 1
    counted = null.post("/tokenize", {"content": prompt}).json()["tokens"]
    assert null.post(COUNT, body).json() == {"input_tokens": len(counted)}
    # Begun with nothing, it is as if it were not begun.
    empty = [*USER, {"role": "assistant", "content": ""}]
    found = [null.post(MESSAGES, {**GREEDY, "messages": turns}).json()["content"] for turns in (USER, empty)]
    assert found[0] == found[1] != answers[0]


def test_why_an_answer_ended(null):
    def reason(**more):
        return null.post(MESSAGES, {**GREEDY, **more}).json()["stop_reason"]

    assert reason(max_tokens=3) == "max_tokens"
    assert reason(max_tokens=64, stop_sequences=["a"]) == "stop_sequence"
    # Where a greedy answer ends by itself depends on its prompt alone.
    long, short = (
        {
            reason(messages=[{"role": "user", "content": f"{n} {'x' * length}"}], max_tokens=max_tokens)
            for n in range(24)
        }
        for length, max_tokens in ((4000, 4000), (1, 400))
    )
    assert long <= {"end_turn", "model_context_window_exceeded"}
    assert "model_context_window_exceeded" in long
    assert short == {"end_turn", "max_tokens"}


def test_what_is_cached_is_counted_apart(null):
    body = {**GREEDY, "messages": [{"role": "user", "content": "a prompt of its own, of more than two blocks"}]}
    first, second = (null.post(MESSAGES, body).json()["usage"] for _ in range(2))
    assert first["cache_read_input_tokens"] == 0
    assert second["cache_read_input_tokens"] >= 32
    assert second["cache_read_input_tokens"] + second["input_tokens"] == first["input_tokens"]
    start = events(null, body)[0]["message"]["usage"]
    assert (start["input_tokens"], start["output_tokens"]) == (first["input_tokens"], 0)


IMAGE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}}
BAD = [
    (MESSAGES, b"{", 400, "not valid JSON"),
    (MESSAGES, [], 400, "expected a map"),
    (MESSAGES, {"messages": USER}, 400, "max_tokens"),
    (MESSAGES, {**GREEDY, "max_tokens": 0}, 400, "max_tokens is 0"),
    (MESSAGES, {**GREEDY, "max_tokens": -1}, 400, "max_tokens"),
    (MESSAGES, {"max_tokens": 4}, 400, "messages"),
    (MESSAGES, {**GREEDY, "messages": []}, 400, "messages is empty"),
    (MESSAGES, {**GREEDY, "messages": [{"role": "tool", "content": "x"}]}, 400, "messages[0].role"),
    (MESSAGES, {**GREEDY, "messages": [{"role": "user", "content": 3}]}, 400, "messages[0].content"),
    (MESSAGES, {**GREEDY, "messages": [*USER, {"role": "assistant", "content": "I "}]}, 400, "end with white space"),
    (MESSAGES, {**GREEDY, "messages": [*USER, {"role": "system", "content": "I"}]}, 400, "turn of the system"),
    (MESSAGES, {**GREEDY, "messages": [{"role": "user", "content": [IMAGE]}]}, 400, "content[0] is of type 'image'"),
    (COUNT, {"messages": [{"role": "user", "content": [IMAGE]}]}, 400, "content[0] is of type 'image'"),
    (MESSAGES, {**GREEDY, "system": [IMAGE]}, 400, "system[0] is of type 'image'"),
    (MESSAGES, {**GREEDY, "tools": [{"name": "f", "input_schema": {}}]}, 400, "tools is not supported"),
    (MESSAGES, {**GREEDY, "thinking": {"type": "enabled", "budget_tokens": 1024}}, 400, "thinking is not supported"),
    (MESSAGES, {**GREEDY, "output_config": {"effort": "low"}}, 400, "output_config is not supported"),
    (MESSAGES, {**GREEDY, "temperature": -1}, 400, "temperature is -1"),
    (MESSAGES, {**GREEDY, "top_p": 2}, 400, "top_p is 2"),
    (MESSAGES, {**GREEDY, "top_k": -1}, 400, "top_k"),
    (MESSAGES, {**GREEDY, "stop_sequences": "x"}, 400, "stop_sequences"),
    (MESSAGES, {**GREEDY, "stop_sequences": [""]}, 400, "stop has an empty string"),
    (MESSAGES, {**GREEDY, "messages": [{"role": "user", "content": "x" * 5000}]}, 400, "4096"),
    (MESSAGES, {**GREEDY, "model": "claude"}, 404, "'claude' is not served"),
    ("/v1/messages/batches", {}, 404, "there is no POST"),
]
TYPES = {400: "invalid_request_error", 404: "not_found_error", 405: "invalid_request_error"}


@pytest.mark.parametrize(("path", "body", "status", "says"), BAD)
def test_errors_have_anthropics_shape(null, path, body, status, says):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = null.http.post(path, content=content)
    assert response.status_code == status, response.text
    error = response.json()
    assert error.keys() == {"type", "error", "request_id"}
    assert (error["type"], error["error"]["type"]) == ("error", TYPES[status])
    assert says in error["error"]["message"]
    assert error["request_id"] == response.headers["request-id"] == response.headers["x-request-id"]


def test_errors_of_no_handler(null):
    assert null.http.get(MESSAGES).json()["error"]["type"] == TYPES[405]
    assert null.http.get("/v1/models/nope", headers=VERSION).json()["error"]["type"] == TYPES[404]
    assert null.http.get("/v1/nope", headers=VERSION).json()["type"] == "error"
    assert null.http.get("/v1/models/nope").json()["error"]["code"] == "model_not_found"


def test_what_asks_for_nothing_is_ignored(null):
    cached = [{"type": "text", "text": "hi", "cache_control": {"type": "ephemeral"}}]
    body = {**GREEDY, "messages": [{"role": "user", "content": cached}], "tools": [], "thinking": {"type": "disabled"}}
    harmless = {"metadata": {"user_id": "me"}, "service_tier": "auto", "system": None, "no_such_field": 1}
    assert null.post(MESSAGES, {**body, **harmless}).status_code == 200


def test_a_full_queue_is_overloaded():
    long = {**GREEDY, "max_tokens": 60}
    with full(MESSAGES, long) as server:
        refused = server.post(MESSAGES, long)
        assert (refused.status_code, refused.json()["error"]["type"]) == (529, "overloaded_error")
        assert int(refused.headers["retry-after"]) >= 1


def test_a_stream_that_cannot_go_on_says_why(snapshot):
    with running("null:20", "--drain-timeout", "1") as server:
        found = []
        thread = threading.Thread(target=lambda: found.extend(events(server, {**GREEDY, "max_tokens": 4000})))
        thread.start()
        server.wait_until(lambda: server.resident()["num_used_blocks"] > 0)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        thread.join()
    assert found[0]["type"] == "message_start"
    assert (found[-1]["type"], found[-1]["error"]["type"]) == ("error", "api_error")
    assert "shutting down" in found[-1]["error"]["message"]
    snapshot("anthropic_stream_error.json", stable(found[-1]))
