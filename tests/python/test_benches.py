"""The benchmarks' own logic: shapes, synthetic models, and how results are shown. No peer is needed."""

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import quality
from ferrule import Engine, SamplingParams
from harness import compare, gptq_folder, hf_folder, table, vocabulary
from harness.compare import Plan, Results
from harness.shapes import SHAPES
from harness.tensors import interleave_heads, tensors, to_bf16, widen
from harness.work import WORKS, prompts

# As the models' own cards and files count them.
PARAMETERS = {
    "smollm2-135m": 134_515_008,
    "qwen3-0.6b": 596_049_920,
    "llama-3.2-1b": 1_235_814_400,
    "qwen3-1.7b": 1_720_574_976,
    "llama-3.2-3b": 3_212_749_824,
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_shapes_have_the_parameters_of_the_real_models(name: str) -> None:
    assert sum(np.prod(tensor.shape) for tensor in tensors(SHAPES[name])) == PARAMETERS[name]


@given(st.lists(st.floats(-(2.0**100), 2.0**100, width=32), min_size=1))
def test_bf16_is_the_nearest_value_with_eight_bits(values: list[float]) -> None:
    exact = np.array(values, dtype=np.float32)
    bits = to_bf16(exact)
    error = np.abs(widen(bits).astype(np.float64) - exact)
    for neighbour in (bits + np.uint16(1), bits - np.uint16(1)):
        other = widen(neighbour).astype(np.float64)
        assert np.all((error <= np.abs(other - exact)) | np.isnan(other))


def test_interleaved_heads_put_rotating_rows_side_by_side() -> None:
    rows = np.arange(16).reshape(16, 1)
    assert interleave_heads(rows, 2)[:, 0].tolist() == [0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15]


def test_a_synthetic_folder_is_the_same_model_whole_and_in_shards(tmp_path: Path) -> None:
    texts = []
    for name, shard_bytes in (("whole", 1 << 30), ("shards", 500_000)):
        hf_folder.write(SHAPES["tiny"], tmp_path / name, shard_bytes)
        with Engine(str(tmp_path / name), activations="f32") as engine:
            (output,) = engine.generate(["ferrule 12"], SamplingParams(max_tokens=8, temperature=0.0, ignore_eos=True))
        texts.append(output.outputs[0].token_ids)
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 1
    assert texts[0] == texts[1]


def test_the_order_of_columns_changes_nothing_where_all_groups_are_alike(tmp_path: Path) -> None:
    scores = []
    for act_order in (False, True):
        folder = tmp_path / str(act_order)
        gptq_folder.write(SHAPES["tiny"], folder, act_order)
        with Engine(str(folder), activations="f32") as engine:
            scores.append([entry.logprob for entry in engine.score(list(range(5, 45)))])
    np.testing.assert_allclose(scores[0], scores[1], atol=1e-4)


def test_the_vocabulary_spells_bytes_and_pairs(tmp_path: Path) -> None:
    tokens = vocabulary.tokens(1024)
    assert len(set(tokens)) == 1024 == len(vocabulary.token_types(1024))
    assert tokens[1 + ord("a")] == "a"
    assert tokens[1 + ord(" ")] == "\u0120"
    with pytest.raises(ValueError, match="the least is 933"):
        vocabulary.tokens(932)


def test_prompts_have_the_lengths_of_the_work() -> None:
    lists = prompts(WORKS["batch"], 1000)
    assert [len(ids) for ids in lists] == [128] * 16
    assert all(0 <= token < 1000 for ids in lists for token in ids)
    assert len({tuple(ids) for ids in lists}) == 16


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0123, "0.01"), (1.234, "1.23"), (12.34, "12.3"), (123.4, "123"), (1234.5, "1,234")],
)
def test_digits(value: float, text: str) -> None:
    assert table.digits(value) == text


@pytest.fixture
def results() -> Results:
    return Results(
        machine={"cpu": "A CPU", "isa": "avx2"},
        versions={"ferrule": "1", "llama.cpp": "2"},
        bandwidth=[30e9, 20e9],
        values={
            ("m", "decode", "ferrule"): [100.0, 300.0, 200.0],
            ("m", "decode", "llama.cpp"): [50.0],
            ("m", "start", "ferrule"): [50.0],
            ("m", "start", "llama.cpp"): [100.0, 200.0],
        },
        failures={("m", "start", "mistral.rs"): "no such model"},
    )


def test_the_table_shows_medians_and_how_much_better_ours_are(results: Results) -> None:
    lines = table.markdown(results).splitlines()
    assert lines[0] == "| model | work | unit | ferrule | llama.cpp | mistral.rs |"
    assert lines[2] == "| m | decode 128 | tokens/s | 200 | 50.0 (4.00x) |  |"
    assert lines[3] == "| m | start to first token | ms | 50.0 | 150 (3.00x) | failed |"
    assert "20.0 to 30.0 GB/s" in table.heading(results)


def test_results_are_json(results: Results) -> None:
    content = json.loads(json.dumps(results.json()))
    assert content["results"][0] == {
        "model": "m",
        "work": "decode",
        "engine": "ferrule",
        "unit": "tokens/s",
        "values": [100.0, 300.0, 200.0],
    }
    assert content["failures"] == [
        {"model": "m", "work": "start", "engine": "mistral.rs", "error": "no such model"},
    ]


@pytest.mark.parametrize(
    ("reads", "counted", "failed"),
    [([80, 80], [1.0], 0), ([50, 80, 80], [2.0], 0), ([80, 50, 80, 80], [3.0], 0), ([80, 50, 80, 50], [], 1)],
)
def test_measurements_count_with_fast_memory_before_and_after(
    monkeypatch: pytest.MonkeyPatch, reads: list[int], counted: list[float], failed: int
) -> None:
    bandwidth, values = iter(reads), iter([1.0, 2.0, 3.0])
    monkeypatch.setattr(compare, "_read", lambda _: next(bandwidth) * 1e9)
    monkeypatch.setattr(compare, "_value", lambda *_: next(values))
    results = Results(machine={}, versions={})
    plan = Plan(Path("ferrule"), [Path("m")], ["decode"], [], 1, 2, 60, min_read=70e9, tries=3)
    compare.run(plan, results)
    assert list(results.values.get(("m", "decode", "ferrule"), [])) == counted
    assert len(results.failures) == failed
    assert results.bandwidth == [80e9] * 2 * len(counted)
    assert next(bandwidth, None) is None


def test_the_text_for_perplexity_is_long_enough() -> None:
    assert len(quality.text(250_000)) == 250_000
    assert quality.text(1000) == quality.text(2000)[:1000]


def test_perplexities_are_compared_over_the_same_tokens() -> None:
    exact, fast = {"tokens": 100, "perplexity": 10.0}, {"tokens": 100, "perplexity": 10.02}
    result = quality.comparison("m", {"f32/f32": exact, "int8/bf16": fast})
    assert result["perplexity"] == {"f32/f32": 10.0, "int8/bf16": 10.02}
    assert result["difference_percent"] == pytest.approx({"f32/f32": 0.0, "int8/bf16": 0.2})
    with pytest.raises(ValueError, match="100 and 99"):
        quality.comparison("m", {"f32/f32": exact, "int8/bf16": {"tokens": 99, "perplexity": 10.0}})
