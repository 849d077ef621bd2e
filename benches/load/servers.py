"""Servers under load: one that runs somewhere, or one that is started for the run."""

import json
import os
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from load.client import Endpoint

PATIENCE = 120.0
"""Seconds that a server has to load its model."""


@dataclass(frozen=True)
class Target:
    name: str
    url: str
    model: str
    api_key: str | None = None
    pid: int | None = None
    """Of a server that was started here."""

    @property
    def endpoint(self) -> Endpoint:
        return Endpoint.parse(self.url, self.api_key)

    def get(self, path: str) -> Any:
        with urllib.request.urlopen(self.url + path, timeout=30) as response:
            return json.load(response)

    def cpu_seconds(self) -> float:
        """Of the process, since its start; 0 for a server elsewhere."""
        if self.pid is None:
            return 0.0
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def rss_bytes(self) -> int:
        """Resident memory of a server that was started here."""
        pages = int(Path(f"/proc/{self.pid}/statm").read_text().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE")


@contextmanager
def ferrule(binary: Path, model: str, args: list[str], cpus: str | None = None) -> Iterator[Target]:
    """`ferrule serve MODEL`, on any free port; `cpus`: bound to these, such as 0 or 0-3."""
    command = [str(binary), "serve", model, "--port", "0", "--log", "off", *args]
    with _started(_bound(command, cpus), subprocess.PIPE) as process:
        assert process.stdout is not None
        url = process.stdout.readline().strip().removeprefix("listening on ")
        if not any(line.startswith("ready") for line in process.stdout):
            raise RuntimeError("ferrule serve did not start")
        yield Target("ferrule", url, model.partition(":")[0] if model.startswith("null:") else model, pid=process.pid)


@contextmanager
def llama_server(binary: Path, model: Path, args: list[str], slots: int, cpus: str | None = None) -> Iterator[Target]:
    """llama.cpp's server with `slots` sequences at once, each with room for the longest prompt and answer."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = ["--ctx-size", str(2048 * slots), "--parallel", str(slots), "--cont-batching"]
    command = [str(binary), "--model", str(model), "--port", str(port), *context, *args]
    with _started(_bound(command, cpus), subprocess.DEVNULL) as process:
        target = Target("llama-server", f"http://127.0.0.1:{port}", model.stem, pid=process.pid)
        _wait_healthy(target, process)
        yield target


def model_file(binary: Path, model: str) -> Path:
    """The file or folder that `model` stands for."""
    shown = subprocess.run([str(binary), "show", model, "--json"], capture_output=True, text=True, check=True)
    return Path(json.loads(shown.stdout)["path"])


def _bound(command: list[str], cpus: str | None) -> list[str]:
    return ["taskset", "--cpu-list", cpus, *command] if cpus else command


@contextmanager
def _started(command: list[str], stdout: int) -> Iterator["subprocess.Popen[str]"]:
    with subprocess.Popen(command, stdout=stdout, stderr=subprocess.DEVNULL, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait_healthy(target: Target, process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise RuntimeError(f"{target.name} ended with {process.returncode}")
        try:
            with urllib.request.urlopen(target.url + "/health", timeout=5):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    raise RuntimeError(f"{target.name} was not ready within {PATIENCE:.0f} s")
