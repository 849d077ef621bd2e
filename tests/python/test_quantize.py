"""`ferrule.quantize`: its folders against the NumPy decoder, with readers that know only the formats' definitions."""

import json
import subprocess
import sys

import numpy as np
import pytest

import ferrule
from ferrule import Engine
from numpy_decoder import LlamaDecoder, random_weights
from quantized_folders import CONFIG, TOKENS, dequantized, read_safetensors, write_source


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    write_source(folder)
    return folder


@pytest.mark.parametrize("scheme", ["int4", "int4-gptq", "int4-awq", "int8", "int8-w8a8"])
def test_a_folder_means_what_the_formats_say_and_its_certificate_tells_the_truth(scheme, source, tmp_path):
    (tmp_path / "text.txt").write_text("".join(chr(ord("!") + token - 3) for token in TOKENS))
    settings = {"scheme": scheme, "calibration_tokens": 1024, "evaluation": tmp_path / "text.txt"}
    certificate = ferrule.quantize(source, tmp_path / "made", **settings)
    made, original = (
        LlamaDecoder(CONFIG, weights).logprobs(TOKENS)[:39]
        for weights in (dequantized(tmp_path / "made"), random_weights(CONFIG, seed=11))
    )
    expected = made[np.arange(39), TOKENS[1:]]
    with Engine(tmp_path / "made", activations="f32", kv_cache_memory="16MB") as engine:
        found = [entry.logprob for entry in engine.score(TOKENS)]
    np.testing.assert_allclose(found, expected, atol=2e-4)

    quality = certificate["quality"]
    assert quality["text"] == {"name": "text.txt", "tokens": 40}
    assert quality["perplexity"] == pytest.approx(np.exp(-expected.mean()), rel=1e-4)
    assert quality["source_perplexity"] == pytest.approx(np.exp(-original[np.arange(39), TOKENS[1:]].mean()), rel=1e-4)
    assert quality["mean_kl"] == pytest.approx(
        (np.exp(original) * (original - made)).sum(-1).mean(), rel=1e-2, abs=1e-6
    )
    assert quality["same_top"] == (original.argmax(-1) == made.argmax(-1)).mean()
    assert certificate["scheme"] == scheme
    _, metadata = read_safetensors(tmp_path / "made" / "model.safetensors")
    assert json.loads(metadata["ferrule.certificate"]) == certificate


def test_calibration_and_evaluation_text_come_from_files(source, tmp_path):
    for name, seed in [("read.txt", 1), ("measured.txt", 2)]:
        characters = np.random.default_rng(seed).integers(ord("!"), ord("!") + 60, 3000)
        (tmp_path / name).write_text("".join(map(chr, characters)))
    certificate = ferrule.quantize(
        source,
        tmp_path / "made",
        scheme="int4-gptq",
        group_size=32,
        calibration=tmp_path / "read.txt",
        calibration_tokens=1024,
        evaluation=tmp_path / "measured.txt",
    )
    assert certificate["calibration"] == {"name": "read.txt", "tokens": 1024}
    assert certificate["quality"]["text"] == {"name": "measured.txt", "tokens": 3000}
    assert certificate["group_size"] == 32


def test_what_does_not_fit_is_named(source, tmp_path):
    with pytest.raises(ferrule.InvalidConfig, match=r"int5.*int4-gptq"):
        ferrule.quantize(source, tmp_path / "made", scheme="int5")
    with pytest.raises(ferrule.InvalidConfig, match=r"128.*\[64, 64, 96\]"):
        ferrule.quantize(source, tmp_path / "made", scheme="int8", group_size=128)
    with pytest.raises(ferrule.InvalidConfig, match="is there already"):
        ferrule.quantize(source, tmp_path, scheme="int8")
    (tmp_path / "short.txt").write_text("too short")
    with pytest.raises(ferrule.InvalidRequest, match="too few to calibrate"):
        ferrule.quantize(source, tmp_path / "made", scheme="int4-gptq", calibration=tmp_path / "short.txt")


def test_another_quantization_does_not_go_on_with_this_one(source, tmp_path):
    (tmp_path / "short.txt").write_text("too short")
    for _ in range(2):
        with pytest.raises(ferrule.InvalidRequest):
            ferrule.quantize(source, tmp_path / "made", scheme="int4-gptq", calibration=tmp_path / "short.txt")
    (tmp_path / "made.partial" / "calibration.json").write_text("work")
    with pytest.raises(ferrule.InvalidConfig, match=r"made\.partial.*delete it"):
        ferrule.quantize(source, tmp_path / "made", scheme="int4")


def test_a_mistake_in_the_command_leaves_nothing_that_must_be_deleted(source, tmp_path):
    with pytest.raises(ferrule.StorageError, match=r"missing\.txt"):
        ferrule.quantize(source, tmp_path / "made", scheme="int4-gptq", calibration=tmp_path / "missing.txt")
    assert ferrule.quantize(source, tmp_path / "made", scheme="int8", calibration_tokens=512)["scheme"] == "int8"


def test_an_evaluation_text_that_is_not_there_is_missed_before_the_work(source, tmp_path):
    with pytest.raises(ferrule.StorageError, match=r"missing\.txt"):
        ferrule.quantize(source, tmp_path / "made", scheme="int4-gptq", evaluation=tmp_path / "missing.txt")
    assert [path.name for path in (tmp_path / "made.partial").iterdir()] == ["plan.json"]


def test_the_command_measures_what_the_certificate_says(source, tmp_path):
    text = tmp_path / "text.txt"
    text.write_text("".join(chr(ord("!") + token - 3) for token in TOKENS))
    certificate = ferrule.quantize(source, tmp_path / "made", scheme="int4", evaluation=text)
    arguments = ["perplexity", tmp_path / "made", text, "--source", source, "--ctx", "256", "--json"]
    done = subprocess.run([sys.executable, "-m", "ferrule", *arguments], stdout=subprocess.PIPE, check=True, timeout=60)
    found = json.loads(done.stdout)
    for name in ("perplexity", "source_perplexity", "mean_kl", "same_top"):
        assert found[name] == certificate["quality"][name]


def test_a_gguf_file_becomes_a_folder_with_the_same_tokens_and_nearly_the_same_scores(tmp_path):
    text = "Ünïcode, 12345 numbers,\n\n    indented code: x_y = f(z)!  <|im_start|>user 日本語"
    (tmp_path / "text.txt").write_text(text)
    try:
        ferrule.quantize("smollm2", tmp_path / "made", scheme="int8", evaluation=tmp_path / "text.txt")
    except ferrule.StorageError as unreachable:
        pytest.skip(f"smollm2 cannot be fetched here: {unreachable}")
    scores = []
    for model in ("smollm2", tmp_path / "made"):
        with Engine(model, activations="f32", kv_cache_memory="64MB") as engine:
            entries = engine.score(text)
            scores.append([(entry.token_id, entry.logprob) for entry in entries])
            chat = engine.chat([{"role": "user", "content": "hi"}], ferrule.SamplingParams(max_tokens=1))
            scores[-1].append((tuple(chat[0].prompt_token_ids), 0.0))
    (tokens, logprobs), (made_tokens, made_logprobs) = (zip(*entries, strict=True) for entries in scores)
    assert made_tokens == tokens
    # Unlikely tokens move by some tenths; a tensor in the wrong place would move all of them by more than one.
    assert np.abs(np.subtract(made_logprobs, logprobs)).mean() < 0.2
