"""The load generator of benches/, and the server under more load than it can bear."""

import json
import subprocess
import sys
from collections import Counter
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st
from serving import BINARY, ROOT, running

from load import servers, soak
from load.client import Answer, Endpoint, _Chunked
from load.drive import Plan, Run, drive
from load.report import Slo, percentile, summary
from load.workload import Lengths, Workload, poisson

SHORT = Lengths(8, 12, 0.5, 0.5)


def target(server, name="null"):
    return servers.Target(name, server.url, name, pid=server.process.pid)


@given(st.lists(st.binary(min_size=1), max_size=8), st.data())
def test_chunks_are_put_together_however_they_are_cut(chunks, data):
    body = b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=6)))
    decoder = _Chunked()
    pieces = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True)]
    assert b"".join(decoder.feed(piece) for piece in pieces) == b"".join(chunks)


def test_figures_follow_from_times():
    fast = Answer(begun=1.0, pieces=[1.5, 1.6, 1.8], ended=1.9, status=200, num_prompt_tokens=4, num_tokens=5)
    slow = Answer(begun=1.0, pieces=[4.0, 5.0], ended=5.0, status=200, num_prompt_tokens=4, num_tokens=2)
    refused = Answer(begun=1.0, ended=1.1, status=429, error="full")
    assert fast.ttft == 0.5
    assert fast.tpot == pytest.approx(0.3 / 4)
    run = Run([fast, slow, refused], wall=4.0)
    result = summary([run], Slo(ttft=1.0, tpot=0.5), server_cpu=2.0)
    assert (result["requests"], result["complete"], result["errors"]) == (3, 2, {"429": 1})
    assert (result["answer_tokens_per_s"], result["total_tokens_per_s"]) == (7 / 4, 15 / 4)
    assert (result["goodput_per_s"], result["server_cpu"]) == (1 / 4, 0.5)
    assert result["ms"]["ttft"] == {"p50": 500.0, "p90": 3000.0, "p99": 3000.0}
    assert percentile([float(i) for i in range(1, 101)], 99) == 99


def test_workloads_follow_from_their_seed_and_have_the_stated_means():
    bodies = [list(islice(Workload("m", Lengths(), seed).bodies(), 2000)) for seed in (1, 1, 2)]
    assert bodies[0] == bodies[1] != bodies[2]
    requests = [json.loads(body) for body in bodies[0]]
    prompts = [len(request["prompt"].split()) for request in requests]
    # What is cut at 1,024 tokens takes a little from the means.
    assert 145 < sum(prompts) / 2000 < 170
    assert 300 < sum(request["max_tokens"] for request in requests) / 2000 < 345
    assert 0.9 < next(islice(poisson(10.0, 1), 999, None)) / 100 < 1.1


def test_closed_and_open_loops_are_answered(null):
    endpoint = Endpoint.parse(null.url, None)
    for plan in (Plan(4, None, 12, None, 0), Plan(None, 200.0, 12, None, 0)):
        run = drive(endpoint, Workload("null", SHORT, 7, vocab=1024).bodies(), plan)
        bodies = [json.loads(body) for body in islice(Workload("null", SHORT, 7, vocab=1024).bodies(), 12)]
        assert all(answer.is_complete and answer.pieces for answer in run.answers)
        got = Counter((answer.num_prompt_tokens, answer.num_tokens) for answer in run.answers)
        assert got == Counter((len(body["prompt"]), body["max_tokens"]) for body in bodies)


def test_the_command_measures_a_server_that_runs(null, tmp_path):
    out = tmp_path / "out.json"
    flags = ["--url", null.url, "--peer-url", f"{null.url}/v1", "--num-requests", "8", "--prompt-mean", "9"]
    flags += ["--answer-len", "20", "--beside-prompt-len", "900"]
    command = [sys.executable, ROOT / "benches" / "serve.py", "null", *flags, "--out", out, "--binary", BINARY]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    for result in json.loads(out.read_text())["results"].values():
        assert (result["complete"], result["answer_tokens"]) == (8, 160)
        assert result["beside"] > 0
    assert "| answered | 8 | 8 |" in done.stdout


def test_a_peer_is_started_as_llama_server_is(tmp_path):
    """What is started is a script that takes llama-server's flags."""
    fake = tmp_path / "llama-server"
    fake.write_text(f'#!/bin/sh\ntest "$1$3" = --model--port && exec {BINARY} serve tiny=null --port "$4"\n')
    fake.chmod(0o755)
    with servers.llama_server(fake, tmp_path / "tiny.gguf", [], slots=2) as peer:
        run = drive(peer.endpoint, Workload("tiny", SHORT, 1).bodies(), Plan(2, None, 4, None, 0))
    assert all(answer.is_complete for answer in run.answers)


def test_overload_costs_nothing_but_refusals():
    """200 connections, arrivals above capacity, and a third of the clients hang up."""
    flags = ["--max-num-seqs", "8", "--max-queue-len", "192"]
    with running("null:5", *flags) as server:
        run, samples = soak.load(target(server), Lengths(16, 40), rate=300.0, duration=2.0, seed=3)
        assert soak.wait_idle(target(server))
        assert soak.wrong_errors(run) == []
        found = server.resident()
        assert server.stop() == 0
    statuses = Counter(answer.status for answer in run.answers)
    assert statuses[200] >= 200
    assert statuses[429] > 0
    assert sum(answer.hung_up for answer in run.answers) > 10
    assert max(sample["num_running"] + sample["num_waiting"] for sample in samples) >= 195
    assert found["num_used_blocks"] == 0


def test_clients_that_hang_up_free_their_blocks_within_a_step():
    """Eight clients, each after a number of pieces of its own; the last of them leave together."""
    pieces = [1, 4, 2, 5, 3, 5, 5, 1]
    with running("null:200") as server:
        body = json.dumps({"prompt": "hi", "max_tokens": 4000, "ignore_eos": True, "stream": True}).encode()
        plan = Plan(8, None, 8, None, 0, lambda at: pieces[at])
        run = drive(Endpoint.parse(server.url, None), iter([body] * 8), plan)
        assert all(answer.hung_up for answer in run.answers)
        before = server.resident()["num_steps"]
        server.wait_idle()
        # The step that ran when it left, and the one that saw it.
        assert server.resident()["num_steps"] - before <= 2


def test_a_long_prompt_holds_up_no_running_answer():
    """Its chunks and a running answer share the steps: each step has a chunk at most, and brings the answer a token."""
    body = {"prompt": "hi", "max_tokens": 4000, "ignore_eos": True, "stream": True}
    with running("null:20", "--max-num-batched-tokens", "64") as server:
        with server.http.stream("POST", "/v1/completions", json=body) as response:
            # The connection is closed with its iterator.
            lines = response.iter_lines()
            next(lines)
            before = server.resident()
            long = {"prompt": "x" * 3500, "max_tokens": 1, "ignore_eos": True}
            assert server.post("/v1/completions", long).status_code == 200
            after = server.resident()
            lines.close()
        server.wait_idle()
    num_steps = after["num_steps"] - before["num_steps"]
    assert num_steps >= 3500 / 64
    assert after["num_generated_tokens"] - before["num_generated_tokens"] >= num_steps - 1


def test_a_short_prompt_does_not_wait_for_a_long_one():
    """The long one takes 55 steps and more; the short one is answered meanwhile, and both as they are alone."""
    long, short = (
        {"prompt": prompt, "max_tokens": 4, "ignore_eos": True, "temperature": 0} for prompt in ("x" * 3500, "hi")
    )
    with running("null:20", "--max-num-batched-tokens", "64") as server:
        alone = server.post("/v1/completions", short).json()["choices"][0]["text"]
        with server.http.stream("POST", "/v1/completions", json={**long, "stream": True}) as response:
            beside = server.post("/v1/completions", short).json()["choices"][0]["text"]
            computed = server.resident()
            assert (computed["num_running"], computed["num_generated_tokens"]) == (1, 8), (
                "the long one has no token yet"
            )
            assert sum(line.startswith("data: {") for line in response.iter_lines()) >= 4
    assert beside == alone
