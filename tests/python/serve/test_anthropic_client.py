"""Anthropic's own Python client, against a real model."""

import anthropic
import pytest
from serving import QUESTION

# The newest clients have no parameters for sampling, which the API still takes.
GREEDY = {"extra_body": {"temperature": 0}}


@pytest.fixture
def client(smollm2):
    with anthropic.Anthropic(base_url=smollm2.url, api_key="none", max_retries=0) as client:
        yield client


def create(client, **params):
    params = {"model": "smollm2", "max_tokens": 24, "messages": QUESTION, **GREEDY, **params}
    return client.messages.create(**params)


def test_messages(client):
    answer = create(client)
    assert "Paris" in answer.content[0].text
    assert (answer.stop_reason, answer.usage.output_tokens) == ("max_tokens", 24)
    assert answer._request_id.startswith("req-")
    counted = client.messages.count_tokens(model="smollm2", messages=QUESTION).input_tokens
    assert counted == answer.usage.input_tokens + answer.usage.cache_read_input_tokens
    assert answer.timing["decode_tokens_per_s"] > 0
    stopped = create(client, stop_sequences=["Paris"])
    assert (stopped.stop_reason, stopped.stop_sequence) == ("stop_sequence", "Paris")
    assert stopped.content[0].text == answer.content[0].text.split("Paris")[0]


def test_a_message_that_streams_says_the_same(client):
    whole = create(client)
    with client.messages.stream(model="smollm2", max_tokens=24, messages=QUESTION, **GREEDY) as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == final.content[0].text == whole.content[0].text
    assert final.stop_reason == whole.stop_reason
    assert final.usage.output_tokens == 24
    total = final.usage.input_tokens + final.usage.cache_read_input_tokens
    assert total == whole.usage.input_tokens + whole.usage.cache_read_input_tokens


def test_a_system_prompt_and_a_conversation(client, smollm2):
    turns = [{"role": "user", "content": "My name is Ada."}, {"role": "assistant", "content": "Hello, Ada."}]
    blocks = [{"type": "text", "text": "What is my "}, {"type": "text", "text": "name?"}]
    answer = create(client, system="Be brief.", messages=[*turns, {"role": "user", "content": blocks}])
    messages = [{"role": "system", "content": "Be brief."}, *turns, {"role": "user", "content": "What is my name?"}]
    expected = smollm2.post("/v1/chat/completions", {"messages": messages, "temperature": 0, "max_tokens": 24}).json()
    assert answer.content[0].text == expected["choices"][0]["message"]["content"]


def test_an_answer_that_was_begun_is_continued(client):
    begun = {"role": "assistant", "content": "The capital of France is"}
    answer = create(client, messages=[*QUESTION, begun])
    assert answer.content[0].text.startswith(" Paris")


def test_a_stream_that_is_closed_frees_its_blocks(client, smollm2):
    stream = create(client, max_tokens=2000, stream=True)
    next(iter(stream))
    stream.close()
    smollm2.wait_idle("smollm2")


def test_models(client):
    assert [model.id for model in client.models.list()] == ["smollm2"]
    assert client.models.retrieve("smollm2").created_at.year > 2020


def test_errors_are_the_clients_own(client):
    tool = {"name": "f", "input_schema": {"type": "object"}}
    for error, says, params in [
        (anthropic.NotFoundError, "not served", {"model": "claude"}),
        (anthropic.BadRequestError, "tools is not supported", {"tools": [tool]}),
        (anthropic.BadRequestError, "messages is empty", {"messages": []}),
        (anthropic.BadRequestError, "8192", {"messages": [{"role": "user", "content": "word " * 9000}]}),
    ]:
        for stream in (False, True):
            with pytest.raises(error, match=says) as caught:
                create(client, stream=stream, **params)
            assert caught.value.body["type"] == "error"
            assert caught.value.request_id == caught.value.body["request_id"]
