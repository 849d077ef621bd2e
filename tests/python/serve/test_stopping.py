"""How a server begins, ends and begins again: signals, kill -9, and nothing to clean up."""

import json
import signal
import socket
import subprocess
import threading

import httpx
import pytest
from hub import Halting, serving
from serving import BINARY, add_key, running

TEXT = "/v1/completions"
LONG = {"prompt": "hi", "max_tokens": 4000, "ignore_eos": True}


def first_line_of_a_stream(server, body, headers=None, path=TEXT):
    """A stream that has begun, on a connection that stays open."""
    connection = httpx.Client(base_url=server.url, timeout=60, headers=headers)
    response = connection.send(connection.build_request("POST", path, json=body), stream=True)
    assert response.status_code == 200, response.read()
    lines = response.iter_lines()
    next(lines)
    return connection, lines


class Later:
    """A request on a thread of its own."""

    def __init__(self, server, body):
        self._found = []
        self._thread = threading.Thread(target=self._run, args=(server.url + TEXT, body))
        self._thread.start()

    def _run(self, url, body):
        try:
            self._found.append(httpx.post(url, json=body, timeout=60))
        except httpx.HTTPError as error:
            self._found.append(error)

    def response(self):
        """What came of it, or the error that did."""
        self._thread.join()
        if isinstance(self._found[0], httpx.HTTPError):
            raise self._found[0]
        return self._found[0]


def unread(server):
    """A request whose answer nobody reads, far larger than what the system's buffers hold."""
    body = json.dumps({**LONG, "stream": True, "logprobs": 5, "n": 8}).encode()
    connection = server.connect()
    connection.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
    return connection


def kill(server):
    server.process.send_signal(signal.SIGKILL)
    assert server.process.wait(10) == -signal.SIGKILL


def test_a_server_that_is_killed_while_it_answers_comes_back_at_once(tmp_path):
    """The same command again, on the same port and with the same keys, of whose usage half was being written."""
    keys = tmp_path / "keys.json"
    auth = {"authorization": f"Bearer {add_key(keys, 'a', '--token-budget', '1000')}"}
    ask = {"prompt": "hello", "max_tokens": 5, "ignore_eos": True, "temperature": 0}
    with running("null:20", "--api-key-file", keys) as server:
        port, expected = server.port, server.post(TEXT, ask, headers=auth).json()["choices"]
        usage = keys.with_name("keys.json.usage")
        server.wait_until(lambda: usage.exists() and "10" in usage.read_text())
        streams = [first_line_of_a_stream(server, {**LONG, "max_tokens": 100, "stream": True}, auth) for _ in range(4)]
        kill(server)
        for connection, lines in streams:
            with pytest.raises(httpx.HTTPError):
                list(lines)
            connection.close()
    keys.with_name("keys.json.usage.new").write_text('{"tok')
    with running("null:20", "--api-key-file", keys, port=port) as server:
        assert server.port == port
        assert server.post(TEXT, ask, headers=auth).json()["choices"] == expected
        assert server.stop() == 0
    assert json.loads(usage.read_text()) == {"tokens": {"a": 20}}


def test_a_server_that_is_killed_while_it_pulls_goes_on_where_it_was(tmp_path):
    size = (Halting.folder / "model.safetensors").stat().st_size
    Halting.asked_from.clear()
    with serving(Halting) as hub:
        env = {"FERRULE_HOME": str(tmp_path), "HF_ENDPOINT": hub, "FERRULE_PYTHON": "no-such-python", "HF_TOKEN": ""}
        with running(env=env) as server:
            connection, _ = first_line_of_a_stream(server, {"model": "hf:org/tiny"}, path="/api/pull")
            server.wait_until(lambda: [p for p in tmp_path.rglob("*.partial") if p.stat().st_size == size // 2])
            kill(server)
            connection.close()
        with running(env=env, port=server.port) as server:
            assert server.http.get("/api/tags").json() == {"models": []}
            pulled = server.post("/api/pull", {"model": "hf:org/tiny", "stream": False})
            assert pulled.json() == {"status": "success"}
            assert Halting.asked_from == [size // 2]
            assert list(tmp_path.rglob("*.partial")) == []
            ask = {"model": "hf:org/tiny", "prompt": [1, 2, 3], "max_tokens": 2, "ignore_eos": True}
            assert server.post(TEXT, ask).json()["usage"]["completion_tokens"] == 2


def test_a_server_that_is_killed_while_it_keeps_packed_weights_finds_them_whole_or_not(tmp_path):
    shown = subprocess.run([BINARY, "show", "smollm2", "--json"], capture_output=True, text=True, check=True)
    model = f"smol={json.loads(shown.stdout)['path']}"
    env = {"FERRULE_HOME": str(tmp_path)}
    ask = {"prompt": "Once upon a time", "max_tokens": 8, "temperature": 0}
    texts = []
    # Killed as soon as there is anything, mostly in the middle of it; then when all is there.
    for there in ("*", "*.packed"):
        with running(model, env=env) as server:
            texts.append(server.post(TEXT, ask).json()["choices"][0]["text"])
            server.wait_until(lambda there=there: list((tmp_path / "packed").glob(there)))
            server.stop(signal.SIGKILL)
    with running(model, env=env) as server:
        texts.append(server.post(TEXT, ask).json()["choices"][0]["text"])
    assert texts == [texts[0]] * 3
    assert len(list((tmp_path / "packed").glob("*.packed"))) == 1


def test_a_ready_server_has_all_its_models():
    """Asked from the first moment on: not ready while any of them is loaded."""
    names = [f"m{count}" for count in range(8)]
    command = [BINARY, "serve", *(f"{name}=null" for name in names), "--port", "0", "--log", "off"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            url = process.stdout.readline().strip().removeprefix("listening on ")
            with httpx.Client(base_url=url) as http:
                statuses = []
                while not statuses or statuses[-1] == 503:
                    found = http.get("/health/ready")
                    statuses.append(found.status_code)
                    assert found.status_code == 200 or found.json() == {"status": "loading"}
                there = [model["name"] for model in http.get("/models/resident").json()["models"]]
        finally:
            process.kill()
    assert (statuses[-1], there) == (200, names)
    assert statuses[0] == 503


def room_for_one(*flags):
    """Two real models, of which one is in memory at a time."""
    shown = subprocess.run([BINARY, "show", "smollm2", "--json"], capture_output=True, text=True, check=True)
    file = json.loads(shown.stdout)["path"]
    budget = ["--memory-budget", "200MB", "--kv-cache-memory", "64MB"]
    return running(f"busy={file}", f"other={file}", *budget, *flags)


@pytest.mark.parametrize("finishes", [True, False])
def test_requests_that_wait_for_a_model_when_the_server_stops(finishes):
    """They are answered like those that run, or told why not."""
    num_tokens = 150 if finishes else 2000
    with room_for_one("--drain-timeout", "60" if finishes else "1") as server:
        server.post(TEXT, {"model": "busy", "prompt": "hi", "max_tokens": 1})
        busy = Later(server, {"model": "busy", "prompt": "hi", "max_tokens": num_tokens, "ignore_eos": True})
        server.wait_until(lambda: server.resident("busy")["num_running"] == 1)
        other = Later(server, {"model": "other", "prompt": "hi", "max_tokens": 3, "ignore_eos": True})
        server.wait_until(lambda: server.http.get("/health/ready").json() == {"status": "loading"})
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(60) == 0
        for request, count in [(busy, num_tokens), (other, 3)]:
            response = request.response()
            if finishes:
                assert response.json()["usage"]["completion_tokens"] == count
            else:
                assert response.status_code == 503
                assert "shutting down" in response.json()["error"]["message"]


def test_connections_that_nobody_reads_keep_no_server_from_stopping():
    """All connections are in use, and none of their clients takes what it is sent."""
    with running("null", "--max-connections", "2") as server:
        server.http.close()
        connections = [unread(server), unread(server)]
        for connection in connections:
            assert connection.recv(1, socket.MSG_PEEK) == b"H"
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(25) == 0
        for connection in connections:
            connection.close()


def test_a_step_that_does_not_end_keeps_no_server_from_stopping():
    """The model takes a minute per step."""
    with running("null:60000", "--drain-timeout", "1") as server:
        request = Later(server, LONG)
        server.wait_until(lambda: server.resident()["num_running"] == 1)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(30) == 0
        with pytest.raises(httpx.HTTPError):
            request.response()
