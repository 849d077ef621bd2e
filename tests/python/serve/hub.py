"""A hub with one repository, for servers that pull."""

import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

from serving import ROOT


class Hub(BaseHTTPRequestHandler):
    """The smallest of the golden models, as org/tiny."""

    folder = ROOT / "tests" / "golden" / "models" / "llama3"
    files = ("config.json", "model.safetensors")

    def do_GET(self):
        answer = self.answer()
        self.send_response(200 if answer else 404)
        self.send_header("content-length", str(len(answer or b"")))
        self.end_headers()
        self.wfile.write(answer or b"")

    def answer(self):
        if self.path == "/api/models/org/tiny?blobs=true":
            siblings = [{"rfilename": name, "size": (self.folder / name).stat().st_size} for name in self.files]
            return json.dumps({"sha": "main", "siblings": siblings, "cardData": {"license": "mit"}}).encode()
        name = Path(self.path).name
        return (self.folder / name).read_bytes() if name in self.files else None

    def log_message(self, *_):
        pass


class Halting(Hub):
    """Sends half of a file to whoever asks for all of it, then nothing; and the rest to whoever asks for that."""

    asked_from: ClassVar[list[int]] = []
    """Where each range began."""

    def do_GET(self):
        answer = self.answer() or b""
        if not self.path.endswith("model.safetensors"):
            return super().do_GET()
        if given := self.headers.get("range"):
            start = int(given.removeprefix("bytes=").removesuffix("-"))
            self.asked_from.append(start)
            self.send_response(206)
            self.send_header("content-range", f"bytes {start}-{len(answer) - 1}/{len(answer)}")
            self.send_header("content-length", str(len(answer) - start))
            self.end_headers()
            self.wfile.write(answer[start:])
            return None
        self.send_response(200)
        self.send_header("content-length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer[: len(answer) // 2])
        self.wfile.flush()
        # Until the client is gone.
        self.connection.recv(1)
        return None


@contextmanager
def serving(handler):
    """The hub's address, for as long as the block runs."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
