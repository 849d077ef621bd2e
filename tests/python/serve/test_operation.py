"""Health, logs, metrics, and what becomes of requests whose client, server or queue does not wait."""

import json
import re
import signal
import threading
import time

import httpx
import pytest
from serving import SCRIPT, running

TEXT = "/v1/completions"
LONG = {"model": "null", "prompt": "hi", "max_tokens": 4000, "ignore_eos": True}


@pytest.fixture(scope="module")
def slow():
    """20 ms per step: requests stay in flight for as long as a test needs."""
    with running("null:20", "--max-num-seqs", "4", "--max-queue-len", "2") as server:
        yield server


class Streaming:
    """A streamed request on a thread of its own."""

    def __init__(self, server, body=LONG):
        self.lines = []
        self.error = None
        self._thread = threading.Thread(target=self._run, args=(server, body))
        self._thread.start()

    def _run(self, server, body):
        try:
            with httpx.stream("POST", server.url + TEXT, json={**body, "stream": True}, timeout=60) as response:
                self.status = response.status_code
                for line in response.iter_lines():
                    self.lines += [line] if line else []
        except httpx.HTTPError as error:
            self.error = error

    def join(self):
        self._thread.join(60)
        assert not self._thread.is_alive()
        return self


def test_health(null):
    assert null.http.get("/health/live").json() == {"status": "ok"}
    assert null.http.get("/health/ready").json() == {"status": "ok"}
    assert null.http.get("/health").json() == {"status": "ok", "models": {"null": "ok"}}


def test_a_working_engine_is_healthy_because_it_steps(slow):
    request = Streaming(slow, {**LONG, "max_tokens": 20})
    slow.wait_until(lambda: slow.resident()["num_running"] == 1)
    assert slow.http.get("/health").status_code == 200
    request.join()


def test_an_engine_that_takes_no_step_is_not_healthy():
    """The bound is twenty seconds; the model takes a minute."""
    with running("null:60000") as server:
        with httpx.stream("POST", server.url + TEXT, json={**LONG, "stream": True}, timeout=60):
            server.wait_until(lambda: server.resident()["num_running"] == 1)
            found = server.http.get("/health")
        assert (found.status_code, found.json()) == (503, {"status": "stuck", "models": {"null": "stuck"}})
        assert server.http.get("/health/live").status_code == 200


@pytest.mark.parametrize("given", ["mine-123", "x" * 128])
def test_request_ids_go_in_and_out(null, given):
    response = null.post(TEXT, {"prompt": "hi", "max_tokens": 1}, headers={"x-request-id": given})
    assert response.headers["x-request-id"] == given
    assert response.json()["id"] == f"cmpl-{given}"


@pytest.mark.parametrize("given", [None, "", "x" * 129, "with space", "ü".encode()])
def test_request_ids_that_are_no_use_are_replaced(null, given):
    headers = {} if given is None else {"x-request-id": given}
    ids = {null.http.get("/health/live", headers=headers).headers["x-request-id"] for _ in range(2)}
    assert len(ids) == 2
    assert all(re.fullmatch(r"req-[0-9a-f]{32}", found) for found in ids)


def test_the_access_log_says_what_a_request_cost():
    with running("null") as server:
        body = {"prompt": "hello", "max_tokens": 3, "ignore_eos": True}
        server.post(TEXT, body, headers={"x-request-id": "first"})
        server.frames(TEXT, {**body, "stream": True})
        server.post(TEXT, {"model": "nope", "prompt": "x"})
        assert server.stop() == 0
        first, second, third = server.log()
    assert first["request_id"] == "first"
    for line in (first, second):
        found = {key: line[key] for key in ("status", "model", "prompt_tokens", "generated_tokens", "end")}
        assert found == {"status": 200, "model": "null", "prompt_tokens": 5, "generated_tokens": 3, "end": "length"}
        assert 0 < line["ttft_ms"] <= line["ms"]
    assert (third["status"], third["model"]) == (404, None)


def samples(server):
    """Prometheus' samples by name and labels."""
    found = {}
    for line in server.metrics().splitlines():
        if not line.startswith("#"):
            name, value = re.fullmatch(r"(.+?) (\S+)", line).groups()
            found[name] = float(value)
    return found


def test_metrics_count_what_happened():
    with running("null") as server:
        server.post(TEXT, {"prompt": "hello", "max_tokens": 10, "ignore_eos": True, "n": 2})
        server.post(TEXT, {"prompt": "hello", "temperature": -1})
        server.http.get("/nope")
        found = samples(server)
    model = 'engine="0",model_name="null"'
    assert found[f"vllm:prompt_tokens_total{{{model}}}"] == 5
    assert found[f"vllm:generation_tokens_total{{{model}}}"] == 20
    assert found['vllm:request_success_total{engine="0",finished_reason="length",model_name="null"}'] == 2
    assert found[f"vllm:time_to_first_token_seconds_count{{{model}}}"] == 1
    assert found[f"vllm:inter_token_latency_seconds_count{{{model}}}"] == 18
    assert found[f"vllm:e2e_request_latency_seconds_count{{{model}}}"] == 1
    assert found[f"vllm:num_requests_running{{{model}}}"] == 0
    assert found[f"vllm:kv_cache_usage_perc{{{model}}}"] == 0
    assert found['http_requests_total{handler="/v1/completions",method="POST",status="200"}'] == 1
    assert found['http_requests_total{handler="/v1/completions",method="POST",status="400"}'] == 1
    assert found['http_requests_total{handler="none",method="GET",status="404"}'] == 1


def test_metrics_count_every_dialect():
    turns = [{"role": "user", "content": "hi"}]
    blocks = {"messages": [{"role": "user", "content": [{"text": "hi"}]}], "inferenceConfig": {"maxTokens": 2}}
    asked = {
        "/v1/chat/completions": {"messages": turns, "max_tokens": 2},
        "/v1/responses": {"input": "hi", "max_output_tokens": 2},
        "/v1/messages": {"messages": turns, "max_tokens": 2},
        "/api/chat": {"model": "null", "messages": turns, "options": {"num_predict": 2}},
        "/model/null/converse": blocks,
        "/model/null/invoke": {"prompt": "hi", "max_gen_len": 2},
    }
    with running("null") as server:
        for path, body in asked.items():
            assert server.post(path, body).status_code == 200
        found = samples(server)
    ended = [value for name, value in found.items() if name.startswith("vllm:request_success_total")]
    assert sum(ended) == len(asked)
    for path in asked:
        route = path.replace("/null/", "/{id}/")
        assert found[f'http_requests_total{{handler="{route}",method="POST",status="200"}}'] == 1


def test_every_metric_has_its_type_once_and_buckets_that_ascend(null):
    null.post(TEXT, {"prompt": "hello", "max_tokens": 2})
    text = null.metrics()
    types = re.findall(r"^# TYPE (\S+) (\S+)$", text, re.M)
    assert len(types) == len(dict(types)) > 20
    for name, kind in types:
        if kind == "histogram":
            counts = [int(n) for n in re.findall(rf'^{re.escape(name)}_bucket{{.*le="[^"]+"}} (\d+)$', text, re.M)]
            assert counts == sorted(counts)
            assert counts[-1] == int(re.search(rf"^{re.escape(name)}_count(?:{{.*}})? (\d+)$", text, re.M)[1])


def test_a_client_that_leaves_frees_its_blocks(slow):
    with httpx.stream("POST", slow.url + TEXT, json={**LONG, "stream": True}) as response:
        next(response.iter_lines())
        slow.wait_until(lambda: slow.resident()["num_used_blocks"] > 0)
        steps = samples(slow)['vllm:generation_tokens_total{engine="0",model_name="null"}']
    slow.wait_idle()
    left = samples(slow)['vllm:generation_tokens_total{engine="0",model_name="null"}']
    # One step may be under way, and the connection's end must be seen; a second of steps would be 50.
    assert left - steps < 25


def test_a_client_that_leaves_before_a_whole_answer_frees_its_blocks(slow):
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(slow.url + TEXT, json=LONG, timeout=0.3)
    slow.wait_idle()


def test_a_client_that_reads_nothing_holds_no_blocks(null):
    body = json.dumps({**LONG, "stream": True, "logprobs": 5, "n": 8}).encode()
    head = b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    with null.connect() as connection:
        connection.sendall(head + body)
        null.wait_until(lambda: null.resident()["num_users"] > 0)
        null.wait_idle()


def test_tokens_of_a_stream_are_sent_together_but_the_first_and_the_last_at_once():
    """200 tokens take a second. The clock ticks once in ten, so once at most meanwhile."""
    body = {**LONG, "max_tokens": 200, "temperature": 0, "logprobs": 1}
    with running("null:5", "--stream-interval", "10000") as server:
        whole = server.post(TEXT, body).json()["choices"][0]
        began = time.monotonic()
        with server.http.stream("POST", TEXT, json={**body, "stream": True}) as response:
            lines = (line.removeprefix("data: ") for line in response.iter_lines() if line)
            pieces = [json.loads(next(lines))["choices"][0]]
            assert server.resident()["num_running"] == 1
            pieces += [json.loads(line)["choices"][0] for line in lines if line != "[DONE]"]
        assert time.monotonic() - began < 8
    assert 2 <= len(pieces) <= 4
    assert "".join(piece["text"] for piece in pieces) == whole["text"]
    tokens = [token for piece in pieces for token in (piece["logprobs"] or {}).get("tokens", [])]
    assert tokens == whole["logprobs"]["tokens"]
    assert len(tokens) == 200


def test_a_full_queue_answers_at_once(slow):
    # One by one: the queue holds two, and four at once could find it full.
    running_requests = []
    for count in range(1, 5):
        running_requests.append(Streaming(slow))
        slow.wait_until(lambda count=count: slow.resident()["num_running"] == count)
    waiting = [Streaming(slow, {**LONG, "max_tokens": 1}) for _ in range(2)]
    slow.wait_until(lambda: slow.resident()["num_waiting"] == 2)
    began = time.monotonic()
    response = slow.post(TEXT, LONG)
    assert time.monotonic() - began < 5
    assert response.status_code == 429
    assert response.json()["error"]["code"] == "queue_full"
    assert int(response.headers["retry-after"]) >= 1
    assert slow.http.get("/health/live").status_code == 200
    slow.post("/models/unload", {"model": "null"})
    del running_requests, waiting


def test_sigterm_lets_answers_finish_and_takes_no_new_ones():
    with running("null:20") as server:
        request = Streaming(server, {**LONG, "max_tokens": 60})
        server.wait_until(lambda: server.resident()["num_running"] == 1)
        server.process.send_signal(signal.SIGTERM)
        server.wait_until(lambda: server.http.get("/health/ready").status_code == 503)
        assert server.http.get("/health/live").status_code == 200
        refused = server.post(TEXT, LONG)
        assert refused.status_code == 503
        assert "shutting down" in refused.json()["error"]["message"]
        assert int(refused.headers["retry-after"]) >= 1
        assert server.process.wait(30) == 0
        assert request.join().lines[-1] == "data: [DONE]"


@pytest.mark.parametrize("how", ["timeout", "second signal"])
def test_answers_that_do_not_finish_are_told_why(snapshot, how):
    with running("null:20", "--drain-timeout", "1" if how == "timeout" else "100") as server:
        request = Streaming(server)
        server.wait_until(lambda: server.resident()["num_running"] == 1)
        server.process.send_signal(signal.SIGINT)
        if how == "second signal":
            server.wait_until(lambda: server.http.get("/health/ready").status_code == 503)
            server.process.send_signal(signal.SIGINT)
        assert server.process.wait(30) == 0
        last = json.loads(request.join().lines[-1].removeprefix("data: "))
    assert "shutting down" in last["error"]["message"]
    snapshot("stream_error.json", json.dumps(last, indent=1) + "\n")


def test_the_packages_command_is_the_same_server():
    with running("null", command=SCRIPT) as server:
        assert server.post(TEXT, {"prompt": "hi", "max_tokens": 1}).status_code == 200
        assert server.stop(signal.SIGINT) == 0


def test_what_others_could_reach_needs_keys_or_a_word():
    with pytest.raises(RuntimeError, match="--api-key-file"):
        running("null", "--host", "0.0.0.0").__enter__()
    with running("null", "--host", "0.0.0.0", "--no-auth") as server:
        assert any("off: whoever reaches" in line for line in server.announced)
