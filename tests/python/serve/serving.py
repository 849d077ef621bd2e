"""A running `ferrule serve`, and what tests do with one."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

ROOT = Path(__file__).resolve().parents[3]
BINARY = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "ferrule"
SCRIPT = [sys.executable, "-m", "ferrule"]
QUESTION = [{"role": "user", "content": "What is the capital of France, and what is it known for?"}]


class Server:
    """A `ferrule serve` process; `url` is where it listens. `port`: any that is free, or this one."""

    def __init__(self, *args, command=(BINARY,), env=None, port=0):
        command = [*command, "serve", *args, "--port", str(port), "--log", "json"]
        self.process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, **(env or {})}
        )
        self.announced = []
        self._err = []
        self._reader = threading.Thread(target=lambda: self._err.extend(self.process.stderr), daemon=True)
        self._reader.start()
        for line in self.process.stdout:
            self.announced.append(line.rstrip())
            if line.startswith("ready"):
                break
        else:
            self._end()
            raise RuntimeError(f"the server did not start: {self.announced} {self._err}")
        self.url = self.announced[0].removeprefix("listening on ")
        self.port = int(self.url.rsplit(":", 1)[1])
        self.http = httpx.Client(base_url=self.url, timeout=60)

    def post(self, path, body, **kwargs):
        return self.http.post(path, json=body, **kwargs)

    def frames(self, path, body):
        """The JSON of each server-sent event; the last is the text [DONE]."""
        with self.http.stream("POST", path, json=body) as response:
            assert response.status_code == 200, response.read()
            assert response.headers["content-type"] == "text/event-stream"
            lines = [line for line in response.iter_lines() if line]
        assert all(line.startswith("data: ") for line in lines)
        assert lines[-1] == "data: [DONE]"
        return [json.loads(line.removeprefix("data: ")) for line in lines[:-1]]

    def connect(self):
        """A bare connection, for what no client would do."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def resident(self, model="null"):
        models = self.http.get("/models/resident").json()["models"]
        return next((found for found in models if found["name"] == model), None)

    def wait_until(self, what, seconds=20):
        """Waits until `what()` is true, and returns it."""
        deadline = time.monotonic() + seconds
        while not (value := what()):
            assert time.monotonic() < deadline, self.resident()
            time.sleep(0.005)
        return value

    def wait_idle(self, model="null"):
        """Waits until nothing holds a block."""

        def is_idle():
            found = self.resident(model)
            return found["num_running"] == found["num_waiting"] == found["num_used_blocks"] == found["num_users"] == 0

        self.wait_until(is_idle)

    def metrics(self):
        return self.http.get("/metrics").text

    def stop(self, sig=signal.SIGTERM, timeout=30):
        """Sends the signal and returns the exit code."""
        self.process.send_signal(sig)
        code = self.process.wait(timeout)
        self._reader.join()
        return code

    def log(self):
        """The access log's lines so far; complete once the server has stopped."""
        return [json.loads(line) for line in self._err if line.startswith("{")]

    def stderr(self):
        return "".join(self._err)

    def close(self):
        self.http.close()
        self._end()

    def _end(self):
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        self._reader.join()
        self.process.stdout.close()
        self.process.stderr.close()


def add_key(path, name, *options):
    """Makes a key for `name` in the file of keys, and returns it."""
    done = subprocess.run([BINARY, "key", path, name, *options], capture_output=True, text=True, check=True)
    return done.stdout.strip()


@contextmanager
def running(*args, **kwargs) -> Iterator[Server]:
    """A server with `args`, for as long as the block runs."""
    server = Server(*args, **kwargs)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def full(path, body) -> Iterator[Server]:
    """A server that runs one request and keeps another waiting, both `body`, and has no room for more."""
    with running("null:20", "--max-num-seqs", "1", "--max-queue-len", "1") as server:
        threads = []
        for field in ("num_running", "num_waiting"):
            threads.append(threading.Thread(target=lambda: server.post(path, body)))
            threads[-1].start()
            server.wait_until(lambda field=field: server.resident()[field] == 1)
        yield server
        for thread in threads:
            thread.join()
