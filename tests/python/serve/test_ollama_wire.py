"""Every wire shape of Ollama's dialect, as files; and what must hold between its answers and others."""

import json
import re
import signal
import threading
from contextlib import ExitStack
from datetime import datetime, timedelta, timezone

import ollama
import pytest
from hub import Halting, Hub, serving
from serving import full, running

GENERATE = "/api/generate"
CHAT = "/api/chat"
MESSAGES = [{"role": "user", "content": "hi"}]
GREEDY = {"temperature": 0, "seed": 1}


def stable(value):
    """What differs from run to run, replaced."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    text = re.sub(r'"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z"', '"TIME"', text)
    text = re.sub(r'"digest": "[0-9a-f]{64}"', '"digest": "DIGEST"', text)
    return re.sub(r'"(\w+_ms|\w+_per_s|\w+_duration)": [\d.]+', r'"\1": 0', text) + "\n"


def body(path, **more):
    says = {"prompt": "hi"} if path == GENERATE else {"messages": MESSAGES}
    options = {**GREEDY, "num_predict": 4, **more.pop("options", {})}
    return {"model": "null", **says, "options": options, **more}


def lines(server, path, request):
    with server.http.stream("POST", path, json=request) as response:
        assert response.status_code == 200, response.read()
        assert response.headers["content-type"] == "application/x-ndjson"
        return [json.loads(line) for line in response.iter_lines()]


def said(line):
    return line["response"] if "response" in line else line["message"]["content"]


def joined(found):
    """Lines without how many tokens each has, which depends on timing."""
    first, last = found[0], found[-1]
    assert all(not line["done"] for line in found[:-1])
    assert all(line.keys() == first.keys() for line in found[:-1])
    text = "".join(said(line) for line in found)
    assert last["done"]
    assert said(last) == ""
    first |= {"response": text} if "response" in first else {"message": {**first["message"], "content": text}}
    if "logprobs" in first:
        first["logprobs"] = [token for line in found[:-1] for token in line["logprobs"]]
    return [first, last]


CASES = {
    "ollama_generate": (GENERATE, {}),
    "ollama_generate_raw": (GENERATE, {"raw": True}),
    "ollama_generate_system": (GENERATE, {"system": "be brief"}),
    "ollama_generate_logprobs": (GENERATE, {"logprobs": True, "top_logprobs": 1, "options": {"num_predict": 2}}),
    "ollama_generate_load": (GENERATE, {"prompt": ""}),
    "ollama_chat": (CHAT, {}),
    "ollama_chat_load": (CHAT, {"messages": []}),
}


@pytest.mark.parametrize("case", CASES)
def test_whole_answers(null, snapshot, case):
    path, more = CASES[case]
    response = null.post(path, body(path, stream=False, **more))
    assert response.status_code == 200, response.text
    snapshot(f"{case}.json", stable(response.json()))


@pytest.mark.parametrize("case", ["ollama_generate", "ollama_generate_logprobs", "ollama_chat"])
def test_streams(null, snapshot, case):
    path, more = CASES[case]
    snapshot(f"{case}_stream.json", stable(joined(lines(null, path, body(path, **more)))))


@pytest.mark.parametrize("path", [GENERATE, CHAT])
def test_a_stream_says_what_the_whole_answer_says(null, path):
    request = body(path, logprobs=True, options={"temperature": 1, "seed": 7, "num_predict": 60, "top_k": 0})
    whole = null.post(path, {**request, "stream": False}).json()
    first, last = joined(lines(null, path, request))
    assert said(first) == said(whole)
    assert first["logprobs"] == whole["logprobs"]
    for field in ("done_reason", "prompt_eval_count", "eval_count", "context"):
        assert last.get(field) == whole.get(field)


def test_dialects_agree(null):
    """The same parameters under OpenAI's and Ollama's names."""
    openai = {"temperature": 0.9, "top_k": 50, "top_p": 0.8, "min_p": 0.01, "seed": 3, "frequency_penalty": 0.5}
    other = {"presence_penalty": 0.25, "stop": ["z"]}
    whole = {"prompt": "go on", "max_tokens": 40, "repetition_penalty": 1.2, **openai, **other}
    expected = null.post("/v1/completions", whole).json()
    options = {"num_predict": 40, "repeat_penalty": 1.2, **openai, **other}
    request = {"model": "null", "prompt": "go on", "raw": True, "stream": False, "options": options}
    found = null.post(GENERATE, request).json()
    assert found["response"] == expected["choices"][0]["text"]
    assert found["done_reason"] == expected["choices"][0]["finish_reason"]
    assert found["eval_count"] == expected["usage"]["completion_tokens"]
    # Options as they are unless a request says.
    defaults = {"temperature": 0.8, "top_k": 40, "top_p": 0.9, "seed": 5}
    request["options"] = {"seed": 5, "num_predict": 20}
    expected = null.post("/v1/completions", {"prompt": "go on", "max_tokens": 20, **defaults}).json()
    assert null.post(GENERATE, request).json()["response"] == expected["choices"][0]["text"]


def test_penalties_end_with_their_window(null):
    def response(**options):
        request = body(GENERATE, stream=False, options={"num_predict": 400, **options})
        return null.post(GENERATE, request).json()["response"]

    plain = response()
    assert response(presence_penalty=2, repeat_penalty=1.5) != plain
    assert response(presence_penalty=2, repeat_penalty=1.5, repeat_last_n=0) == plain


def test_a_prompt_is_a_turn_and_raw_is_what_it_says(null):
    """One turn, asked for in three ways."""
    raw = "<|im_start|>system\nbe brief<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n"
    messages = [{"role": "system", "content": "be brief"}, *MESSAGES]
    answers = [
        null.post(GENERATE, body(GENERATE, stream=False, system="be brief")).json(),
        null.post(GENERATE, body(GENERATE, stream=False, prompt=raw, raw=True)).json(),
        null.post(CHAT, body(CHAT, stream=False, messages=messages)).json(),
    ]
    assert len({said(answer) for answer in answers}) == 1
    assert len({answer["prompt_eval_count"] for answer in answers}) == 1


def test_a_context_is_the_conversation_so_far(null):
    first = null.post(GENERATE, body(GENERATE, stream=False)).json()
    assert len(first["context"]) == first["prompt_eval_count"] + first["eval_count"]
    second = null.post(GENERATE, body(GENERATE, stream=False, context=first["context"])).json()
    assert second["prompt_eval_count"] == len(first["context"]) + first["prompt_eval_count"]
    turn = null.post("/tokenize", {"messages": MESSAGES}).json()["tokens"]
    assert second["context"][: second["prompt_eval_count"]] == first["context"] + turn
    request = {"prompt": first["context"] + turn, "max_tokens": 4, "temperature": 0}
    assert said(second) == null.post("/v1/completions", request).json()["choices"][0]["text"]


def test_numbers_of_tokens(null):
    def answer(num_predict):
        return null.post(GENERATE, body(GENERATE, stream=False, options={"num_predict": num_predict})).json()

    assert answer(3)["eval_count"] == 3
    assert answer(3)["done_reason"] == "length"
    assert answer(0)["eval_count"] == 0
    assert answer(-1)["eval_count"] > 4
    assert answer(-1)["done_reason"] in ("stop", "length")


def test_what_there_is(null, snapshot):
    snapshot("ollama_tags.json", stable(null.http.get("/api/tags").json()))
    snapshot("ollama_show.json", stable(null.post("/api/show", {"model": "null"}).json()))
    assert null.post("/api/show", {"name": "null:latest"}).json() == null.post("/api/show", {"model": "null"}).json()
    assert re.fullmatch(r"\d+\.\d+\.\d+", null.http.get("/api/version").json()["version"])
    for path in ("/", "/api/version", "/api/tags"):
        assert null.http.head(path).status_code == 200


def expiry(server):
    """Time until the null model's end, as /api/ps tells it; None: it is not there."""
    models = server.http.get("/api/ps").json()["models"]
    at = [datetime.fromisoformat(re.sub(r"\d{3}Z", "+00:00", model["expires_at"])) for model in models]
    return at[0] - datetime.now(timezone.utc) if at else None


def test_models_stay_as_long_as_requests_say(snapshot):
    with running("null") as server:
        assert expiry(server) > timedelta(days=100 * 365)
        snapshot("ollama_ps.json", stable(server.http.get("/api/ps").json()))
        for keep_alive, seconds in [("5m", 300), (60, 60), ("1h30m", 5400), (-1, 1e9), ("90s", 90), ("-1m", 1e9)]:
            server.post(GENERATE, {"model": "null", "keep_alive": keep_alive})
            server.wait_idle()
            left = expiry(server).total_seconds()
            assert left > 1e9 if seconds == 1e9 else seconds - 20 < left <= seconds
        unloaded = server.post(CHAT, {"model": "null", "keep_alive": 0})
        snapshot("ollama_chat_unload.json", stable(unloaded.json()))
        server.wait_until(lambda: expiry(server) is None)
        loaded = server.post(GENERATE, body(GENERATE, stream=False, keep_alive=0)).json()
        assert loaded["load_duration"] > 1e5
        assert loaded["total_duration"] >= loaded["load_duration"] + loaded["prompt_eval_duration"]
        server.wait_until(lambda: expiry(server) is None)


def test_options_of_the_runner_load_nothing_again(null):
    """Ollama loads a model anew for another context length, and clients that differ in it undo each other's loads."""
    loaded = null.resident()["load_ms"]
    for num_ctx in (2048, 4096, 2048):
        answer = null.post(GENERATE, body(GENERATE, stream=False, options={"num_ctx": num_ctx, "num_thread": 1})).json()
        assert answer["load_duration"] < answer["total_duration"]
    assert null.resident()["load_ms"] == loaded


BAD = [
    (GENERATE, b"", 400, "not valid JSON"),
    (GENERATE, [], 400, "expected a map"),
    (GENERATE, {}, 400, "model is required"),
    (CHAT, {"model": ""}, 400, "model is required"),
    (GENERATE, {"model": "nope", "prompt": "hi"}, 404, "'nope' is not served"),
    (GENERATE, {"model": "../../etc/passwd"}, 404, "not served"),
    (CHAT, {"model": "nope:latest", "messages": []}, 404, "nope"),
    (GENERATE, body(GENERATE, prompt=3), 400, "prompt"),
    (GENERATE, body(GENERATE, options={"temperature": "hot"}), 400, "options.temperature"),
    (GENERATE, body(GENERATE, options={"temperature": -1}), 400, "temperature is -1"),
    (GENERATE, body(GENERATE, options={"top_p": 2}), 400, "top_p is 2"),
    (GENERATE, body(GENERATE, options={"num_predict": 1.5}), 400, "options.num_predict"),
    (GENERATE, body(GENERATE, options={"stop": "one"}), 400, "options.stop"),
    (GENERATE, body(GENERATE, options={"stop": [""]}), 400, "stop has an empty string"),
    (GENERATE, {"model": "null", "prompt": "hi", "options": [5]}, 400, "options"),
    (GENERATE, body(GENERATE, keep_alive="soon"), 400, "keep_alive"),
    (GENERATE, body(GENERATE, raw=True, system="x"), 400, "raw mode does not support"),
    (GENERATE, body(GENERATE, context=[5000]), 400, "5000"),
    (GENERATE, body(GENERATE, context=[-1]), 400, "context"),
    (GENERATE, body(GENERATE, images=["aGk="]), 400, "images is not supported"),
    (GENERATE, body(GENERATE, suffix="end"), 400, "suffix is not supported"),
    (GENERATE, body(GENERATE, template="{{ .Prompt }}"), 400, "template is not supported"),
    (GENERATE, body(GENERATE, format="json"), 400, "format is not supported"),
    (GENERATE, body(GENERATE, think=True), 400, "think is not supported"),
    (GENERATE, body(GENERATE, logprobs=True, top_logprobs=21), 400, "top_logprobs is 21"),
    (GENERATE, body(GENERATE, prompt="x" * 5000), 400, "4096"),
    (CHAT, body(CHAT, format={"type": "object"}), 400, "format is not supported"),
    (CHAT, body(CHAT, tools=[{"type": "function"}]), 400, "tools is not supported"),
    (CHAT, body(CHAT, messages="hi"), 400, "messages"),
    (CHAT, body(CHAT, messages=[{"role": "tool", "content": "x"}]), 400, "messages[0].role is 'tool'"),
    (CHAT, body(CHAT, messages=[*MESSAGES, {"role": "user", "images": ["aGk="]}]), 400, "messages[1].images"),
    (CHAT, body(CHAT, messages=[{"role": "assistant", "tool_calls": [{}]}]), 400, "messages[0].tool_calls"),
    ("/api/show", {}, 400, "model is required"),
    ("/api/show", {"model": "nope"}, 404, "nope"),
    ("/api/pull", {"model": "smollm2"}, 400, "certain models"),
    ("/api/copy", {"source": "null", "destination": "x"}, 400, "this server was started for certain models"),
    ("/api/embed", {"model": "null", "input": "x" * 5000, "truncate": False}, 400, "5000 tokens"),
    ("/api/embed", {"model": "null", "input": "x", "dimensions": 3}, 400, "dimensions is 3"),
    ("/api/push", {"model": "null"}, 400, "/api/push is not supported"),
    ("/api/nope", {}, 404, "there is no POST /api/nope"),
    ("/api/tags", {}, 405, "does not take POST"),
]


@pytest.mark.parametrize(("path", "request_body", "status", "message"), BAD)
def test_errors_have_ollamas_shape(null, path, request_body, status, message):
    content = request_body if isinstance(request_body, bytes) else json.dumps(request_body).encode()
    response = null.http.post(path, content=content)
    assert response.status_code == status, response.text
    assert response.json().keys() == {"error"}
    assert message in response.json()["error"]
    assert response.headers["x-request-id"]


def test_what_asks_for_nothing_is_ignored(null):
    harmless = {"format": "", "think": False, "images": [], "tools": [], "template": None, "truncate": True, "x": 1}
    request = body(GENERATE, stream=False, **harmless, options={"num_ctx": 8192, "num_gpu": 1, "num_thread": 2, "y": 1})
    assert null.post(GENERATE, request).status_code == 200


def test_a_full_queue_is_503():
    long = body(GENERATE, stream=False, options={"num_predict": 60})
    with full(GENERATE, long) as server:
        refused = server.post(GENERATE, long)
        assert refused.status_code == 503
        assert "queue" in refused.json()["error"]
        assert int(refused.headers["retry-after"]) >= 1


def test_a_stream_that_cannot_go_on_says_why(snapshot):
    with running("null:20", "--drain-timeout", "1") as server:
        found = []
        request = body(GENERATE, options={"num_predict": -1})
        thread = threading.Thread(target=lambda: found.extend(lines(server, GENERATE, request)))
        thread.start()
        server.wait_until(lambda: server.resident()["num_used_blocks"] > 0)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        thread.join()
    assert found[-1].keys() == {"error"}
    assert "shutting down" in found[-1]["error"]
    snapshot("ollama_stream_error.json", stable(found[-1]))
    assert all(line["done"] is False for line in found[:-1])


@pytest.fixture
def hub():
    with serving(Hub) as url:
        yield url


def test_models_are_pulled_shown_and_deleted(hub, tmp_path, snapshot):
    env = {"FERRULE_HOME": str(tmp_path), "HF_ENDPOINT": hub, "FERRULE_PYTHON": "no-such-python", "HF_TOKEN": ""}
    with running(env=env) as server:
        assert server.http.get("/api/tags").json() == {"models": []}
        said = lines(server, "/api/pull", {"model": "hf:org/tiny"})
        assert said[0] == {"status": "pulling manifest"}
        assert said[-1] == {"status": "success"}
        for name in Hub.files:
            size = (Hub.folder / name).stat().st_size
            last = [line for line in said if line.get("digest") == name][-1]
            assert last == {"status": f"pulling {name}", "digest": name, "total": size, "completed": size}
        kinds = [line for line in said if line.get("completed") in (None, line.get("total"))]
        snapshot("ollama_pull_stream.json", stable(kinds))
        assert server.post("/api/pull", {"name": "hf:org/tiny", "stream": False}).json() == {"status": "success"}
        snapshot("ollama_tags_pulled.json", stable(server.http.get("/api/tags").json()))
        snapshot("ollama_show_pulled.json", stable(server.post("/api/show", {"model": "hf:org/tiny"}).json()))
        without = server.post(GENERATE, {"model": "hf:org/tiny", "prompt": "hi"})
        assert (without.status_code, "tokenizer" in without.json()["error"]) == (400, True)
        tokens = {"model": "hf:org/tiny", "prompt": [1, 2, 3], "max_tokens": 2, "ignore_eos": True}
        assert server.post("/v1/completions", tokens).json()["usage"]["completion_tokens"] == 2

        with ollama.Client(host=server.url) as client:
            assert client.copy("hf:org/tiny", "mine:latest").status == "success"
        assert [model["name"] for model in server.http.get("/api/tags").json()["models"]] == ["hf:org/tiny", "mine"]
        answer = server.post("/v1/completions", {**tokens, "model": "mine"})
        assert answer.json()["usage"]["completion_tokens"] == 2
        refused = server.post("/api/copy", {"source": "mine", "destination": "../x"})
        assert (refused.status_code, "a copy's name" in refused.json()["error"]) == (400, True)
        assert server.post("/api/copy", {"source": "nope", "destination": "x"}).status_code == 404
        assert server.http.request("DELETE", "/api/delete", json={"model": "mine"}).status_code == 200

        assert server.http.request("DELETE", "/api/delete", json={"model": "hf:org/tiny"}).status_code == 200
        assert server.http.get("/api/tags").json() == {"models": []}
        server.wait_until(lambda: server.http.get("/api/ps").json() == {"models": []})
        gone = server.http.request("DELETE", "/api/delete", json={"model": "hf:org/tiny"})
        assert (gone.status_code, gone.json().keys()) == (404, {"error"})


def test_pulls_at_once_are_limited(tmp_path):
    """One that does not come, and others that wait for it: who tokenizes has its threads all the same."""
    with serving(Halting) as hub:
        env = {"FERRULE_HOME": str(tmp_path), "HF_ENDPOINT": hub, "FERRULE_PYTHON": "no-such-python", "HF_TOKEN": ""}
        with running(env=env) as server, ExitStack() as streams:

            def pull():
                return streams.enter_context(server.http.stream("POST", "/api/pull", json={"model": "hf:org/tiny"}))

            pulls = [pull() for _ in range(9)]
            assert [response.status_code for response in pulls] == [200] * 8 + [503]
            assert int(pulls[8].headers["retry-after"]) >= 1
            pulls[1].close()
            server.wait_until(lambda: pull().status_code == 200)


def test_pulls_that_fail_say_why(hub, tmp_path):
    env = {"FERRULE_HOME": str(tmp_path), "HF_ENDPOINT": hub, "FERRULE_PYTHON": "no-such-python", "HF_TOKEN": ""}
    with running(env=env) as server:
        said = lines(server, "/api/pull", {"model": "hf:org/none"})
        assert said[0] == {"status": "pulling manifest"}
        assert said[-1].keys() == {"error"}
        assert "org/none" in said[-1]["error"]
        whole = server.post("/api/pull", {"model": "hf:org/none", "stream": False})
        assert whole.status_code == 400
        assert whole.json() == said[-1]
        for name in ("../x", "/etc/passwd", "hf:../..", "", "no-such-model"):
            refused = server.post("/api/pull", {"model": name})
            assert (refused.status_code, refused.json().keys()) == (400, {"error"})
        assert list((tmp_path / "models").glob("*/manifest.json")) == []
