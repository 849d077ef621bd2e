"""The server on the emulated GPU: nothing but the device differs."""

import pytest
from serving import running

BODY = {"prompt": "The capital of France is", "max_tokens": 2, "temperature": 0}


def test_a_server_on_the_emulated_gpu_answers_like_one_on_the_cpu(smollm2):
    args = "--device", "cuda-emu", "--max-model-len", "256", "--kv-cache-memory", "64MiB"
    try:
        with running("smollm2", *args) as server:
            found = server.post("/v1/completions", BODY).json()
            streamed = server.frames("/v1/completions", {**BODY, "stream": True})
            metrics = server.metrics()
    except RuntimeError as error:
        if "no emulated GPU" in str(error):
            pytest.skip(str(error))
        raise
    expected = smollm2.post("/v1/completions", BODY).json()
    assert found["choices"] == expected["choices"]
    assert found["usage"]["completion_tokens"] == 2
    assert "".join(frame["choices"][0]["text"] for frame in streamed) == expected["choices"][0]["text"]
    assert "vllm:generation_tokens_total" in metrics
