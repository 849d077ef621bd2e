"""The default model, end to end, against tokens that Transformers computed from the same weights."""

import asyncio
import json
import math
import re
from pathlib import Path

import pytest

import ferrule
from ferrule import Engine, SamplingParams

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "smollm2.json").read_text())["items"]
USER = [{"role": "user", "content": "What is the capital of France?"}]
GREEDY = SamplingParams(max_tokens=24, temperature=0.0)


def load(**settings):
    try:
        return Engine("smollm2", kv_cache_memory="256MB", **settings)
    except ferrule.StorageError as unreachable:
        pytest.skip(f"smollm2 cannot be fetched here: {unreachable}")


@pytest.fixture(scope="module")
def exact():
    with load(activations="f32") as engine:
        yield engine


@pytest.fixture(scope="module")
def fast():
    with load() as engine:
        yield engine


def undisputed(item):
    """The greedy tokens before the first near-tie, where either choice is right."""
    tie = item["min_top1_top2_gap"] < 1e-4
    return item["output_ids"][: item["argmin_gap_step"]] if tie else item["output_ids"]


def test_exact_mode_chooses_the_reference_tokens(exact):
    params = SamplingParams(max_tokens=48, temperature=0.0, ignore_eos=True)
    outputs = exact.generate([item["prompt_ids"] for item in GOLDEN], params)
    for item, output in zip(GOLDEN, outputs, strict=True):
        expected = undisputed(item)
        assert output.outputs[0].token_ids[: len(expected)] == expected


def test_exact_mode_gives_the_reference_logprobs(exact):
    for item in GOLDEN:
        steps = item["top5_logprobs_first8"]
        tokens = item["prompt_ids"] + item["output_ids"][: len(steps)]
        params = SamplingParams(max_tokens=0, prompt_logprobs=5)
        (output,) = exact.generate(tokens, params)
        for expected, entry in zip(steps, output.prompt_logprobs[-len(steps) :], strict=True):
            found = dict(entry.top)
            assert all(found[token] == pytest.approx(logprob, abs=2e-3) for token, logprob in expected[:3])


def test_fast_mode_agrees_with_exact_mode(exact, fast):
    agreed = total = 0
    difference = 0.0
    for item in GOLDEN:
        tokens = item["prompt_ids"] + item["output_ids"]
        params = SamplingParams(max_tokens=0, prompt_logprobs=1)
        pair = [engine.generate(tokens, params)[0].prompt_logprobs for engine in (exact, fast)]
        for exactly, quickly in zip(*(logprobs[-len(item["output_ids"]) :] for logprobs in pair), strict=True):
            agreed += exactly.top[0][0] == quickly.top[0][0]
            difference += abs(exactly.logprob - quickly.logprob)
            total += 1
    assert agreed / total >= 0.97
    assert difference / total <= 0.05


def test_prompts_are_tokenized_and_rendered_as_the_reference_does(fast):
    for item in GOLDEN:
        if item["prompt_kind"] == "raw":
            assert fast.encode(item["prompt_text"]) == item["prompt_ids"]
        assert fast.decode(item["prompt_ids"], skip_special_tokens=False) == item["prompt_text"]
        assert fast.decode(item["output_ids"], skip_special_tokens=False) == item["output_text"]
    chat = next(item for item in GOLDEN if "capital of France" in item["prompt_text"])
    assert fast.apply_chat_template(USER) == chat["prompt_text"]
    assert fast.chat(USER, GREEDY)[0].prompt_token_ids == chat["prompt_ids"]


def test_a_chat_answers(exact):
    (output,) = exact.chat(USER, GREEDY)
    assert "Paris" in output.outputs[0].text
    assert output.outputs[0].finish_reason == "stop"
    assert output.prompt == exact.apply_chat_template(USER)


def test_every_way_gives_the_same_answer(fast):
    (whole,) = fast.chat(USER, GREEDY)

    async def collect():
        parts = [delta.text async for delta in fast.astream_chat(USER, GREEDY)]
        return "".join(parts), (await fast.achat(USER, GREEDY))[0].outputs

    text = whole.outputs[0].text
    assert "".join(delta.text for delta in fast.stream_chat(USER, GREEDY)) == text
    assert asyncio.run(collect()) == (text, whole.outputs)
    assert fast.chat([USER, USER], GREEDY)[1].outputs == whole.outputs


def test_company_does_not_change_an_answer(fast):
    params = [SamplingParams(max_tokens=16, temperature=0.8, seed=i) for i in range(len(GOLDEN))]
    prompts = [item["prompt_text"] for item in GOLDEN]
    together = fast.generate(prompts, params)
    alone = [fast.generate(*pair)[0] for pair in zip(prompts, params, strict=True)]
    assert [output.outputs for output in together] == [output.outputs for output in alone]


def test_a_stop_string_ends_the_text_before_it(exact):
    text = exact.chat(USER, GREEDY)[0].outputs[0].text
    (choice,) = exact.chat(USER, GREEDY.replace(stop="Paris"))[0].outputs
    assert choice.text == text[: text.index("Paris")]
    assert (choice.finish_reason, choice.stop_reason) == ("stop", "Paris")


def test_sense_scores_better_than_nonsense(fast):
    def perplexity(text):
        score = fast.score(text)
        return math.exp(-sum(entry.logprob for entry in score) / len(score))

    assert perplexity("The sun rises in the east and sets in the west.") < 20
    assert perplexity("West the in sets and east the in rises sun the.") > 100


def test_embeddings_of_related_texts_are_near(fast):
    cat, kitten, tax = fast.embed(["A cat sleeps.", "A kitten sleeps.", "The tax report is due in April."])
    assert cat @ kitten > cat @ tax


def test_over_long_prompts_name_both_numbers(fast):
    limit = fast.model.max_model_len
    with pytest.raises(ferrule.InvalidRequest, match=rf"{limit + 5}.*{limit}"):
        fast.generate([5] * (limit + 5))


def test_the_model_describes_itself(fast):
    model = fast.model
    assert (model.family, model.vocab_size, model.num_layers, model.hidden_size) == ("llama", 49152, 30, 576)
    assert model.has_tokenizer
    assert model.has_chat_template
    assert model.kv_cache_bytes <= 256_000_000
    assert re.match(r"Engine\(", repr(fast))
