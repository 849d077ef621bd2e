"""OpenAI's Responses API: wire shapes as files, and OpenAI's own client."""

import json
import re

import openai
import pytest
from serving import QUESTION, running

PATH = "/v1/responses"
GREEDY = {"model": "null", "temperature": 0, "input": "hi", "max_output_tokens": 4}
TURNS = [
    {"role": "user", "content": "Who are you?"},
    {
        "type": "message",
        "id": "msg_1",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "annotations": [], "text": "Nobody."}],
    },
    {"role": "user", "content": [{"type": "input_text", "text": "I "}, {"type": "input_text", "text": "see."}]},
]


def stable(value):
    """What differs from run to run, replaced."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    text = re.sub(r'"(resp|msg)_[0-9a-f]{32}"', r'"\1_ID"', text)
    text = re.sub(r'"created_at": \d+', '"created_at": 0', text)
    return re.sub(r'"(\w+_ms|\w+_per_s|seed)": [\d.]+', r'"\1": 0', text) + "\n"


def events(server, body):
    """The data of each event; its name is also the data's type."""
    with server.http.stream("POST", PATH, json={**body, "stream": True}) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"] == "text/event-stream"
        frames = [frame for frame in response.read().decode().split("\n\n") if frame]
    named = [re.fullmatch(r"event: (\S+)\ndata: (.+)", frame).groups() for frame in frames]
    found = [json.loads(data) for _, data in named]
    assert [name for name, _ in named] == [event["type"] for event in found]
    assert [event["sequence_number"] for event in found] == list(range(len(found)))
    return found


def joined(found):
    """Events without how many deltas there are, which depends on timing."""
    shapes = []
    for event in found:
        event.pop("sequence_number")
        if event["type"] == "response.output_text.delta" and shapes[-1]["type"] == event["type"]:
            shapes[-1]["delta"] += event["delta"]
        else:
            shapes.append(event)
    return shapes


@pytest.mark.parametrize(
    ("case", "body"),
    [
        ("responses", {}),
        ("responses_turns", {"input": TURNS, "instructions": "Be brief.", "metadata": {"a": "b"}, "top_p": 0.5}),
        ("responses_completed", {"logit_bias": {"0": 100}}),
    ],
)
def test_whole_and_streamed_answers(null, snapshot, case, body):
    body = {**GREEDY, "cache_salt": case, **body}
    answer = null.post(PATH, body)
    assert answer.status_code == 200, answer.text
    snapshot(f"{case}.json", stable(answer.json()))
    streamed = events(null, {**body, "cache_salt": f"{case} streamed"})
    snapshot(f"{case}_stream.json", stable(joined(streamed)))
    assert json.loads(stable(streamed[-1]["response"])) == json.loads(stable(answer.json()))


def test_items_make_the_conversation_that_chat_makes(null):
    messages = [{"role": "developer", "content": "Be brief."}, *TURNS[:1]]
    messages += [{"role": "assistant", "content": "Nobody."}, {"role": "user", "content": "I see."}]
    chat = {"model": "null", "temperature": 0, "max_tokens": 20, "messages": messages}
    expected = null.post("/v1/chat/completions", chat).json()
    answer = null.post(PATH, {**GREEDY, "input": TURNS, "instructions": "Be brief.", "max_output_tokens": 20}).json()
    assert answer["output"][0]["content"][0]["text"] == expected["choices"][0]["message"]["content"]
    assert answer["usage"]["input_tokens"] == expected["usage"]["prompt_tokens"]
    # All of its whole blocks but the last token, which must be computed.
    assert answer["usage"]["input_tokens_details"]["cached_tokens"] == (answer["usage"]["input_tokens"] - 1) // 16 * 16


REFUSED = {
    "tools": ("tools", {"tools": [{"type": "web_search"}]}),
    "previous": ("previous_response_id", {"previous_response_id": "resp_1"}),
    "conversation": ("conversation", {"conversation": "conv_1"}),
    "json": ("text.format", {"text": {"format": {"type": "json_object"}}}),
    "schema": ("text.format", {"text": {"format": {"type": "json_schema", "name": "x", "schema": {}}}}),
    "background": ("background", {"background": True}),
    "reasoning": ("reasoning", {"reasoning": {"effort": "high"}}),
    "truncation": ("truncation", {"truncation": "auto"}),
    "include": ("include", {"include": ["message.output_text.logprobs"]}),
    "no tokens": ("max_output_tokens", {"max_output_tokens": 0}),
    "empty": ("input", {"input": []}),
    "no input": ("input", {"input": None}),
    "role": ("input[0].role", {"input": [{"role": "tool", "content": "x"}]}),
    "no content": ("input[0].content", {"input": [{"role": "user"}]}),
    "item": ("input[1]", {"input": [TURNS[0], {"type": "function_call_output", "call_id": "x", "output": "y"}]}),
    "part": ("input[0].content[0]", {"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_built_is_refused_by_name(null, case):
    param, body = REFUSED[case]
    answer = null.post(PATH, {**GREEDY, **body})
    error = answer.json()["error"]
    assert (answer.status_code, error["type"], error["param"]) == (400, "invalid_request_error", param)
    assert param in error["message"]


def test_what_asks_for_nothing_is_taken(null):
    nothing = {"tools": [], "tool_choice": "auto", "text": {"format": {"type": "text"}, "verbosity": "low"}}
    nothing |= {"previous_response_id": None, "store": True, "truncation": "disabled", "reasoning": {"effort": None}}
    answer = null.post(PATH, {**GREEDY, **nothing, "temperature": 0.7})
    assert (answer.status_code, answer.json()["temperature"]) == (200, 0.7)


def test_a_stream_that_the_server_ends_says_so(snapshot):
    with running("null:50", "--drain-timeout", "0") as server:
        body = {**GREEDY, "max_output_tokens": 4000, "ignore_eos": True, "stream": True}
        with server.http.stream("POST", PATH, json=body) as response:
            lines = response.iter_lines()
            while "response.output_text.delta" not in next(lines):
                pass
            server.process.terminate()
            last = json.loads([line for line in lines if line.startswith("data: ")][-1].removeprefix("data: "))
    assert last["type"] == "response.failed"
    last["response"]["output"] = []
    snapshot("responses_failed.json", stable(last | {"sequence_number": 0}))
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"]["code"] == "service_unavailable"


@pytest.fixture
def client(smollm2):
    with openai.OpenAI(base_url=f"{smollm2.url}/v1", api_key="none", max_retries=0) as client:
        yield client


ASKED = {"model": "smollm2", "input": QUESTION[0]["content"], "temperature": 0, "max_output_tokens": 16}


def test_openais_client_creates_and_streams(client):
    whole = client.responses.create(**ASKED)
    assert "Paris" in whole.output_text
    assert (whole.status, whole.incomplete_details.reason) == ("incomplete", "max_output_tokens")
    assert whole.usage.output_tokens == 16
    with client.responses.create(**ASKED, stream=True) as stream:
        found = list(stream)
    assert found[0].type == "response.created"
    deltas = "".join(event.delta for event in found if event.type == "response.output_text.delta")
    assert deltas == whole.output_text
    assert found[-1].type == "response.incomplete"
    assert found[-1].response.usage.input_tokens_details.cached_tokens > 0


def test_openais_client_puts_a_stream_together(client):
    with client.responses.stream(**ASKED, extra_body={"stop": ["."]}) as stream:
        deltas = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert final.status == "completed"
    assert final.output_text == "".join(deltas)


def test_openais_client_goes_on_with_what_was_answered(client):
    first = client.responses.create(**ASKED)
    turns = [*QUESTION, *(item.to_dict() for item in first.output)]
    second = client.responses.create(**{**ASKED, "input": [*turns, {"role": "user", "content": "And of Italy?"}]})
    assert second.usage.input_tokens > first.usage.input_tokens + 16
    with pytest.raises(openai.BadRequestError, match="keeps no responses"):
        client.responses.create(**ASKED, previous_response_id=first.id)
