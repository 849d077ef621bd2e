"""Every wire shape of OpenAI's dialect, as files; and what must hold between whole and streamed answers."""

import json
import re

import pytest

MESSAGES = [{"role": "user", "content": "hi"}]
GREEDY = {"model": "null", "temperature": 0, "seed": 1}
CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"


def stable(value):
    """What differs from run to run, replaced."""
    text = json.dumps(value, indent=1, ensure_ascii=False)
    text = re.sub(r'"(chatcmpl|cmpl|resp|msg)[-_][0-9a-f]{32}"', r'"\1-ID"', text)
    text = re.sub(r'"(created|created_at)": \d+', r'"\1": 0', text)
    text = re.sub(r'"fp_[0-9a-f]{10}"', '"fp_X"', text)
    return re.sub(r'"(\w+_ms|\w+_per_s)": [\d.]+', r'"\1": 0.0', text) + "\n"


def shapes(frames):
    """Frames without how many tokens each has, which depends on timing: neighbours of a choice are joined."""
    joined = []
    for frame in frames:
        choice = (frame.get("choices") or [{}])[0]
        last = (joined[-1].get("choices") or [{}])[0] if joined else {}
        field = "text" if "text" in choice else "delta"
        piece = choice.get(field)
        if (
            choice.get("index") == last.get("index")
            and choice.get("finish_reason") is None
            and isinstance(piece, dict) == isinstance(last.get(field), dict)
            and piece
            and last.get(field)
            and (isinstance(piece, str) or piece.keys() == last[field].keys())
        ):
            if isinstance(piece, str):
                last["text"] += piece
            else:
                last["delta"]["content"] += piece["content"]
            if choice.get("logprobs"):
                for key, values in choice["logprobs"].items():
                    if values:
                        last["logprobs"][key] += values
        else:
            joined.append(frame)
    return joined


CASES = {
    "chat": (CHAT, {"messages": MESSAGES, "max_tokens": 4}),
    "chat_logprobs": (CHAT, {"messages": MESSAGES, "max_tokens": 2, "logprobs": True, "top_logprobs": 2}),
    "chat_prompt_logprobs": (CHAT, {"messages": MESSAGES, "max_tokens": 1, "prompt_logprobs": 1}),
    "chat_stop": (CHAT, {"messages": MESSAGES, "max_tokens": 64, "stop": ["a"]}),
    "text": (TEXT, {"prompt": "hi", "max_tokens": 4}),
    "text_echo_logprobs": (TEXT, {"prompt": "hi", "max_tokens": 2, "echo": True, "logprobs": 1}),
    "text_two_prompts": (TEXT, {"prompt": ["a", "b"], "max_tokens": 2}),
    "text_prompt_only": (TEXT, {"prompt": "hi", "max_tokens": 0, "echo": True, "logprobs": 0}),
}
STREAMS = {
    "chat_stream": (CHAT, {"messages": MESSAGES, "max_tokens": 4}),
    "chat_stream_usage": (CHAT, {"messages": MESSAGES, "max_tokens": 4, "stream_options": {"include_usage": True}}),
    "chat_stream_logprobs": (CHAT, {"messages": MESSAGES, "max_tokens": 2, "logprobs": True, "top_logprobs": 1}),
    "text_stream": (TEXT, {"prompt": "hi", "max_tokens": 4, "stream_options": {"include_usage": True}}),
    "text_stream_echo_logprobs": (TEXT, {"prompt": "hi", "max_tokens": 2, "echo": True, "logprobs": 1}),
}


@pytest.mark.parametrize("case", CASES)
def test_whole_answers(null, snapshot, case):
    path, body = CASES[case]
    response = null.post(path, {**GREEDY, "cache_salt": case, **body})
    assert response.status_code == 200, response.text
    snapshot(f"{case}.json", stable(response.json()))


@pytest.mark.parametrize("case", STREAMS)
def test_streams(null, snapshot, case):
    path, body = STREAMS[case]
    frames = null.frames(path, {**GREEDY, "cache_salt": case, "stream": True, **body})
    snapshot(f"{case}.json", stable(shapes(frames)))


def test_models(null, snapshot):
    snapshot("models.json", stable(null.http.get("/v1/models").json()))
    assert null.http.get("/v1/models/null").json() == null.http.get("/v1/models").json()["data"][0]


@pytest.mark.parametrize("n", [1, 3])
def test_a_stream_says_what_the_whole_answer_says(null, n):
    body = {**GREEDY, "messages": MESSAGES, "temperature": 1, "n": n, "max_tokens": 40, "logprobs": True}
    whole = null.post(CHAT, body).json()
    frames = null.frames(CHAT, {**body, "stream": True, "stream_options": {"include_usage": True}})
    assert frames[-1]["usage"]["completion_tokens"] == whole["usage"]["completion_tokens"]
    assert all(frame["usage"] is None for frame in frames[:-1])
    assert len({(frame["id"], frame["created"], frame["model"]) for frame in frames}) == 1
    for choice in whole["choices"]:
        own = [f["choices"][0] for f in frames[:-1] if f["choices"][0]["index"] == choice["index"]]
        assert own[0]["delta"] == {"role": "assistant", "content": ""}
        assert "".join(piece["delta"].get("content", "") for piece in own) == choice["message"]["content"]
        logprobs = [entry for piece in own if piece["logprobs"] for entry in piece["logprobs"]["content"]]
        assert logprobs == choice["logprobs"]["content"]
        assert [piece["finish_reason"] for piece in own if piece["finish_reason"]] == [choice["finish_reason"]]
    assert sum("timing" in frame for frame in frames) == 1


@pytest.mark.parametrize("seed", [20, 72, 83])
def test_an_answer_that_ends_by_itself_has_all_its_tokens(null, seed):
    body = {**GREEDY, "prompt": "hi", "temperature": 1, "seed": seed, "max_tokens": 40, "logprobs": 0}
    ended, went_on = (null.post(TEXT, {**body, "ignore_eos": on}).json() for on in (False, True))
    tokens, all_tokens = (answer["choices"][0]["logprobs"]["tokens"] for answer in (ended, went_on))
    assert ended["choices"][0]["finish_reason"] == "stop"
    assert tokens[-1] == "<|im_end|>"
    assert tokens == all_tokens[: len(tokens)]
    assert ended["usage"]["completion_tokens"] == len(tokens) < 40
    assert went_on["usage"]["completion_tokens"] == len(all_tokens) == 40


def test_text_offsets_point_into_the_text(null):
    body = {**GREEDY, "prompt": "one two", "max_tokens": 8, "echo": True, "logprobs": 2, "logit_bias": {}}
    choice = null.post(TEXT, body).json()["choices"][0]
    logprobs = choice["logprobs"]
    lengths = {len(values) for values in logprobs.values()}
    assert lengths == {len("one two") + 8}
    assert logprobs["token_logprobs"][0] is None
    for token, offset in zip(logprobs["tokens"][: len("one two")], logprobs["text_offset"], strict=False):
        assert choice["text"][offset : offset + len(token)] == token


def test_equal_prompts_are_cached_and_the_salt_keeps_them_apart(null):
    def cached(salt):
        body = {**GREEDY, "prompt": "a prompt of more than sixteen tokens " * 2, "max_tokens": 1, "cache_salt": salt}
        return null.post(TEXT, body).json()["usage"]["prompt_tokens_details"]["cached_tokens"]

    assert cached("first") == 0
    assert cached("first") >= 64
    assert cached("second") == 0


def test_a_message_is_continued_as_vllm_spells_it(null):
    begun = [*MESSAGES, {"role": "assistant", "content": "The answer is"}]
    goes_on = {"messages": begun, "add_generation_prompt": False, "continue_final_message": True}
    prompt = null.post("/apply-template", goes_on).json()["prompt"]
    assert prompt == null.post("/apply-template", {"messages": MESSAGES}).json()["prompt"] + "The answer is"
    tokens = null.post("/tokenize", goes_on).json()["tokens"]
    assert tokens == null.post("/tokenize", {"content": prompt}).json()["tokens"]
    answer = null.post(CHAT, {**GREEDY, **goes_on, "max_tokens": 40}).json()["choices"][0]["message"]["content"]
    assert answer == null.post(TEXT, {**GREEDY, "prompt": tokens, "max_tokens": 40}).json()["choices"][0]["text"]


def test_parameters_do_what_they_say(null):
    def text(**params):
        return null.post(TEXT, {**GREEDY, "prompt": "go", "max_tokens": 12, **params}).json()["choices"][0]

    plain = text()
    assert text() == plain
    assert text(temperature=1, top_k=1)["text"] == plain["text"]
    assert text(temperature=1, min_p=1)["text"] == plain["text"]
    assert text(temperature=1, seed=5)["text"] == text(temperature=1, seed=5)["text"]
    assert text(temperature=1, seed=5)["text"] != text(temperature=1, seed=6)["text"]
    only_a = text(logit_bias={str(8 + ord("a")): 100})
    assert only_a["text"] == "a" * 12
    assert text(logit_bias={str(8 + ord("a")): 100}, stop_token_ids=[8 + ord("a")])["finish_reason"] == "stop"
    ends = {"0": 100}
    assert text(logit_bias=ends) | {"text": ""} == {**plain, "text": "", "finish_reason": "stop"}
    assert text(logit_bias=ends, ignore_eos=True)["finish_reason"] == "length"
    assert text(logit_bias=ends, min_tokens=3)["text"] != ""
    stop = plain["text"][3]
    assert text(stop=stop)["text"] == plain["text"].split(stop)[0]
    assert text(stop=[stop], include_stop_str_in_output=True)["text"] == plain["text"].split(stop)[0] + stop
