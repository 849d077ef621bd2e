"""Amazon's own Python client, and Anthropic's for Bedrock, against a real model."""

import json
from contextlib import closing, contextmanager

import anthropic
import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError, EventStreamError
from serving import QUESTION, add_key, running

ASKED = {
    "modelId": "smollm2",
    "messages": [{"role": turn["role"], "content": [{"text": turn["content"]}]} for turn in QUESTION],
    "inferenceConfig": {"maxTokens": 24, "temperature": 0},
}


@contextmanager
def connect(url, key_id="anybody", secret="anything"):
    config = Config(retries={"total_max_attempts": 1})
    keys = {"aws_access_key_id": key_id, "aws_secret_access_key": secret}
    client = boto3.client("bedrock-runtime", region_name="us-east-1", endpoint_url=url, config=config, **keys)
    with closing(client):
        yield client


@pytest.fixture(scope="module")
def client(smollm2):
    with connect(smollm2.url) as client:
        yield client


def text_of(answer):
    return answer["output"]["message"]["content"][0]["text"]


def test_converse(client):
    answer = client.converse(**ASKED)
    assert "Paris" in text_of(answer)
    assert (answer["stopReason"], answer["usage"]["outputTokens"]) == ("max_tokens", 24)
    assert answer["metrics"]["latencyMs"] > 0
    assert answer["ResponseMetadata"]["RequestId"].startswith("req-")
    counted = client.count_tokens(modelId="smollm2", input={"converse": {"messages": ASKED["messages"]}})
    assert counted["inputTokens"] == answer["usage"]["totalTokens"] - 24


def test_a_converse_stream_says_the_same(client):
    events = list(client.converse_stream(**ASKED)["stream"])
    assert list(events[0]) == ["messageStart"]
    deltas = [event["contentBlockDelta"]["delta"]["text"] for event in events if "contentBlockDelta" in event]
    assert "".join(deltas) == text_of(client.converse(**ASKED))
    assert [next(iter(event)) for event in events[-3:]] == ["contentBlockStop", "messageStop", "metadata"]
    assert events[-2]["messageStop"]["stopReason"] == "max_tokens"
    assert events[-1]["metadata"]["usage"]["outputTokens"] == 24


def test_invoke_model(client):
    body = json.dumps({"prompt": "The capital of France is", "max_gen_len": 8, "temperature": 0})
    answer = client.invoke_model(modelId="smollm2", body=body)
    whole = json.loads(answer["body"].read())
    assert "Paris" in whole["generation"]
    assert (whole["stop_reason"], whole["generation_token_count"]) == ("length", 8)
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-amzn-bedrock-output-token-count"] == "8"
    counted = client.count_tokens(modelId="smollm2", input={"invokeModel": {"body": body}})
    assert counted["inputTokens"] == whole["prompt_token_count"]
    stream = client.invoke_model_with_response_stream(modelId="smollm2", body=body)
    assert stream["contentType"] == "application/json"
    pieces = [json.loads(event["chunk"]["bytes"]) for event in stream["body"]]
    assert "".join(piece["generation"] for piece in pieces) == whole["generation"]
    assert pieces[-1]["amazon-bedrock-invocationMetrics"]["outputTokenCount"] == 8


def test_anthropics_client_for_bedrock(smollm2, client):
    keys = {"aws_access_key": "anybody", "aws_secret_key": "anything", "aws_region": "us-east-1"}
    asked = {"model": "smollm2", "max_tokens": 24, "messages": QUESTION, "extra_body": {"temperature": 0}}
    with anthropic.AnthropicBedrock(base_url=smollm2.url, max_retries=0, **keys) as other:
        answer = other.messages.create(**asked)
        assert answer.content[0].text == text_of(client.converse(**ASKED))
        with other.messages.stream(**asked) as stream:
            assert "".join(stream.text_stream) == answer.content[0].text
            assert stream.get_final_message().usage.output_tokens == 24


def test_a_stream_that_is_closed_frees_its_blocks(client, smollm2):
    stream = client.converse_stream(**ASKED | {"inferenceConfig": {"maxTokens": 2000}})["stream"]
    next(iter(stream))
    stream.close()
    smollm2.wait_idle("smollm2")


def test_errors_are_the_clients_own(client):
    tools = {"tools": [{"toolSpec": {"name": "f", "inputSchema": {"json": {"type": "object"}}}}]}
    for error, says, params in [
        (client.exceptions.ResourceNotFoundException, "not served", {"modelId": "meta.llama3-8b-instruct-v1:0"}),
        (client.exceptions.ValidationException, "toolConfig is not supported", {"toolConfig": tools}),
        (client.exceptions.ValidationException, "8192", {"system": [{"text": "word " * 9000}]}),
    ]:
        for call in (client.converse, client.converse_stream):
            with pytest.raises(error, match=says):
                call(**ASKED | params)


def test_a_stream_that_cannot_go_on_raises():
    with running("null:20", "--drain-timeout", "1") as server:
        # Greedy: this answer does not end by itself for 800 tokens.
        messages = [{"role": "user", "content": [{"text": "hello"}]}]
        asked = {"modelId": "null", "messages": messages, "inferenceConfig": {"maxTokens": 4000, "temperature": 0}}
        with connect(server.url) as client, closing(client.converse_stream(**asked)["stream"]) as stream:
            next(iter(stream))
            server.process.terminate()
            with pytest.raises(EventStreamError, match="shutting down") as caught:
                list(stream)
        assert caught.value.response["Error"]["Code"] == "serviceUnavailableException"


def test_requests_are_signed_or_have_a_bearer_key(tmp_path):
    keys = tmp_path / "keys.json"
    secret, plain = add_key(keys, "org.alice", "--sigv4"), add_key(keys, "bob")
    asked = ASKED | {"modelId": "org/a:b"}
    with running("org/a:b=null", "--api-key-file", keys) as server:

        def outcome(key_id, secret):
            with connect(server.url, key_id, secret) as client, pytest.raises(ClientError) as caught:
                client.converse(**asked)
            status = caught.value.response["ResponseMetadata"]["HTTPStatusCode"]
            return status, type(caught.value).__name__, caught.value.response["Error"]["Code"]

        with connect(server.url, "org.alice", secret) as client:
            assert client.converse(**asked)["stopReason"] == "max_tokens"
            assert len(list(client.converse_stream(**asked)["stream"])) >= 5
            with closing(client.invoke_model(modelId="org/a:b", body='{"prompt": "hi"}')["body"]) as body:
                assert json.loads(body.read())["generation_token_count"] > 0
        assert outcome("org.alice", plain) == (403, "ClientError", "InvalidSignatureException")
        unknown = (403, "AccessDeniedException", "AccessDeniedException")
        assert outcome("bob", plain) == outcome("nobody", secret) == unknown
        # The client sends bearer keys over TLS only, so they are sent without it.
        body = {name: value for name, value in ASKED.items() if name != "modelId"}
        for key, expected in [(secret, 200), (plain, 200), ("sk-wrong", 403)]:
            response = server.post("/model/org%2Fa%3Ab/converse", body, headers={"authorization": f"Bearer {key}"})
            assert response.status_code == expected
        server.stop()
        assert {line["key"] for line in server.log() if line["status"] == 200} == {"org.alice", "bob"}
        assert secret not in server.stderr()
