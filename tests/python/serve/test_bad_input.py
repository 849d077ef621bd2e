"""What no request should be: the dialect's own error, the right status, and a server as healthy as before."""

import json
import re
import socket
import threading
import time
from contextlib import suppress
from pathlib import Path

import pytest
from serving import running

CHAT = "/v1/chat/completions"
TEXT = "/v1/completions"
USER = [{"role": "user", "content": "hi"}]

BAD = [
    (CHAT, b"", "not valid JSON"),
    (CHAT, b"{", "not valid JSON"),
    (CHAT, b"[]", "map"),
    (CHAT, b'{"messages": []} trailing', "not valid JSON"),
    (CHAT, b"\xff\xfe", "not valid JSON"),
    (CHAT, b'{"messages": [{"role": "user", "content": "\xff"}]}', "not valid JSON"),
    (CHAT, b'{"x": ' + b"[" * 100_000, "not valid JSON"),
    (CHAT, {}, "messages"),
    (CHAT, {"messages": []}, "messages is empty"),
    (CHAT, {"messages": "hi"}, "messages"),
    (CHAT, {"messages": [{"role": "user", "content": 3}]}, "messages[0].content"),
    (CHAT, {"messages": [{"role": "wizard", "content": "hi"}]}, "wizard"),
    (CHAT, {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "image_url"),
    (CHAT, {"messages": USER, "tools": [{"type": "function"}]}, "tools"),
    (CHAT, {"messages": USER, "response_format": {"type": "json_object"}}, "response_format"),
    (CHAT, {"messages": USER, "reasoning_effort": "high"}, "reasoning_effort"),
    (CHAT, {"messages": USER, "truncate_prompt_tokens": 8}, "truncate_prompt_tokens"),
    (CHAT, {"messages": USER, "return_token_ids": True}, "return_token_ids"),
    (CHAT, {"messages": USER, "add_special_tokens": True}, "add_special_tokens"),
    (CHAT, {"messages": USER, "top_logprobs": 2}, "top_logprobs"),
    (CHAT, {"messages": USER, "logprobs": True, "top_logprobs": 65}, "65"),
    (CHAT, {"messages": USER, "stream_options": {"include_usage": True}}, "stream_options"),
    (CHAT, {"messages": USER, "stream": "yes"}, "stream"),
    (CHAT, {"messages": USER, "max_tokens": -1}, "max_tokens"),
    (CHAT, {"messages": USER, "max_tokens": 1.5}, "max_tokens"),
    (CHAT, {"messages": USER, "n": 0}, "n is 0"),
    (CHAT, {"messages": USER, "n": 1000}, "n is 1000"),
    (CHAT, {"messages": USER, "temperature": -0.1}, "temperature is -0.1"),
    (CHAT, {"messages": USER, "temperature": "hot"}, "temperature"),
    (CHAT, b'{"messages": [{"role": "user", "content": "hi"}], "temperature": NaN}', "not valid JSON"),
    (CHAT, b'{"messages": [{"role": "user", "content": "hi"}], "temperature": 1e39}', "temperature is inf"),
    (CHAT, b'{"messages": [{"role": "user", "content": "hi"}], "temperature": 1e999}', "not valid JSON"),
    (CHAT, {"messages": USER, "top_p": 0}, "top_p is 0"),
    (CHAT, {"messages": USER, "top_p": 1.1}, "top_p is 1.1"),
    (CHAT, {"messages": USER, "top_k": -2}, "top_k is -2"),
    (CHAT, {"messages": USER, "min_p": 2}, "min_p is 2"),
    (CHAT, {"messages": USER, "presence_penalty": 3}, "presence_penalty is 3"),
    (CHAT, {"messages": USER, "repetition_penalty": 0}, "repetition_penalty is 0"),
    (CHAT, {"messages": USER, "logit_bias": {"x": 1}}, "logit_bias"),
    (CHAT, {"messages": USER, "logit_bias": {"99999": 1}}, "99999"),
    (CHAT, {"messages": USER, "logit_bias": {"1": 101}}, "logit_bias is 101"),
    (CHAT, {"messages": USER, "continue_final_message": True}, "add_generation_prompt to be false"),
    (CHAT, {"messages": USER, "add_generation_prompt": False}, "only with continue_final_message"),
    (CHAT, {"messages": USER, "stop": 5}, "stop"),
    (CHAT, {"messages": USER, "stop": ""}, "stop has an empty string"),
    (CHAT, {"messages": USER, "stop": ["a"] * 257}, "stop has 257 strings: at most 256"),
    (CHAT, {"messages": USER, "stop": ["a" * 9000, "b" * 9000]}, "stop has 18000 bytes in all: at most 16384"),
    (CHAT, {"messages": USER, "stop_token_ids": [1] * 1025}, "stop_token_ids has 1025 entries"),
    (CHAT, {"messages": USER, "logit_bias": {"0" * at + "1": 1 for at in range(1025)}}, "logit_bias has 1025 entries"),
    (CHAT, {"messages": USER, "min_tokens": 9, "max_tokens": 1}, "min_tokens is 9"),
    (TEXT, {"prompt": 1}, "prompt"),
    (TEXT, {"prompt": []}, "prompt"),
    (TEXT, {"prompt": ""}, "prompt is empty"),
    (TEXT, {"prompt": [5000]}, "5000"),
    (TEXT, {"prompt": [-1]}, "prompt"),
    (TEXT, {"prompt": ["a"] * 300}, "300"),
    (TEXT, {"prompt": "a", "suffix": "b"}, "suffix"),
    (TEXT, {"prompt": "a", "best_of": 3}, "best_of"),
    (TEXT, {"prompt": "a", "add_special_tokens": False}, "add_special_tokens"),
    (TEXT, {"prompt": "a", "stream": True, "prompt_logprobs": 1}, "prompt_logprobs"),
    ("/tokenize", {}, "needs one of"),
    ("/detokenize", {"tokens": [5000]}, "5000"),
    ("/apply-template", {"messages": []}, "messages is empty"),
]


@pytest.mark.parametrize(("path", "body", "message"), BAD)
def test_the_field_or_limit_is_named(null, path, body, message):
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = null.http.post(path, content=content)
    assert response.status_code == 400, response.text
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert message in error["message"]
    assert response.headers["x-request-id"]


def test_a_prompt_that_leaves_no_room_has_its_own_code(null):
    response = null.post(TEXT, {"prompt": "x" * 5000})
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["code"] == "context_length_exceeded"
    assert "5000" in error["message"]
    assert "4096" in error["message"]


def test_many_prompts_that_are_far_too_long_take_the_memory_of_one():
    """A megabyte without a break is the worst there is for a tokenizer. Short prompts do not wait for them."""
    body = {"prompt": "a" * 1_000_000}
    with running("smollm2", "--kv-cache-memory", "64MB") as server:

        def peak():
            status = Path(f"/proc/{server.process.pid}/status").read_text()
            return int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) * 1024

        before = peak()
        assert server.post(TEXT, body).json()["error"]["code"] == "context_length_exceeded"
        alone = peak()
        threads = [threading.Thread(target=server.post, args=(TEXT, body)) for _ in range(8)]
        for thread in threads:
            thread.start()
        assert server.post(TEXT, {"prompt": "hi", "max_tokens": 1}).status_code == 200
        assert any(thread.is_alive() for thread in threads)
        for thread in threads:
            thread.join()
        # Another thread may keep memory that the first gave back; eight at once would take seven times as much.
        assert peak() - alone < 2 * (alone - before)


@pytest.mark.parametrize(
    "name", ["nope", "", "../../etc/passwd", "/etc/passwd", "null/../null", "hf:../..", "a" * 5000, "\u0000", "smollm2"]
)
def test_models_that_are_not_served_are_404_and_paths_are_never_opened(null, name):
    response = null.post(TEXT, {"model": name, "prompt": "hi"})
    assert response.status_code == 404
    assert response.json()["error"]["code"] == "model_not_found"


def test_unknown_paths_and_methods(null):
    for method, path, status in [("GET", "/v1/nope", 404), ("GET", CHAT, 405), ("DELETE", "/v1/models", 405)]:
        response = null.http.request(method, path)
        assert response.status_code == status
        assert response.json()["error"]["type"] == "invalid_request_error"
    assert null.http.get("/v1/models/../../../etc/passwd").status_code == 404
    assert null.http.get("/v1/models/%2e%2e%2f%2e%2e%2fetc%2fpasswd").status_code == 404


def test_errors_of_no_handler_have_the_shape_of_their_paths_dialect(null):
    for path, shape in [("/v1/nope", dict), ("/nope", dict), ("/api", dict), ("/api/nope", str)]:
        response = null.http.get(path)
        assert response.status_code == 404
        assert isinstance(response.json()["error"], shape)
    wrong_method = null.http.delete("/api/version")
    assert wrong_method.status_code == 405
    assert wrong_method.headers["allow"] == "GET,HEAD"
    assert wrong_method.json() == {"error": "/api/version does not take DELETE"}


def test_unknown_fields_are_ignored(null):
    body = {"prompt": "hi", "max_tokens": 1, "user": "me", "metadata": {"a": 1}, "no_such_field": [1]}
    assert null.post(TEXT, body).status_code == 200
    harmless = {"tools": [], "tool_choice": "auto", "response_format": {"type": "text"}, "logit_bias": None, "n": None}
    assert null.post(CHAT, {"messages": USER, "max_tokens": 1, **harmless}).status_code == 200


def raw(server, *pieces, pause=0.0):
    """Sends bytes over a bare connection; returns what came back until the server closed it."""
    with server.connect() as connection:
        try:
            for piece in pieces:
                connection.sendall(piece)
                time.sleep(pause)
            received = b""
            while data := connection.recv(65536):
                received += data
        except (TimeoutError, ConnectionError):
            received = b""
        return received


def test_http_that_is_none_is_refused(null):
    assert b" 400 " in raw(null, b"\x16\x03\x01\x02\x00hello\r\n\r\n").split(b"\r\n")[0]
    assert b" 431 " in raw(null, b"GET /health HTTP/1.1\r\nx: " + b"a" * 200_000 + b"\r\n\r\n").split(b"\r\n")[0]
    many = b"".join(b"x-%d: 1\r\n" % i for i in range(300))
    assert b" 431 " in raw(null, b"GET /health HTTP/1.1\r\n" + many + b"\r\n").split(b"\r\n")[0]
    assert null.http.get("/health").status_code == 200


def test_bodies_have_a_limit_whether_declared_or_not():
    with running("null", "--max-body-size", "10KB") as server:
        for content in (b" " * 20_000, iter([b" " * 6_000] * 4)):
            response = server.http.post(CHAT, content=content)
            assert response.status_code == 413
            assert "10000 bytes" in response.json()["error"]["message"]
        assert server.post(TEXT, {"prompt": "hi", "max_tokens": 1}).status_code == 200


def test_refused_bodies_are_read_to_their_end():
    """Else the connection would be reset, and its client would never know why."""
    with running("null", "--max-body-size", "10KB") as server:
        for path, status in ((TEXT, b"413"), ("/v1/nope", b"404")):
            head = b"POST %s HTTP/1.1\r\nhost: x\r\ncontent-length: 40000\r\n\r\n" % path.encode()
            after = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
            answers = raw(server, head + b" " * 100, b" " * 39_900, after, pause=0.2)
            assert re.findall(rb"HTTP/1.1 (\d+)", answers) == [status, b"200"]
        waiting = raw(server, b"POST /nope HTTP/1.1\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n")
        assert b" 404 " in waiting.split(b"\r\n")[0]
        assert b"connection: close" in waiting


def test_a_socket_that_is_closed_for_writing_is_a_client_that_left(null):
    """As other HTTP servers take it: who hangs up is not told from who only stops sending."""
    body = json.dumps({"prompt": "hi", "max_tokens": 4000, "ignore_eos": True, "stream": True}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n"
    for piece, length in [(body, len(body)), (b"{", 100)]:
        with null.connect() as connection:
            connection.sendall(head % length + piece)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            while data := connection.recv(65536):
                received += data
        assert b"[DONE]" not in received
        if length > len(piece):
            assert b" 400 " in received.split(b"\r\n")[0]
        null.wait_idle()
    assert null.http.get("/health").status_code == 200


def test_slow_requests_are_given_up():
    with running("null", "--read-timeout", "1") as server:
        began = time.monotonic()
        raw(server, b"GET /health HT")
        body = raw(server, b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\n\r\n{")
        assert b" 408 " in body.split(b"\r\n")[0]
        assert time.monotonic() - began < 15
        assert server.http.get("/health").status_code == 200


def test_a_client_that_takes_nothing_is_disconnected():
    """It asks for more than the system's buffers hold and reads none of it, on the only connection that there is."""
    asked = 400
    with running("null", "--write-timeout", "1", "--max-connections", "1") as server, server.connect() as deaf:
        deaf.sendall(b"GET /openapi.json HTTP/1.1\r\nhost: x\r\n\r\n" * asked)
        # Waits in the system's backlog until the connection is free.
        assert server.http.get("/health/live").status_code == 200
        answers = 0
        with suppress(ConnectionResetError):
            while data := deaf.recv(1 << 20):
                answers += data.count(b"HTTP/1.1 200")
        assert 0 < answers < asked
