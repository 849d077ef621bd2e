"""Ferrule: a runtime for language models.

>>> from ferrule import Engine, SamplingParams
>>> engine = Engine("smollm2")
>>> outputs = engine.generate("The capital of France is", SamplingParams(max_tokens=8, temperature=0.0))
>>> outputs[0].outputs[0].text

`Engine` is the whole interface: `generate`, `chat`, `stream`, `score` and `embed`, their asynchronous twins
`agenerate`, `achat`, `astream` and `astream_chat`, and `stats`. Everything else here is what they take, return
and raise. `quantize` makes quantized models.
"""

from ferrule._core import (
    AsyncStream,
    CompletionOutput,
    Delta,
    Engine,
    EngineStats,
    ModelInfo,
    RequestMetrics,
    RequestOutput,
    SamplingParams,
    Stream,
    TokenLogprob,
    __version__,
)
from ferrule.errors import (
    Cancelled,
    CorruptModel,
    DeviceError,
    Error,
    InternalError,
    InvalidConfig,
    InvalidRequest,
    ModelNotFound,
    OutOfMemory,
    Overloaded,
    StorageError,
    UnsupportedModel,
)
from ferrule.quantization import quantize

LLM = Engine
"""The same class, for people who come from vLLM."""

__all__ = [
    "LLM",
    "AsyncStream",
    "Cancelled",
    "CompletionOutput",
    "CorruptModel",
    "Delta",
    "DeviceError",
    "Engine",
    "EngineStats",
    "Error",
    "InternalError",
    "InvalidConfig",
    "InvalidRequest",
    "ModelInfo",
    "ModelNotFound",
    "OutOfMemory",
    "Overloaded",
    "RequestMetrics",
    "RequestOutput",
    "SamplingParams",
    "StorageError",
    "Stream",
    "TokenLogprob",
    "UnsupportedModel",
    "__version__",
    "quantize",
]
