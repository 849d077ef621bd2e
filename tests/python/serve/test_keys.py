"""API keys: who is let in, and how much they may."""

import json
import signal
import subprocess

import pytest
from serving import BINARY, add_key, running

TEXT = "/v1/completions"
BODY = {"prompt": "hello", "max_tokens": 5, "ignore_eos": True}


def bearer(key):
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
def keys(tmp_path):
    return tmp_path / "keys.json"


def test_only_known_keys_are_let_in(keys):
    alice = add_key(keys, "alice")
    assert alice not in keys.read_text()
    with running("null", "--api-key-file", keys) as server:
        for headers in ({}, bearer("sk-wrong"), {"authorization": alice}, {"authorization": "Basic x"}):
            for method, path in [("POST", TEXT), ("GET", "/v1/models"), ("GET", "/metrics"), ("GET", "/nope")]:
                response = server.http.request(method, path, headers=headers)
                assert response.status_code == 401
                assert response.json()["error"]["code"] == "invalid_api_key"
        for path in ("/health/live", "/health/ready", "/health"):
            assert server.http.get(path).status_code == 200
        for headers in (bearer(alice), {"x-api-key": alice}, {"api-key": alice}):
            assert server.post(TEXT, BODY, headers=headers).status_code == 200
        server.stop()
        assert server.log()[-1]["key"] == "alice"
        assert all(alice not in line for line in server.stderr().splitlines())


def test_refusals_have_the_shape_of_the_paths_dialect(keys):
    add_key(keys, "alice")
    with running("null", "--api-key-file", keys) as server:
        anthropic = server.post("/v1/messages", {}, headers={"x-api-key": "sk-wrong"})
        assert (anthropic.status_code, anthropic.json()["error"]["type"]) == (401, "authentication_error")
        bedrock = server.post("/model/null/converse", {}, headers=bearer("sk-wrong"))
        assert (bedrock.status_code, bedrock.headers["x-amzn-errortype"]) == (403, "AccessDeniedException")
        assert server.post("/api/chat", {}).json().keys() == {"error"}


def test_only_keys_that_sign_are_kept_themselves(keys):
    alice, bob = add_key(keys, "alice", "--sigv4"), add_key(keys, "bob")
    assert alice in keys.read_text()
    assert bob not in keys.read_text()
    assert keys.stat().st_mode & 0o077 == 0
    refused = subprocess.run([BINARY, "key", keys, "a/b", "--sigv4"], capture_output=True, text=True)
    assert refused.returncode == 2
    assert "'a/b' is no name" in refused.stderr
    assert "a/b" not in keys.read_text()


def test_the_file_is_read_again_and_a_broken_one_changes_nothing(keys):
    first = add_key(keys, "first")
    with running("null", "--api-key-file", keys) as server:

        def status(key):
            return server.post(TEXT, BODY, headers=bearer(key)).status_code

        second = add_key(keys, "second")
        server.wait_until(lambda: status(second) == 200)
        keys.write_text("{broken")
        server.wait_until(lambda: "stay as they were" in server.stderr())
        assert status(first) == status(second) == 200
        keys.write_text(json.dumps({"keys": []}))
        server.wait_until(lambda: status(first) == 401)
    with pytest.raises(RuntimeError, match=r"keys\.json"):
        running("null", "--api-key-file", keys.with_name("missing-keys.json")).__enter__()


def test_requests_per_minute(keys):
    key = add_key(keys, "a", "--requests-per-minute", "2")
    other = add_key(keys, "b")
    with running("null", "--api-key-file", keys) as server:
        responses = [server.post(TEXT, BODY, headers=bearer(key)) for _ in range(3)]
        assert [response.status_code for response in responses] == [200, 200, 429]
        assert [response.headers["x-ratelimit-remaining-requests"] for response in responses] == ["1", "0", "0"]
        assert 1 <= int(responses[2].headers["retry-after"]) <= 30
        assert responses[2].json()["error"]["code"] == "rate_limit_exceeded"
        assert server.post(TEXT, BODY, headers=bearer(other)).status_code == 200
        # What is no request to a model costs none.
        assert server.http.get("/v1/models", headers=bearer(key)).status_code == 200


def test_tokens_are_reserved_and_what_was_not_used_comes_back(keys):
    key = add_key(keys, "a", "--tokens-per-minute", "100")
    with running("null", "--api-key-file", keys) as server:

        def post(max_tokens, **more):
            return server.post(TEXT, {**BODY, "max_tokens": max_tokens, **more}, headers=bearer(key))

        # It reserves 95 and uses 5 + 1: token 0 ends the text.
        assert post(90, ignore_eos=False, logit_bias={"0": 100}).status_code == 200
        assert post(80).status_code == 200
        refused = post(80)
        assert refused.status_code == 429
        assert "100 tokens per minute" in refused.json()["error"]["message"]
        assert post(80, temperature=-1).status_code == 400


def test_a_budget_is_spent_for_good(keys):
    key = add_key(keys, "a", "--token-budget", "12")
    with running("null", "--api-key-file", keys) as server:
        statuses = [server.post(TEXT, BODY, headers=bearer(key)).status_code for _ in range(3)]
        assert statuses == [200, 200, 429]
        refused = server.post(TEXT, BODY, headers=bearer(key))
        assert refused.json()["error"]["code"] == "insufficient_quota"
        assert "retry-after" not in refused.headers


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGKILL])
def test_a_budget_outlives_the_server(keys, end):
    key = add_key(keys, "a", "--token-budget", "25")
    usage = keys.with_name("keys.json.usage")
    for used in (10, 20):
        with running("null", "--api-key-file", keys) as server:
            assert server.post(TEXT, BODY, headers=bearer(key)).status_code == 200
            if end == signal.SIGKILL:
                server.wait_until(lambda used=used: usage.exists() and str(used) in usage.read_text())
            server.stop(end)
        assert json.loads(usage.read_text()) == {"tokens": {"a": used}}
        assert usage.stat().st_mode & 0o077 == 0
    with running("null", "--api-key-file", keys) as server:
        assert [server.post(TEXT, BODY, headers=bearer(key)).status_code for _ in range(2)] == [200, 429]
        # Who replaces the key can raise its budget, and what was used counts on.
        raised = add_key(keys, "a", "--token-budget", "40")
        server.wait_until(lambda: server.post(TEXT, BODY, headers=bearer(raised)).status_code == 200)
        assert server.post(TEXT, BODY, headers=bearer(raised)).status_code == 429


def test_usage_that_cannot_be_read_or_written_is_named(keys):
    key = add_key(keys, "a")
    usage = keys.with_name("keys.json.usage")
    usage.write_text("{broken")
    with pytest.raises(RuntimeError, match=r"keys\.json\.usage"):
        running("null", "--api-key-file", keys).__enter__()
    usage.unlink()
    keys.with_name("keys.json.usage.new").mkdir()
    with running("null", "--api-key-file", keys) as server:
        assert server.post(TEXT, BODY, headers=bearer(key)).status_code == 200
        assert server.stop() == 0
        assert "token budgets will be forgotten" in server.stderr()


def test_keys_do_not_share_cached_prefixes(keys):
    pair = [add_key(keys, name) for name in ("a", "b")]
    prompt = {"prompt": "a prompt of more than sixteen tokens", "max_tokens": 1}
    with running("null", "--api-key-file", keys) as server:

        def cached(key):
            usage = server.post(TEXT, prompt, headers=bearer(key)).json()["usage"]
            return usage["prompt_tokens_details"]["cached_tokens"]

        assert [cached(key) for key in (*pair, *pair)] == [0, 0, 32, 32]
