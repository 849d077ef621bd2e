"""The wire shapes of what belongs to no dialect, of embeddings and of counts, as files."""

import json
import re

import pytest
from serving import running

MESSAGES = [{"role": "user", "content": "hi"}]
CONVERSE = {"converse": {"messages": [{"role": "user", "content": [{"text": "hi"}]}]}}
ROUTES = {
    "tokenize": ("POST", "/tokenize", {"prompt": "hi", "return_token_strs": True}),
    "tokenize_chat": ("POST", "/tokenize", {"messages": MESSAGES}),
    "tokenize_content": ("POST", "/tokenize", {"content": "hi"}),
    "tokenize_pieces": ("POST", "/tokenize", {"content": "hi", "with_pieces": True}),
    "detokenize": ("POST", "/detokenize", {"tokens": [112, 113]}),
    "apply_template": ("POST", "/apply-template", {"messages": MESSAGES}),
    "health": ("GET", "/health", None),
    "health_ready": ("GET", "/health/ready", None),
    "health_live": ("GET", "/health/live", None),
    "version": ("GET", "/version", None),
    "resident": ("GET", "/models/resident", None),
    "model": ("GET", "/v1/models/null", None),
    "embeddings": ("POST", "/v1/embeddings", {"model": "null", "input": ["hi", "there"]}),
    "embeddings_base64": ("POST", "/v1/embeddings", {"model": "null", "input": "hi", "encoding_format": "base64"}),
    "ollama_embed": ("POST", "/api/embed", {"model": "null", "input": ["hi", "there"]}),
    "ollama_embeddings": ("POST", "/api/embeddings", {"model": "null", "prompt": "hi"}),
    "ollama_version": ("GET", "/api/version", None),
    "bedrock_count_tokens": ("POST", "/model/null/count-tokens", {"input": CONVERSE}),
}


def stable(value):
    """What differs from run to run or from version to version replaced, and vectors cut to two numbers."""
    text = json.dumps(shortened(value), indent=1)
    text = re.sub(r'"created": \d+', '"created": 0', text)
    text = re.sub(r'"version": "[\d.]+"', '"version": "X"', text)
    text = re.sub(r'"(num_(?!blocks)\w+|\w+_ms)": [\d.]+', r'"\1": 0', text)
    return re.sub(r'"(\w+_duration)": \d+', r'"\1": 0', text) + "\n"


def shortened(value):
    if isinstance(value, dict):
        return {key: shortened(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [shortened(inner) for inner in (value[:2] if value and isinstance(value[0], float) else value)]
    return value


@pytest.mark.parametrize("name", ROUTES)
def test_routes(null, snapshot, name):
    method, path, body = ROUTES[name]
    response = null.http.request(method, path, json=body)
    assert response.status_code == 200, response.text
    snapshot(f"{name}.json", stable(response.json()))


def test_what_changes_the_server(snapshot):
    with running("null") as server:
        unloading = server.post("/models/unload", {"model": "null"})
        again = server.post("/models/unload", {"model": "null"})
    found = {"unloading": unloading.json(), "not there": again.json()}
    assert (unloading.status_code, again.status_code) == (200, 404)
    snapshot("unload.json", stable(found))


def test_metrics(snapshot):
    """Every name, type, label and bucket; figures are replaced."""
    with running("null") as server:
        server.post("/v1/completions", {"prompt": "hello", "max_tokens": 3, "ignore_eos": True})
        server.wait_idle()
        text = server.metrics()
    snapshot("metrics.txt", re.sub(r"^([^#].*) [\d.]+$", r"\1 0", text, flags=re.M))


def test_a_live_report(snapshot):
    with running("null") as server:
        server.post("/v1/completions", {"prompt": "hello", "max_tokens": 3, "ignore_eos": True})
        server.wait_idle()
        with server.http.stream("GET", "/live") as response:
            report = json.loads(next(response.iter_lines()).removeprefix("data: "))
    report["requests"][0]["id"] = "ID"
    snapshot("live.json", stable(report))
