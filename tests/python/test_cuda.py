"""The engine on the emulated GPU, from Python, the command line and HTTP: only the device differs."""

from pathlib import Path

import pytest

import ferrule
from ferrule import Engine, SamplingParams

MODEL = Path(__file__).parents[1] / "golden" / "models" / "qwen3"
PROMPTS = [[1, 2, 3, 4, 5], [7, 8, 9]]
GREEDY = SamplingParams(max_tokens=6, temperature=0.0, ignore_eos=True, logprobs=0)


@pytest.fixture(scope="module")
def engine():
    try:
        with Engine(MODEL, device="cuda-emu", kv_cache_memory="8MiB") as engine:
            yield engine
    except ferrule.DeviceError as error:
        pytest.skip(str(error))


def test_an_engine_on_the_emulated_device_answers_like_the_cpu(engine):
    with Engine(MODEL, activations="f32", kv_cache_memory="8MiB") as cpu:
        expected = cpu.generate(PROMPTS, GREEDY)
    for found, wanted in zip(engine.generate(PROMPTS, GREEDY), expected, strict=True):
        ours, theirs = found.outputs[0], wanted.outputs[0]
        assert len(ours.token_ids) == 6
        assert ours.token_ids[0] == theirs.token_ids[0]
        assert ours.logprobs[0].logprob == pytest.approx(theirs.logprobs[0].logprob, abs=0.1)


@pytest.mark.skipif(Path("/dev/nvidiactl").exists(), reason="this machine has a GPU")
def test_a_missing_gpu_is_a_device_error():
    with pytest.raises(ferrule.DeviceError, match="CUDA"):
        Engine(MODEL, device="cuda")
