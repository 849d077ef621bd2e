"""What the Python API promises, on the model without weights."""

import gc
import os
import signal
import threading
import time

import numpy as np
import pytest

import ferrule
from ferrule import LLM, Engine, SamplingParams

GREEDY = SamplingParams(max_tokens=8, temperature=0.0)
PROMPTS = [[1, 2, 3], [4, 5], [6], [1, 2, 3, 4, 5, 6, 7]]


def long_request(engine: Engine) -> SamplingParams:
    """As many tokens as the engine holds: it runs until somebody ends it."""
    return SamplingParams(max_tokens=engine.model.max_model_len, ignore_eos=True)


def wait_until_idle(engine: Engine) -> None:
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        stats = engine.stats()
        if stats.num_running == stats.num_waiting == stats.num_used_blocks == 0:
            return
        time.sleep(0.005)
    pytest.fail(f"the engine is still busy: {engine.stats()}")


def tokens(outputs):
    return [output.outputs[0].token_ids for output in outputs]


def test_an_answer_has_its_parts(engine):
    (output,) = engine.generate([1, 2, 3], GREEDY)
    (choice,) = output.outputs
    assert output.prompt is None
    assert output.prompt_token_ids == [1, 2, 3]
    assert output.prompt_logprobs is None
    assert (choice.index, len(choice.token_ids), choice.finish_reason) == (0, 8, "length")
    assert choice.logprobs is None
    assert output.metrics.num_prompt_tokens == 3
    assert output.metrics.num_generated_tokens == 8
    assert 0 <= output.metrics.time_to_first_token <= output.metrics.e2e_time
    assert repr(choice).startswith("CompletionOutput(index=0, text='', token_ids=[")


def test_one_list_of_ids_is_one_prompt_and_a_list_of_lists_is_many(engine):
    together = engine.generate(PROMPTS, GREEDY)
    alone = [engine.generate(prompt, GREEDY)[0] for prompt in PROMPTS]
    assert [output.prompt_token_ids for output in together] == PROMPTS
    assert tokens(together) == tokens(alone)
    assert engine.generate([], GREEDY) == []


def test_numpy_arrays_are_token_ids(engine):
    ids = np.array([1, 2, 3], dtype=np.int64)
    assert tokens(engine.generate(ids, GREEDY)) == tokens(engine.generate([1, 2, 3], GREEDY))


def test_each_prompt_may_have_its_own_params(engine):
    params = [GREEDY.replace(max_tokens=n) for n in (1, 2, 3, 4)]
    assert [len(ids) for ids in tokens(engine.generate(PROMPTS, params))] == [1, 2, 3, 4]
    with pytest.raises(ferrule.InvalidRequest, match="3 sampling_params for 4 prompts"):
        engine.generate(PROMPTS, params[:3])


def test_more_prompts_than_the_queue_holds():
    prompts = [[i % 7, i % 5, i % 3] for i in range(100)]
    with Engine("null", max_queue_len=4, max_num_seqs=2) as small, Engine("null") as large:
        assert tokens(small.generate(prompts, GREEDY)) == tokens(large.generate(prompts, GREEDY))


def test_choices_repeat_with_their_seed(engine):
    params = SamplingParams(n=3, max_tokens=16, seed=5)
    (first,), (second,) = engine.generate([1, 2], params), engine.generate([1, 2], params)
    assert [choice.index for choice in first.outputs] == [0, 1, 2]
    assert first.outputs == second.outputs
    assert len({tuple(choice.token_ids) for choice in first.outputs}) > 1
    assert first.metrics.seed == 5


def test_logprobs_have_the_shape_that_was_asked_for(engine):
    params = GREEDY.replace(logprobs=2, prompt_logprobs=1)
    (output,) = engine.generate([1, 2, 3, 4], params)
    logprobs = output.outputs[0].logprobs
    assert [entry.token_id for entry in logprobs] == output.outputs[0].token_ids
    assert all(entry.rank == 0 and len(entry.top) == 2 for entry in logprobs)
    assert all(entry.top[0] == (entry.token_id, entry.logprob) for entry in logprobs)
    assert [entry.token_id for entry in output.prompt_logprobs] == [2, 3, 4]
    assert all(entry.logprob <= entry.top[0][1] for entry in output.prompt_logprobs)


def test_scores_are_the_logprobs_that_generation_reports(engine):
    (output,) = engine.generate([1, 2, 3], GREEDY.replace(logprobs=0))
    choice = output.outputs[0]
    score = engine.score([1, 2, 3, *choice.token_ids])
    assert [entry.logprob for entry in score[2:]] == [entry.logprob for entry in choice.logprobs]
    assert engine.score([[1, 2], [3, 4, 5]]) == [engine.score([1, 2]), engine.score([3, 4, 5])]


def test_embeddings_are_unit_rows(engine):
    rows = engine.embed([[1, 2], [3], [1, 2]])
    assert rows.dtype == np.float32
    assert rows.shape[0] == 3
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1, rtol=1e-5)
    np.testing.assert_array_equal(rows[0], rows[2])


def test_a_stream_tells_what_generate_tells(engine):
    whole = engine.generate([1, 2, 3], GREEDY)[0]
    stream = engine.stream([1, 2, 3], GREEDY)
    assert stream.prompt_token_ids == [1, 2, 3]
    deltas = list(stream)
    assert [token for delta in deltas for token in delta.token_ids] == whole.outputs[0].token_ids
    assert [delta.finish_reason for delta in deltas[:-1]] == [None] * (len(deltas) - 1)
    assert deltas[-1].finish_reason == "length"
    assert stream.metrics.num_generated_tokens == 8
    assert list(stream) == []


def test_a_dropped_stream_is_cancelled(engine):
    stream = engine.stream([1], long_request(engine))
    next(stream)
    del stream
    gc.collect()
    wait_until_idle(engine)
    assert engine.stats().num_cancelled == 1


def test_a_closed_stream_is_cancelled(engine):
    stream = engine.stream([1], long_request(engine))
    next(stream)
    stream.close()
    assert list(stream) == []
    wait_until_idle(engine)


def test_many_threads_get_their_own_answers(engine):
    expected = tokens(engine.generate(PROMPTS, GREEDY))
    results = [None] * 16

    def work(i):
        results[i] = tokens(engine.generate(PROMPTS, GREEDY))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(results))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [expected] * len(results)


def test_waiting_releases_the_gil(engine):
    thread = threading.Thread(target=engine.generate, args=([1], SamplingParams(max_tokens=100_000, ignore_eos=True)))
    thread.start()
    counted = 0
    while thread.is_alive():
        counted += engine.stats().num_generated_tokens < 100_000
    # This thread went on while the other one waited.
    assert counted > 100


def test_ctrl_c_ends_a_wait_and_its_requests(engine):
    timer = threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        engine.generate([[1]] * 8, long_request(engine))
    assert time.monotonic() - began < 2
    wait_until_idle(engine)


def test_a_closed_engine_says_so():
    engine = Engine("null")
    stream = engine.stream([1], long_request(engine))
    engine.close()
    engine.close()
    with pytest.raises(ferrule.Cancelled):
        list(stream)
    with pytest.raises(ferrule.Cancelled, match="closed"):
        engine.generate([1], GREEDY)
    assert repr(engine) == "Engine(closed)"


def test_errors_name_the_limit_and_the_value(engine):
    limit = engine.model.max_model_len
    with pytest.raises(ferrule.InvalidRequest, match=str(limit)):
        engine.generate([1] * (limit + 1), GREEDY)
    with pytest.raises(ferrule.InvalidRequest, match="empty"):
        engine.generate([[]], GREEDY)
    with pytest.raises(ferrule.InvalidRequest, match=str(engine.model.vocab_size)):
        engine.generate([engine.model.vocab_size], GREEDY)
    with pytest.raises(ferrule.InvalidRequest, match="-1 is not a token id"):
        engine.generate([-1], GREEDY)
    with pytest.raises(ferrule.InvalidRequest, match="tokenizer"):
        engine.generate("a text", GREEDY)
    with pytest.raises(ferrule.InvalidRequest, match="chat template"):
        engine.chat([{"role": "user", "content": "hi"}])
    with pytest.raises(ferrule.InvalidRequest, match="tokenizer"):
        engine.encode("a text")


@pytest.mark.parametrize("prompt", [None, 1, 1.5, b"bytes", {"role": "user"}, [1.5], [None], [1, "a"]])
def test_what_is_not_a_prompt_is_a_type_error(engine, prompt):
    with pytest.raises(TypeError):
        engine.generate(prompt, GREEDY)


@pytest.mark.parametrize("messages", [None, "hi", [1], [{"role": "user"}], [{"role": "user", "content": 1}]])
def test_what_is_not_a_conversation_is_a_type_error(engine, messages):
    with pytest.raises(TypeError):
        engine.chat(messages)


def test_a_full_queue_overloads_streams():
    with Engine("null", max_queue_len=1, max_num_seqs=1) as engine:
        streams = []
        with pytest.raises(ferrule.Overloaded, match="limit is 1"):
            streams.extend(engine.stream([1], long_request(engine)) for _ in range(64))


def test_settings_are_checked_and_reported():
    with Engine("null", max_num_seqs=3, kv_cache_memory="64MB", policy="static") as engine:
        assert engine.config["max_num_seqs"] == 3
        assert engine.config["kv_cache_memory"] == 64_000_000
        assert engine.config["policy"] == "static"
        assert engine.model.name == "null"
        assert engine.model.family is None
    with pytest.raises(ferrule.InvalidConfig, match="max_num_seqs is 0"):
        Engine("null", max_num_seqs=0)
    with pytest.raises(ferrule.InvalidRequest, match="max_num_seqs is -1"):
        Engine("null", max_num_seqs=-1)
    with pytest.raises(ferrule.InvalidConfig, match="'gpu'"):
        Engine("null", device="gpu")
    with pytest.raises(ferrule.InvalidRequest, match="'many'"):
        Engine("null", kv_cache_memory="many")
    with pytest.raises(TypeError, match="has no 'max_seqs'"):
        Engine("null", max_seqs=3)


def test_a_missing_model_is_a_missing_file(tmp_path):
    with pytest.raises(ferrule.ModelNotFound) as missing:
        Engine(tmp_path / "missing.gguf")
    assert isinstance(missing.value, FileNotFoundError)
    assert "missing.gguf" in str(missing.value)
    with pytest.raises(ferrule.ModelNotFound, match="smollm2"):
        Engine("smolm2")


def test_a_file_that_is_no_model_is_corrupt(tmp_path):
    path = tmp_path / "noise.gguf"
    path.write_bytes(b"GGUF" + bytes(range(256)))
    with pytest.raises((ferrule.CorruptModel, ferrule.UnsupportedModel), match=r"noise\.gguf"):
        Engine(path)


def test_names():
    assert LLM is Engine
    assert all(hasattr(ferrule, name) for name in ferrule.__all__)
