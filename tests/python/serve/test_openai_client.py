"""OpenAI's own Python client, against a real model."""

import asyncio

import openai
import pytest
from serving import QUESTION


@pytest.fixture
def client(smollm2):
    with openai.OpenAI(base_url=f"{smollm2.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def chat(client, **params):
    return client.chat.completions.create(
        model="smollm2", messages=QUESTION, temperature=0, **{"max_tokens": 24, **params}
    )


def test_chat(client):
    answer = chat(client, logprobs=True, top_logprobs=2)
    assert "Paris" in answer.choices[0].message.content
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == len(answer.choices[0].logprobs.content) == 24
    assert answer.usage.prompt_tokens_details.cached_tokens >= 0
    assert answer.timing["decode_tokens_per_s"] > 0


def test_a_chat_that_streams_says_the_same(client):
    whole = chat(client)
    with chat(client, stream=True, stream_options={"include_usage": True}) as stream:
        chunks = list(stream)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == whole.choices[0].message.content
    assert chunks[-1].usage.completion_tokens == 24


def test_completions(client):
    answer = client.completions.create(
        model="smollm2", prompt=["The capital of France is", "One, two,"], max_tokens=4, logprobs=1, echo=True
    )
    assert answer.choices[0].text.startswith("The capital of France is")
    assert answer.choices[1].text.startswith("One, two,")
    tokens = client.completions.create(model="smollm2", prompt=[504, 3575], max_tokens=4, logprobs=1)
    assert tokens.usage.prompt_tokens == 2
    assert len(tokens.choices[0].logprobs.tokens) == 4


def test_a_stream_that_is_closed_frees_its_blocks(client, smollm2):
    stream = chat(client, stream=True, max_tokens=2000)
    next(iter(stream))
    stream.close()
    smollm2.wait_idle("smollm2")


def test_errors_are_the_clients_own(client):
    with pytest.raises(openai.NotFoundError, match="not served"):
        client.chat.completions.create(model="gpt", messages=QUESTION)
    with pytest.raises(openai.BadRequestError, match="tools is not supported"):
        chat(client, tools=[{"type": "function", "function": {"name": "f", "parameters": {}}}])
    with pytest.raises(openai.BadRequestError) as caught:
        client.completions.create(model="smollm2", prompt="word " * 9000)
    assert caught.value.code == "context_length_exceeded"
    assert [model.id for model in client.models.list()] == ["smollm2"]
    assert client.models.retrieve("smollm2").id == "smollm2"


def test_an_answer_does_not_depend_on_its_company(smollm2):
    """The same greedy request alone and among 31 others."""

    async def ask(client, prompt, **params):
        answer = await client.completions.create(model="smollm2", prompt=prompt, **{"max_tokens": 24, **params})
        return answer.choices[0].text

    async def both():
        async with openai.AsyncOpenAI(base_url=f"{smollm2.url}/v1", api_key="none", timeout=120) as client:
            greedy = {"prompt": "Once upon a time there was a", "temperature": 0}
            alone = await ask(client, **greedy)
            prompts = [f"Number {i} is " + "very " * i for i in range(31)]
            others = [ask(client, prompt, max_tokens=8 + i % 9) for i, prompt in enumerate(prompts)]
            company = await asyncio.gather(*others[:15], ask(client, **greedy), *others[15:])
            return alone, company[15]

    alone, in_company = asyncio.run(both())
    assert alone == in_company
