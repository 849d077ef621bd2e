"""The commands that talk to a running server."""

import json
import os
import signal
import subprocess

import pytest
from serving import BINARY, running


def ferrule(*args, **env):
    """The finished command."""
    clean = {name: value for name, value in os.environ.items() if name not in ("FERRULE_HOST", "FERRULE_API_KEY")}
    command = [BINARY, *args]
    return subprocess.run(
        command, capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL, env=clean | env
    )


def test_run_says_what_the_server_says(null):
    """Chat and raw, by the command and by the API."""
    args = ["--host", null.url, "--temperature", "0", "--top-p", "1", "--max-tokens", "20"]
    params = {"temperature": 0, "top_p": 1, "max_tokens": 20}
    messages = [{"role": "system", "content": "be brief"}, {"role": "user", "content": "hi"}]
    chat = null.post("/v1/chat/completions", {**params, "messages": messages}).json()["choices"][0]["message"]
    raw = null.post("/v1/completions", {**params, "prompt": "hi"}).json()["choices"][0]["text"]
    assert ferrule("run", "null", "hi", "--system", "be brief", *args).stdout == chat["content"] + "\n"
    assert ferrule("run", "null", "hi", "--raw", *args).stdout == raw + "\n"
    found = json.loads(ferrule("run", "null", "hi", "--raw", "--json", "--seed", "7", *args).stdout)
    assert (found["text"], found["seed"], found["usage"]["completion_tokens"]) == (raw, 7, 20)
    assert found["ttft_ms"] > 0


def test_ps_and_stop():
    with running("one=null", "two=null", "--keep-alive", "100") as server:
        listed = ferrule("ps", "--host", server.url)
        assert [line.split()[0] for line in listed.stdout.splitlines()] == ["NAME", "one", "two"]
        assert "in 1" in listed.stdout or "in 9" in listed.stdout
        stopped = ferrule("stop", "one", FERRULE_HOST=server.url.removeprefix("http://"))
        assert stopped.returncode == 0, stopped.stderr
        server.wait_until(lambda: server.resident("one") is None)
        found = json.loads(ferrule("ps", "--json", FERRULE_HOST=server.url).stdout)
        assert [model["name"] for model in found["models"]] == ["two"]
        again = ferrule("stop", "one", "--host", server.url)
        assert (again.returncode, "not in memory" in again.stderr) == (2, True)


@pytest.mark.parametrize("command", [["ps"], ["stop", "null"], ["run", "null", "hi"]])
def test_without_a_server_they_say_so(command):
    failed = ferrule(*command, "--host", "127.0.0.1:1")
    assert failed.returncode == 4
    assert "no server answers at http://127.0.0.1:1" in failed.stderr


def test_errors_are_the_servers_own_words(null):
    unknown = ferrule("run", "nope", "hi", "--host", null.url)
    assert (unknown.returncode, "'nope' is not served here" in unknown.stderr) == (2, True)
    wrong = ferrule("run", "null", "hi", "--temperature", "-1", "--host", null.url)
    assert (wrong.returncode, "temperature is -1" in wrong.stderr) == (2, True)


def test_keys_are_sent(tmp_path):
    file = tmp_path / "keys.json"
    key = ferrule("key", str(file), "alice").stdout.split()[-1]
    with running("null", "--api-key-file", str(file)) as server:
        assert "API key" in ferrule("ps", "--host", server.url).stderr
        assert ferrule("ps", "--host", server.url, "--api-key", key).returncode == 0
        assert ferrule("run", "null", "hi", "--host", server.url, FERRULE_API_KEY=key).returncode == 0


def test_an_answer_that_is_interrupted_frees_its_blocks():
    with running("null:20") as server:
        command = [BINARY, "run", "null", "hi", "--raw", "--host", server.url, "--temperature", "0"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL) as run:
            assert run.stdout.read(1)
            run.send_signal(signal.SIGINT)
            run.stdout.read()
            assert run.wait(20) == 130
        server.wait_idle()
