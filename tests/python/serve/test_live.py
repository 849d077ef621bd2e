"""The stream of reports that the page draws."""

import json
import re
import subprocess
import threading
import time
from contextlib import contextmanager

import httpx
import pytest
from serving import BINARY, running

TEXT = "/v1/completions"
LONG = {"model": "null", "prompt": "p" * 40, "max_tokens": 4000, "ignore_eos": True, "stream": True}


@contextmanager
def reports(server, **headers):
    """A function that gives the next report."""
    with httpx.stream("GET", server.url + "/live", headers=headers, timeout=20) as response:
        assert response.headers["content-type"] == "text/event-stream"
        lines = (line.removeprefix("data: ") for line in response.iter_lines() if line)
        yield lambda: json.loads(next(lines))


@contextmanager
def asking(server, body=LONG, **headers):
    """A streamed request that has its first token."""
    with httpx.stream("POST", server.url + TEXT, json=body, headers=headers, timeout=60) as response:
        lines = response.iter_lines()
        next(lines)
        yield lines


def states(report):
    """How many blocks are free, cached, used and shared, in all."""
    counts = dict.fromkeys("fcus", 0)
    for length, letter in re.findall(r"(\d+)([a-z])", report["models"][0]["blocks"]):
        counts[letter] += int(length)
    return counts


@pytest.fixture(scope="module")
def slow():
    with running("null:10", "--max-num-seqs", "2") as server:
        yield server


def test_a_report_has_what_the_page_draws(null):
    with reports(null) as report:
        report = report()
    assert set(report) == {"version", "state", "models", "requests"}
    assert set(report["models"][0]) == {
        *("name", "backend", "max_model_len", "block_size", "num_running", "num_waiting", "num_blocks"),
        *("num_used_blocks", "num_steps", "num_prompt_tokens", "num_generated_tokens", "num_preemptions"),
        *("prefix_cache_queries", "prefix_cache_hits", "blocks"),
    }
    assert report["state"] == "ready"


def test_blocks_are_counted_by_two_roads(slow):
    with asking(slow), reports(slow) as report:
        found = report()
        (model,), counts = found["models"], states(found)
        assert sum(counts.values()) == model["num_blocks"]
        # The stats may be of the step after.
        assert abs(counts["u"] + counts["s"] - model["num_used_blocks"]) <= 1
        held = found["requests"][-1]["blocks"]
        assert sum(end - start for start, end in held) == counts["u"] + counts["s"] >= 3
    slow.wait_idle()
    with reports(slow) as report:
        counts = states(report())
        assert counts["u"] == counts["s"] == 0
        # The prompt has two full blocks.
        assert counts["c"] >= 2


def test_a_request_goes_from_the_queue_to_its_end(slow):
    def named(report, name):
        return next((found for found in report()["requests"] if found["id"] == name), None)

    with reports(slow) as report, asking(slow, **{"x-request-id": "first"}), asking(slow):
        body = {**LONG, "max_tokens": 2, "stream": False}
        post = threading.Thread(target=lambda: slow.post(TEXT, body, headers={"x-request-id": "third"}))
        post.start()
        while (waiting := named(report, "third")) is None:
            pass
        assert waiting["queue_ms"] is waiting["ttft_ms"] is waiting["total_ms"] is waiting["end"] is None
        assert (waiting["prompt_tokens"], waiting["blocks"]) == (40, [])
        first = named(report, "first")
        assert first["queue_ms"] <= first["ttft_ms"] <= first["last_token_ms"] <= first["age_ms"]
        assert first["total_ms"] is None
    post.join()
    with reports(slow) as report:
        third = named(report, "third")
    assert third["end"] == "length"
    assert third["generated_tokens"] == 2
    assert 0 < third["queue_ms"] <= third["ttft_ms"] <= third["last_token_ms"] <= third["total_ms"] <= third["age_ms"]


def test_the_latest_come_last_and_are_bounded(null):
    for i in range(130):
        null.post(TEXT, {"prompt": "a", "max_tokens": 1}, headers={"x-request-id": f"many-{i}"})
    with reports(null) as report:
        requests = report()["requests"]
    assert [found["id"] for found in requests] == [f"many-{i}" for i in range(2, 130)]
    numbers = [found["number"] for found in requests]
    assert numbers == list(range(numbers[0], numbers[0] + 128))


def test_several_prompts_of_one_request_are_one_entry(null):
    body = {"prompt": ["a", "bb"], "max_tokens": 3, "ignore_eos": True}
    null.post(TEXT, body, headers={"x-request-id": "pair"})
    with reports(null) as report:
        *_, last = report()["requests"]
    assert (last["id"], last["prompt_tokens"], last["generated_tokens"]) == ("pair", 3, 6)


def test_requests_of_other_keys_have_no_names(tmp_path):
    keys = tmp_path / "keys.json"
    alice, bob = (
        subprocess.run([BINARY, "key", keys, name], capture_output=True, text=True, check=True).stdout.strip()
        for name in ("alice", "bob")
    )
    with running("null", "--api-key-file", keys) as server:
        assert server.http.get("/live").status_code == 401
        body = {"prompt": "a", "max_tokens": 1}
        server.post(TEXT, body, headers={"authorization": f"Bearer {alice}", "x-request-id": "secret"})
        for key, shown in [(alice, "secret"), (bob, None)]:
            with reports(server, authorization=f"Bearer {key}") as report:
                assert [found["id"] for found in report()["requests"]] == [shown]


def test_watching_keeps_no_server_from_stopping():
    with running("null") as server, reports(server) as report:
        report()
        began = time.monotonic()
        assert server.stop() == 0
        # Less than a connection that does not end is given.
        assert time.monotonic() - began < 4.5
