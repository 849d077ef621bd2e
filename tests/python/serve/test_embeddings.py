"""Embeddings in both dialects: they are the engine's own, whoever asks and in whatever shape."""

import base64
import struct

import numpy as np
import ollama
import openai
import pytest
from serving import running

from ferrule import Engine

OPENAI = "/v1/embeddings"
TEXTS = ["a cat", "a kitten", "the stock market fell by three percent"]


def vectors(server, **body):
    answer = server.post(OPENAI, {"model": "null", **body})
    assert answer.status_code == 200, answer.text
    return [entry["embedding"] for entry in answer.json()["data"]]


def test_the_shape_is_openais(null):
    answer = null.post(OPENAI, {"model": "null", "input": ["hi", "there"], "user": "u"}).json()
    data = answer.pop("data")
    assert answer == {"object": "list", "model": "null", "usage": {"prompt_tokens": 7, "total_tokens": 7}}
    assert [(entry["object"], entry["index"]) for entry in data] == [("embedding", 0), ("embedding", 1)]
    for entry in data:
        assert sum(x * x for x in entry["embedding"]) == pytest.approx(1, abs=1e-5)


def test_inputs_may_be_texts_or_tokens_one_or_many(null):
    tokens = null.post("/tokenize", {"prompt": "hi"}).json()["tokens"]
    expected = vectors(null, input="hi")
    assert vectors(null, input=["hi"]) == vectors(null, input=tokens) == vectors(null, input=[tokens]) == expected
    # More than are in the queue at once.
    many = vectors(null, input=[f"text {i}" for i in range(100)])
    assert len(many) == 100
    assert many[63] == vectors(null, input="text 63")[0]


def test_base64_is_little_endian_float32(null):
    (packed,) = vectors(null, input="hi", encoding_format="base64")
    (plain,) = vectors(null, input="hi", encoding_format="float")
    data = base64.b64decode(packed)
    assert list(struct.unpack(f"<{len(data) // 4}f", data)) == pytest.approx(plain, abs=1e-7)


@pytest.mark.parametrize(
    ("param", "body"),
    [
        ("input", {"input": ["x"] * 2049}),
        ("input", {"input": {"text": "x"}}),
        ("encoding_format", {"input": "x", "encoding_format": "int8"}),
        ("dimensions", {"input": "x", "dimensions": 3}),
    ],
)
def test_bad_requests_are_refused_by_name(null, param, body):
    answer = null.post(OPENAI, {"model": "null", **body})
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_inputs_that_are_too_long_or_empty_are_refused(null):
    answer = null.post(OPENAI, {"model": "null", "input": "x" * 5000})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "context_length_exceeded")
    for empty in ("", [], [[]], [""]):
        answer = null.post(OPENAI, {"model": "null", "input": empty})
        assert (answer.status_code, "empty" in answer.json()["error"]["message"]) == (400, True)


def test_ollamas_shapes_say_the_same(null):
    many = null.post("/api/embed", {"model": "null", "input": ["hi", "there"]}).json()
    assert many["embeddings"] == vectors(null, input=["hi", "there"])
    assert (many["model"], many["prompt_eval_count"]) == ("null", 7)
    assert many["total_duration"] >= many["load_duration"] >= 0
    assert null.post("/api/embed", {"model": "null", "input": "hi"}).json()["embeddings"] == vectors(null, input="hi")
    one = null.post("/api/embeddings", {"model": "null", "prompt": "hi"}).json()
    assert one == {"embedding": vectors(null, input="hi")[0]}
    assert null.post("/api/embed", {"model": "null", "input": []}).json()["embeddings"] == []
    assert null.post("/api/embeddings", {"model": "null"}).json() == {"embedding": []}


def test_ollama_cuts_what_is_too_long(null):
    cut = null.post("/api/embed", {"model": "null", "input": "x" * 5000}).json()
    assert cut["prompt_eval_count"] == 4096
    assert cut["embeddings"] == vectors(null, input="x" * 4096)


def test_they_count_as_requests_that_ended_well():
    with running("null") as server:
        server.post(OPENAI, {"model": "null", "input": ["hi", "there"]})
        server.wait_idle()
        metrics = server.metrics()
    assert 'vllm:request_success_total{engine="0",finished_reason="stop",model_name="null"} 2' in metrics
    assert 'vllm:prompt_tokens_total{engine="0",model_name="null"} 7' in metrics


def test_real_clients_get_the_engines_vectors(smollm2):
    """The openai client asks for base64 unless it is told otherwise."""
    expected = Engine("smollm2", max_num_seqs=4).embed(TEXTS)
    with openai.OpenAI(base_url=f"{smollm2.url}/v1", api_key="none", max_retries=0) as client:
        answer = client.embeddings.create(model="smollm2", input=TEXTS)
    with ollama.Client(host=smollm2.url) as client:
        other = client.embed("smollm2", TEXTS)
    found = np.array([entry.embedding for entry in answer.data], dtype=np.float32)
    np.testing.assert_array_equal(found, expected)
    np.testing.assert_array_equal(np.array(other.embeddings, dtype=np.float32), expected)
    assert answer.usage.prompt_tokens == other.prompt_eval_count > 6
