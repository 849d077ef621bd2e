"""The wire shape of every kind of error in every dialect, as files: status, headers and body."""

import json
import re

import pytest
from serving import add_key, full, running

USER = [{"role": "user", "content": "hi"}]
BLOCKS = [{"role": "user", "content": [{"text": "hi"}]}]
# A dialect's name, a path that generates, and bodies: one to answer, one out of range, one with too long a prompt.
DIALECTS = {
    "openai": ("/v1/chat/completions", {"messages": USER, "max_tokens": 2}, {"temperature": -1}),
    "anthropic": ("/v1/messages", {"messages": USER, "max_tokens": 2}, {"temperature": -1}),
    "ollama": ("/api/chat", {"model": "null", "messages": USER, "stream": False}, {"options": {"temperature": -1}}),
    "bedrock": ("/model/null/converse", {"messages": BLOCKS}, {"inferenceConfig": {"temperature": -1}}),
}


def long(body):
    """The same with a prompt longer than the model's sequences."""
    return json.loads(json.dumps(body).replace('"hi"', json.dumps("x" * 5000)))


def shape(response):
    """What clients tell errors by; what differs from run to run is replaced."""
    kept = ("content-type", "retry-after", "x-amzn-errortype", "x-should-retry")
    headers = {name: response.headers[name] for name in kept if name in response.headers}
    text = json.dumps({"status": response.status_code, "headers": headers, "body": response.json()})
    text = re.sub(r"req-[0-9a-f]{32}", "req-ID", text)
    text = re.sub(r'"retry-after": "\d+"', '"retry-after": "SECONDS"', text)
    return json.loads(re.sub(r"try again in [\d.]+m?s", "try again in TIME", text))


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    """A server with limits that are soon reached, and the keys of who reaches them."""
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    keys = {
        "free": add_key(file, "free"),
        "hasty": add_key(file, "hasty", "--requests-per-minute", "1"),
        "spent": add_key(file, "spent", "--token-budget", "0"),
    }
    with running("null", "--api-key-file", file, "--max-body-size", "20KB") as server:
        taken = {"headers": {"authorization": f"Bearer {keys['hasty']}"}}
        assert server.post("/v1/completions", {"prompt": "hi", "max_tokens": 1}, **taken).status_code == 200
        yield server, keys


@pytest.mark.parametrize("dialect", DIALECTS)
def test_errors(strict, snapshot, dialect):
    server, keys = strict
    path, good, bad = DIALECTS[dialect]

    def error(path=path, key="free", method="POST", **kwargs):
        bearer = {"authorization": f"Bearer {keys.get(key, key)}", "anthropic-version": "2023-06-01"}
        headers = bearer if dialect == "anthropic" else {"authorization": bearer["authorization"]}
        return shape(server.http.request(method, path, headers=headers, **kwargs))

    absent = path.replace("null", "absent") if dialect == "bedrock" else path
    found = {
        "out of range": error(json={**good, **bad}),
        "not JSON": error(content=b"{"),
        "prompt too long": error(json=long(good)),
        "body too large": error(content=b" " * 30_000),
        "unknown key": error(key="sk-wrong", json=good),
        "requests per minute": error(key="hasty", json=good),
        "budget spent": error(key="spent", json=good),
        "no such model": error(absent, json={**good, "model": "absent"}),
        "no such path": error(f"{path}/nope", json=good),
        "no such method": error(method="DELETE"),
    }
    snapshot(f"errors_{dialect}.json", json.dumps(found, indent=1) + "\n")


@pytest.mark.parametrize("dialect", DIALECTS)
def test_a_full_queue(snapshot, dialect):
    path, good, _ = DIALECTS[dialect]
    body = {**good, "max_tokens": 60, "options": {"num_predict": 60}, "inferenceConfig": {"maxTokens": 60}}
    with full(path, body) as server:
        found = shape(server.post(path, body))
    snapshot(f"errors_{dialect}_full.json", json.dumps(found, indent=1) + "\n")
