"""Exact mode against the NumPy decoder, on a tiny checkpoint with random weights."""

import json

import numpy as np
import pytest

import ferrule
from checkpoints import write_safetensors, write_tokenizer
from ferrule import Engine, SamplingParams
from numpy_decoder import LlamaConfig, LlamaDecoder, random_weights

CONFIGS = {
    "untied": LlamaConfig(),
    "tied": LlamaConfig(tie_word_embeddings=True, num_key_value_heads=4),
    "one_kv_head": LlamaConfig(num_key_value_heads=1, rope_theta=500000.0),
}


@pytest.fixture(scope="module", params=CONFIGS.values(), ids=CONFIGS.keys())
def pair(request, tmp_path_factory):
    """The decoder, and the engine on the same weights."""
    config, folder = request.param, tmp_path_factory.mktemp("checkpoint")
    weights = random_weights(config, seed=7)
    write_safetensors(folder / "model.safetensors", weights)
    write_tokenizer(folder / "tokenizer.json", config.vocab_size)
    (folder / "config.json").write_text(json.dumps(config.to_json()))
    with Engine(folder, activations="f32", kv_cache_memory="16MB") as engine:
        yield LlamaDecoder(config, weights), engine


def random_tokens(length, seed):
    return np.random.default_rng(seed).integers(3, 96, length).tolist()


@pytest.mark.parametrize("length", [2, 16, 17, 100])
def test_scores_agree(pair, length):
    decoder, engine = pair
    tokens = random_tokens(length, seed=length)
    expected = decoder.logprobs(tokens)
    score = engine.score(tokens)
    assert [entry.token_id for entry in score] == tokens[1:]
    np.testing.assert_allclose(
        [entry.logprob for entry in score], expected[np.arange(length - 1), tokens[1:]], atol=1e-4
    )


def test_greedy_generation_agrees(pair):
    decoder, engine = pair
    prompt = random_tokens(20, seed=1)
    params = SamplingParams(max_tokens=30, temperature=0.0, ignore_eos=True, logprobs=3)
    choice = engine.generate(prompt, params)[0].outputs[0]
    tokens = list(prompt)
    for entry in choice.logprobs:
        expected = decoder.logprobs(tokens)[-1]
        best = np.argsort(-expected, kind="stable")[:3]
        assert [token for token, _ in entry.top] == best.tolist()
        np.testing.assert_allclose([logprob for _, logprob in entry.top], expected[best], atol=1e-4)
        tokens.append(entry.token_id)
    assert choice.token_ids == tokens[20:]


def test_a_missing_tensor_is_named(tmp_path):
    config = LlamaConfig()
    weights = random_weights(config, seed=7)
    del weights["model.layers.1.mlp.up_proj.weight"]
    write_safetensors(tmp_path / "model.safetensors", weights)
    write_tokenizer(tmp_path / "tokenizer.json", config.vocab_size)
    (tmp_path / "config.json").write_text(json.dumps(config.to_json()))
    with pytest.raises(ferrule.CorruptModel, match=r"model\.layers\.1\.mlp\.up_proj\.weight"):
        Engine(tmp_path)
