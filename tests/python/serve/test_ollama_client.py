"""Ollama's own Python client, against a real model."""

import asyncio

import ollama
import pytest
from serving import QUESTION

GREEDY = {"temperature": 0, "num_predict": 24}


@pytest.fixture
def client(smollm2):
    with ollama.Client(host=smollm2.url) as client:
        yield client


def test_chat(client):
    answer = client.chat("smollm2", QUESTION, options=GREEDY, logprobs=True, top_logprobs=2)
    assert "Paris" in answer.message.content
    assert answer.message.role == "assistant"
    assert (answer.done, answer.done_reason, answer.eval_count) == (True, "length", 24)
    assert [len(token.top_logprobs) for token in answer.logprobs] == [2] * 24
    assert answer.total_duration > answer.eval_duration > 0
    assert answer.prompt_eval_count > 10


def test_a_chat_that_streams_says_the_same(client):
    whole = client.chat("smollm2", QUESTION, options=GREEDY)
    parts = list(client.chat("smollm2", QUESTION, options=GREEDY, stream=True))
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == 24


def test_generate_goes_on_from_its_context(client):
    first = client.generate("smollm2", "My name is Ada. Who am I?", options=GREEDY)
    second = client.generate("smollm2", "Say my name.", context=first.context, options=GREEDY)
    assert second.response
    assert second.context[: len(first.context)] == first.context
    raw = client.generate("smollm2", "The capital of France is", raw=True, options=GREEDY)
    assert "Paris" in raw.response
    assert raw.context is None


def test_a_stream_that_is_closed_frees_its_blocks(client, smollm2):
    stream = client.generate("smollm2", "Tell me a story", stream=True, options={"num_predict": 2000})
    next(stream)
    stream.close()
    smollm2.wait_idle("smollm2")


def test_models(client):
    listed, loaded = client.list().models, client.ps().models
    assert [model.model for model in listed] == [model.model for model in loaded] == ["smollm2"]
    assert listed[0].digest == loaded[0].digest
    assert listed[0].size > 50e6
    assert (listed[0].details.family, listed[0].details.format) == ("llama", "gguf")
    shown = client.show("smollm2:latest")
    assert shown.modelinfo["llama.context_length"] == loaded[0].context_length == 8192
    assert shown.capabilities == ["completion"]
    assert loaded[0].expires_at.year > 2200


def test_errors_are_the_clients_own(client):
    for model, params, status, message in [
        ("llama3.2", {}, 404, "not served"),
        ("smollm2", {"tools": [lambda x: x]}, 400, "tools is not supported"),
        ("smollm2", {"format": "json"}, 400, "format is not supported"),
        ("smollm2", {"options": {"top_p": 2}}, 400, "top_p is 2"),
    ]:
        for stream in (False, True):
            with pytest.raises(ollama.ResponseError, match=message) as caught:
                list(client.chat(model, QUESTION, stream=stream, **params))
            assert caught.value.status_code == status
    with pytest.raises(ollama.ResponseError, match="certain models"):
        client.pull("smollm2")
    with pytest.raises(ollama.ResponseError, match="/api/push is not supported"):
        client.push("smollm2")


def test_embeddings(client):
    one, other = client.embed("smollm2", ["hi", "there"]).embeddings
    assert len(one) == len(other) == 576
    assert one != other


def test_clients_at_once(smollm2):
    async def both():
        async with ollama.AsyncClient(host=smollm2.url) as client:
            prompts = ["One, two,", "Red, green,", "Monday, Tuesday,"]
            answers = [client.generate("smollm2", prompt, raw=True, options=GREEDY) for prompt in prompts]
            return await asyncio.gather(*answers)

    assert [answer.eval_count for answer in asyncio.run(both())] == [24] * 3
