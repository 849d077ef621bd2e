"""Models with weights that share too little memory: who leaves, who waits, and that no answer notices."""

import json
import subprocess
import threading

import pytest
from serving import BINARY, ROOT, running

TEXT = "/v1/completions"
GOLDEN = ROOT / "tests" / "golden" / "models"
# Each takes its weights (140 to 280 KB) and a megabyte of KV cache.
MODELS = ("llama3", "qwen2", "gemma2")
ROOM_FOR_TWO = ("--memory-budget", "2.6MB", "--kv-cache-memory", "1MB", "--no-packed-weights")


def serving(*models, flags):
    return running(*(f"{model}={GOLDEN / model}" for model in models), *flags)


def tokens_of(choice):
    """Each token with its log-probability: the small models' tokens have no text."""
    return list(zip(choice["logprobs"]["tokens"], choice["logprobs"]["token_logprobs"], strict=True))


def ask(server, model, prompt, **more):
    body = {"model": model, "prompt": prompt, "max_tokens": 40, "temperature": 0, "ignore_eos": True, **more}
    response = server.post(TEXT, {**body, "logprobs": 0})
    assert response.status_code == 200, response.text
    return tokens_of(response.json()["choices"][0])


def residents(server):
    return [model["name"] for model in server.http.get("/models/resident").json()["models"]]


def at_once(*calls):
    """What the calls return, each on a thread of its own."""
    results = [None] * len(calls)

    def run(at):
        results[at] = calls[at]()

    threads = [threading.Thread(target=run, args=[at]) for at in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


@pytest.fixture(scope="module")
def alone():
    """What each model says when it is the only one."""
    answers = {}
    for model in MODELS:
        with serving(model, flags=("--no-packed-weights",)) as server:
            answers[model] = ask(server, model, [1, 2, 3])
    return answers


def test_the_least_recently_used_makes_room(alone):
    with serving(*MODELS, flags=ROOM_FOR_TWO) as server:
        assert residents(server) == sorted(MODELS[1:])
        for model, left in [("llama3", "gemma2"), ("qwen2", "llama3"), ("llama3", "qwen2"), ("gemma2", "llama3")]:
            assert ask(server, model, [1, 2, 3]) == alone[model]
            assert residents(server) == sorted([model, left])


def test_answers_under_way_are_never_cut(alone):
    """Every request may need a model that is not there while two others answer."""
    with serving(*MODELS, flags=ROOM_FOR_TWO) as server:

        def asks(model):
            return [ask(server, model, [1, 2, 3]) for _ in range(12)]

        calls = [lambda model=model: asks(model) for model in (*MODELS, *MODELS)]
        done = threading.Event()
        seen = []

        def watch():
            while not done.is_set():
                seen.append(server.http.get("/models/resident").json())

        watcher = threading.Thread(target=watch)
        watcher.start()
        answers = at_once(*calls)
        done.set()
        watcher.join()
    for model, said in zip((*MODELS, *MODELS), answers, strict=True):
        assert said == [alone[model]] * 12
    bytes_held = [sum(m["weight_bytes"] + m["kv_cache_bytes"] for m in report["models"]) for report in seen]
    assert max(bytes_held) <= seen[0]["memory_budget_bytes"]
    assert {model["name"] for report in seen for model in report["models"]} == set(MODELS)


def test_a_model_that_is_always_asked_for_gives_way():
    """One of two real models is never idle, and there is room for one: the other has its turn, and nobody an error."""
    shown = subprocess.run([BINARY, "show", "smollm2", "--json"], capture_output=True, text=True, check=True)
    file = json.loads(shown.stdout)["path"]
    with running(f"busy={file}", f"other={file}", "--memory-budget", "200MB", "--kv-cache-memory", "64MB") as server:
        expected = ask(server, "busy", "Once upon a time", max_tokens=20)
        done = threading.Event()

        def insist(max_tokens):
            said = []
            while not done.is_set():
                said.append(ask(server, "busy", "Once upon a time", max_tokens=max_tokens)[:20])
            return said

        def intrude():
            try:
                return [ask(server, "other", "Once upon a time", max_tokens=20)]
            finally:
                done.set()

        answers = at_once(*(lambda length=length: insist(length) for length in (40, 60, 90)), intrude)
    assert all(said == expected for of_one in answers for said in of_one)


def test_a_model_that_never_fits_is_refused_with_the_numbers():
    with pytest.raises(RuntimeError, match=r"'llama3' takes .* more than the server's memory budget of 1\.10 MB"):
        serving("llama3", flags=("--memory-budget", "1.1MB", "--kv-cache-memory", "1MB")).__enter__()


def test_a_full_kv_cache_takes_turns_and_changes_no_answer():
    """Answers that need three times the blocks that there are; the eight of one request surely run together."""
    prompts = [[at, 2, 3, 4] for at in range(8)]
    sampled = {"n": 8, "max_tokens": 200, "seed": 5, "ignore_eos": True, "logprobs": 0}

    def eight(server):
        body = {"model": "llama3", "prompt": [1, 2, 3], **sampled}
        return [tokens_of(choice) for choice in server.post(TEXT, body).json()["choices"]]

    with serving("llama3", flags=("--no-packed-weights",)) as server:
        expected = [ask(server, "llama3", prompt, max_tokens=200) for prompt in prompts]
        expected_choices = eight(server)
    assert len({tuple(choice) for choice in expected_choices}) == 8
    flags = ("--no-packed-weights", "--kv-cache-memory", "128KB")
    with serving("llama3", flags=flags) as server:
        assert eight(server) == expected_choices
        assert 'vllm:num_preemptions_total{engine="0",model_name="llama3"} 0' not in server.metrics()
        calls = [lambda prompt=prompt: ask(server, "llama3", prompt, max_tokens=200) for prompt in prompts]
        assert at_once(*calls) == expected
        # Blocks that are cached and that nobody holds are there for whoever comes.
        for at in range(40):
            assert len(ask(server, "llama3", [at] * 100, max_tokens=20)) == 20
        server.wait_idle("llama3")
