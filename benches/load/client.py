"""A client small enough not to be what is measured: one connection per request, HTTP/1.1 by hand."""

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit


@dataclass
class Answer:
    """What became of one request. Times are seconds on the event loop's clock."""

    begun: float
    """When it was due: waiting for a connection counts."""
    pieces: list[float] = field(default_factory=list)
    """When each frame with text came. A server that lags may put several tokens into one."""
    ended: float = 0.0
    status: int = 0
    num_prompt_tokens: int = 0
    num_tokens: int = 0
    error: str | None = None
    hung_up: bool = False
    reads: list[tuple[float, bytes]] = field(default_factory=list)
    """What came and when, until `read` has made the rest of it."""

    def read(self) -> "Answer":
        """Reads what came. After the run: it would slow down a server on the same machine."""
        reader = _Reader(self)
        for now, data in self.reads:
            reader.feed(now, data)
        if self.error is None:
            reader.close()
        self.reads.clear()
        return self

    @property
    def is_complete(self) -> bool:
        return self.status == 200 and self.error is None and not self.hung_up

    @property
    def ttft(self) -> float:
        return (self.pieces[0] if self.pieces else self.ended) - self.begun

    @property
    def tpot(self) -> float | None:
        """Mean time per token after the first."""
        if self.num_tokens < 2 or not self.pieces:
            return None
        return (self.pieces[-1] - self.pieces[0]) / (self.num_tokens - 1)

    @property
    def gaps(self) -> list[float]:
        return [later - earlier for earlier, later in zip(self.pieces, self.pieces[1:], strict=False)]


@dataclass(frozen=True)
class Endpoint:
    """An OpenAI-compatible server."""

    host: str
    port: int
    tls: bool
    path: str
    api_key: str | None

    @classmethod
    def parse(cls, url: str, api_key: str | None) -> "Endpoint":
        parts = urlsplit(url)
        tls = parts.scheme == "https"
        path = parts.path.rstrip("/").removesuffix("/v1") + "/v1/completions"
        return cls(parts.hostname or "127.0.0.1", parts.port or (443 if tls else 80), tls, path, api_key)

    def request(self, body: bytes) -> bytes:
        lines = [
            f"POST {self.path} HTTP/1.1",
            f"host: {self.host}:{self.port}",
            "connection: close",
            "content-type: application/json",
            f"content-length: {len(body)}",
            *([f"authorization: Bearer {self.api_key}"] if self.api_key else []),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


async def ask(endpoint: Endpoint, body: bytes, begun: float, leave_after: int | None = None) -> Answer:
    """Streams one answer. `leave_after`: hangs up after so many reads of its text."""
    loop = asyncio.get_running_loop()
    answer = Answer(begun)
    exchange = _Exchange(endpoint.request(body), leave_after, loop)
    try:
        transport, _ = await loop.create_connection(
            lambda: exchange, endpoint.host, endpoint.port, ssl=endpoint.tls or None
        )
    except OSError as error:
        answer.ended, answer.error = loop.time(), f"no connection: {error}"
        return answer
    try:
        await exchange.done
    finally:
        transport.abort()
    answer.ended = exchange.reads[-1][0] if exchange.reads else loop.time()
    answer.reads = exchange.reads
    answer.hung_up = exchange.hung_up
    return answer


class _Exchange(asyncio.Protocol):
    """A request and what comes back. It is read later: who measures on the server's machine must cost it little."""

    def __init__(self, request: bytes, leave_after: int | None, loop: asyncio.AbstractEventLoop):
        self.reads: list[tuple[float, bytes]] = []
        self.hung_up = False
        self.done: asyncio.Future[None] = loop.create_future()
        self._request = request
        self._clock = loop.time
        # The head comes with the first read, or before it.
        self._leave_at = None if leave_after is None else leave_after + 1

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self.reads.append((self._clock(), data))
        if len(self.reads) == self._leave_at and not self.done.done():
            self.hung_up = True
            self.done.set_result(None)

    def connection_lost(self, error: Exception | None) -> None:
        if not self.done.done():
            self.done.set_result(None)


class _Reader:
    """Reads an HTTP response and its server-sent events into an [`Answer`]."""

    def __init__(self, answer: Answer):
        self._answer = answer
        self._head: bytearray | None = bytearray()
        self._chunks: _Chunked | None = None
        self._text = bytearray()
        self._is_finished = False

    def feed(self, now: float, data: bytes) -> None:
        if self._head is not None:
            self._head += data
            head, separator, data = bytes(self._head).partition(b"\r\n\r\n")
            if not separator:
                return
            self._begin(head.decode("latin-1"))
        self._text += self._chunks.feed(data) if self._chunks else data
        if self._answer.status == 200:
            self._read_frames(now)

    def close(self) -> None:
        answer = self._answer
        if answer.status != 200:
            answer.error = self._text.decode(errors="replace") or "the connection broke"
        elif not self._is_finished and not answer.hung_up:
            answer.error = answer.error or "the stream broke off"
        # Hung up as the last word came: it was complete.
        answer.hung_up &= not self._is_finished and answer.error is None

    def _begin(self, head: str) -> None:
        status, *headers = head.split("\r\n")
        self._answer.status = int(status.split(" ")[1])
        if any(header.lower().replace(" ", "") == "transfer-encoding:chunked" for header in headers):
            self._chunks = _Chunked()
        self._head = None

    def _read_frames(self, now: float) -> None:
        *frames, rest = self._text.split(b"\n\n")
        self._text = rest
        for frame in frames:
            if frame.startswith(b"data: "):
                self._read(bytes(frame[6:]), now)

    def _read(self, data: bytes, now: float) -> None:
        if data == b"[DONE]":
            self._is_finished = True
            return
        chunk: dict[str, Any] = json.loads(data)
        answer = self._answer
        if "error" in chunk:
            answer.error = str(chunk["error"])
        if usage := chunk.get("usage"):
            answer.num_prompt_tokens, answer.num_tokens = usage["prompt_tokens"], usage["completion_tokens"]
        if any(choice.get("text") for choice in chunk.get("choices", [])):
            answer.pieces.append(now)


class _Chunked:
    """Takes chunked transfer coding (RFC 9112, 7.1) away."""

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._left = 0

    def feed(self, data: bytes) -> bytearray:
        self._buffer += data
        out = bytearray()
        while self._buffer:
            if self._left:
                out += self._buffer[: self._left]
                taken = min(self._left, len(self._buffer))
                self._left -= taken
                del self._buffer[:taken]
                continue
            line, separator, _ = self._buffer.partition(b"\r\n")
            if not separator:
                break
            del self._buffer[: len(line) + 2]
            # Between chunks there is an empty line.
            self._left = int(line.split(b";")[0], 16) if line else 0
        return out
