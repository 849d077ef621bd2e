from collections.abc import AsyncIterator, Awaitable, Iterator, Mapping, Sequence
from os import PathLike
from types import TracebackType
from typing import Any, Literal, TypeAlias, TypedDict, final, overload

import numpy as np
import numpy.typing as npt

__all__ = [
    "AsyncStream",
    "CompletionOutput",
    "Delta",
    "Engine",
    "EngineStats",
    "ModelInfo",
    "RequestMetrics",
    "RequestOutput",
    "SamplingParams",
    "SchedulerHarness",
    "Stream",
    "TokenLogprob",
    "__version__",
    "cuda_sources",
    "main",
    "quantize",
]

__version__: str

class _Message(TypedDict):
    role: str
    content: str

_Tokens: TypeAlias = Sequence[int]
_Prompt: TypeAlias = str | _Tokens
_Prompts: TypeAlias = _Prompt | Sequence[str] | Sequence[_Tokens]
_Conversation: TypeAlias = Sequence[_Message] | Sequence[Mapping[str, str]]
_Conversations: TypeAlias = _Conversation | Sequence[_Conversation]
_Params: TypeAlias = SamplingParams | Sequence[SamplingParams] | None

@final
class SamplingParams:
    """How tokens are chosen and when to stop. Names and meanings follow vLLM's."""

    def __new__(
        cls,
        *,
        n: int = 1,
        max_tokens: int = 256,
        min_tokens: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        typical_p: float = 1.0,
        repetition_penalty: float = 1.0,
        presence_penalty: float = 0.0,
        frequency_penalty: float = 0.0,
        logit_bias: Mapping[int, float] | None = None,
        stop: str | Sequence[str] | None = None,
        stop_token_ids: Sequence[int] | None = None,
        include_stop_str_in_output: bool = False,
        ignore_eos: bool = False,
        seed: int | None = None,
        logprobs: int | None = None,
        prompt_logprobs: int | None = None,
        skip_special_tokens: bool = True,
    ) -> SamplingParams: ...
    @property
    def n(self) -> int:
        """Choices per prompt; they share the prompt's KV blocks."""
    @property
    def max_tokens(self) -> int:
        """Most tokens to generate. 0 computes the prompt only."""
    @property
    def min_tokens(self) -> int:
        """No end-of-text, stop token or stop string before this many tokens."""
    @property
    def temperature(self) -> float:
        """0 is greedy."""
    @property
    def top_k(self) -> int:
        """Keep the k most likely tokens; 0 keeps all."""
    @property
    def top_p(self) -> float:
        """Nucleus: keep the smallest set with this much probability, in (0, 1]."""
    @property
    def min_p(self) -> float:
        """Keep tokens at least this likely relative to the most likely one, in [0, 1]."""
    @property
    def typical_p(self) -> float:
        """Locally typical sampling, in (0, 1]; 1 is off."""
    @property
    def repetition_penalty(self) -> float:
        """Divides positive and multiplies negative logits of tokens seen; 1 is off."""
    @property
    def presence_penalty(self) -> float:
        """Subtracted once from tokens already in the output, in [-2, 2]."""
    @property
    def frequency_penalty(self) -> float:
        """Subtracted per occurrence in the output, in [-2, 2]."""
    @property
    def logit_bias(self) -> dict[int, float]:
        """Added to a token's logit, in [-100, 100]."""
    @property
    def stop(self) -> list[str]:
        """Generation ends before the first of these."""
    @property
    def stop_token_ids(self) -> list[int]: ...
    @property
    def include_stop_str_in_output(self) -> bool: ...
    @property
    def ignore_eos(self) -> bool:
        """Go on after the model's end-of-text."""
    @property
    def seed(self) -> int | None:
        """None: drawn by the engine per request, and reported in the metrics."""
    @property
    def logprobs(self) -> int | None:
        """Log-probabilities of the chosen token and this many most likely ones (0: the chosen one alone)."""
    @property
    def prompt_logprobs(self) -> int | None:
        """The same for the tokens of the prompt, from the second on."""
    @property
    def skip_special_tokens(self) -> bool:
        """Leave special tokens out of the text."""
    def replace(self, **settings: Any) -> SamplingParams:
        """The same with some fields changed."""

    def __eq__(self, other: object, /) -> bool: ...
    def __getnewargs_ex__(self) -> tuple[tuple[()], dict[str, Any]]: ...

@final
class TokenLogprob:
    """A token's log-probability: natural log, before temperature and truncation."""

    @property
    def token_id(self) -> int: ...
    @property
    def logprob(self) -> float: ...
    @property
    def rank(self) -> int:
        """0 is the most likely token."""
    @property
    def top(self) -> list[tuple[int, float]]:
        """The most likely tokens with their log-probabilities, best first."""
    def __eq__(self, other: object, /) -> bool: ...

@final
class CompletionOutput:
    """One choice of an answer."""

    @property
    def index(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def token_ids(self) -> list[int]: ...
    @property
    def logprobs(self) -> list[TokenLogprob] | None:
        """One per token, if asked for."""
    @property
    def finish_reason(self) -> Literal["stop", "length"]: ...
    @property
    def stop_reason(self) -> str | int | None:
        """The stop string or stop token that ended it."""
    def __eq__(self, other: object, /) -> bool: ...

@final
class RequestOutput:
    """The answer to one prompt."""

    @property
    def prompt(self) -> str | None:
        """The prompt's text as the model saw it; None for a prompt of token ids."""
    @property
    def prompt_token_ids(self) -> list[int]: ...
    @property
    def prompt_logprobs(self) -> list[TokenLogprob] | None:
        """From the prompt's second token on, if asked for."""
    @property
    def outputs(self) -> list[CompletionOutput]: ...
    @property
    def metrics(self) -> RequestMetrics: ...
    def __eq__(self, other: object, /) -> bool: ...

@final
class Delta:
    """New tokens of one choice.

    The text may lag behind the tokens: incomplete characters, and what may become a stop string, are held back.
    """

    @property
    def index(self) -> int: ...
    @property
    def text(self) -> str: ...
    @property
    def token_ids(self) -> list[int]: ...
    @property
    def logprobs(self) -> list[TokenLogprob] | None:
        """One per token, if asked for."""
    @property
    def finish_reason(self) -> Literal["stop", "length"] | None:
        """Set on the choice's last delta."""
    @property
    def stop_reason(self) -> str | int | None: ...
    def __eq__(self, other: object, /) -> bool: ...

@final
class RequestMetrics:
    """What one request cost. Times are in seconds, from the moment of submission unless said otherwise."""

    @property
    def num_prompt_tokens(self) -> int: ...
    @property
    def num_cached_tokens(self) -> int:
        """Prompt tokens found in the prefix cache."""
    @property
    def num_generated_tokens(self) -> int:
        """Over all choices."""
    @property
    def num_preemptions(self) -> int: ...
    @property
    def seed(self) -> int:
        """Of the random numbers: the one given, or the one drawn."""
    @property
    def queue_time(self) -> float: ...
    @property
    def time_to_first_token(self) -> float | None: ...
    @property
    def prefill_time(self) -> float | None:
        """From the first step that ran the request to its first token."""
    @property
    def decode_time(self) -> float:
        """From the first token to the last."""
    @property
    def e2e_time(self) -> float: ...
    @property
    def prefill_tokens_per_s(self) -> float | None: ...
    @property
    def decode_tokens_per_s(self) -> float | None: ...
    def __eq__(self, other: object, /) -> bool: ...

@final
class EngineStats:
    """A snapshot of the engine; counters since its start."""

    @property
    def num_running(self) -> int: ...
    @property
    def num_waiting(self) -> int: ...
    @property
    def num_blocks(self) -> int: ...
    @property
    def num_used_blocks(self) -> int:
        """Blocks that some sequence holds."""
    @property
    def num_steps(self) -> int: ...
    @property
    def num_prompt_tokens(self) -> int: ...
    @property
    def num_generated_tokens(self) -> int: ...
    @property
    def num_preemptions(self) -> int: ...
    @property
    def num_swapped_blocks(self) -> int:
        """Blocks of preempted sequences that went to host memory."""
    @property
    def prefix_cache_queries(self) -> int:
        """In tokens."""
    @property
    def prefix_cache_hits(self) -> int:
        """In tokens."""
    @property
    def num_finished(self) -> int: ...
    @property
    def num_cancelled(self) -> int: ...
    def __eq__(self, other: object, /) -> bool: ...

@final
class ModelInfo:
    """What was loaded."""

    @property
    def name(self) -> str:
        """What the file calls itself; "null" for the null model."""
    @property
    def family(self) -> str | None: ...
    @property
    def vocab_size(self) -> int: ...
    @property
    def hidden_size(self) -> int | None: ...
    @property
    def num_layers(self) -> int | None: ...
    @property
    def max_model_len(self) -> int:
        """Longest prompt plus output, in tokens."""
    @property
    def weight_bytes(self) -> int:
        """Bytes of packed weights."""
    @property
    def kv_cache_bytes(self) -> int: ...
    @property
    def kv_cache_tokens(self) -> int:
        """Tokens that the KV cache holds."""
    @property
    def has_tokenizer(self) -> bool: ...
    @property
    def has_chat_template(self) -> bool: ...
    @property
    def backend(self) -> str:
        """Kernels' tier and threads."""
    def __eq__(self, other: object, /) -> bool: ...

@final
class Stream:
    """Iterator over the Deltas of one request. Closing or dropping it cancels the request."""

    def __iter__(self) -> Iterator[Delta]: ...
    def __next__(self) -> Delta: ...
    def close(self) -> None:
        """Cancel the request if it still runs."""

    @property
    def prompt_token_ids(self) -> list[int]: ...
    @property
    def prompt_logprobs(self) -> list[TokenLogprob] | None:
        """From the prompt's second token on, if asked for; known with the first delta."""

    @property
    def metrics(self) -> RequestMetrics | None:
        """Known at the end."""

@final
class AsyncStream:
    """Asynchronous iterator over the Deltas of one request. Closing or dropping it cancels the request."""

    def __aiter__(self) -> AsyncIterator[Delta]: ...
    def __anext__(self) -> Awaitable[Delta]: ...
    def close(self) -> None:
        """Cancel the request if it still runs."""

    @property
    def prompt_token_ids(self) -> list[int]: ...
    @property
    def prompt_logprobs(self) -> list[TokenLogprob] | None:
        """From the prompt's second token on, if asked for; known with the first delta."""

    @property
    def metrics(self) -> RequestMetrics | None:
        """Known at the end."""

@final
class Engine:
    """A model, loaded and running on a thread of its own.

    `model` is a path to a .gguf file or to a Hugging Face folder, a name in the store such as "smollm2" (fetched
    if it is not there), or "null": a model without weights for tests. `kv_cache_memory` is in bytes, or a text
    such as "512MB", and so is `packed_weights_limit`. `packed_weights` is the folder where weights are kept as the
    kernels read them, so that the next start maps them: one in the store unless given, and None keeps nothing.
    `quantization` rounds a full-precision model's weights while it loads. `cublaslt` has NVIDIA's library make products
    of 128 rows or more with bf16 weights on a GPU: what a request is answered then depends on what ran beside it, by
    rounding.
    Methods may be called from any thread. An engine does not survive a fork: create it in the
    child.
    """

    def __new__(
        cls,
        model: str | PathLike[str],
        *,
        max_num_seqs: int = 64,
        max_num_batched_tokens: int = 512,
        max_model_len: int | None = None,
        block_size: int = 16,
        kv_cache_memory: int | str | None = None,
        swap_space: int | str = 0,
        kv_cache_dtype: Literal["f32", "f16", "bf16", "int8", "fp8"] | None = None,
        activations: Literal["int8", "bf16", "f32"] = "int8",
        quantization: Literal["int8", "int4"] | None = None,
        threads: int | None = None,
        device: Literal["cpu", "cuda", "cuda-emu"] = "cpu",
        cublaslt: bool = False,
        policy: Literal["continuous", "static"] = "continuous",
        enable_prefix_caching: bool = True,
        async_scheduling: bool = True,
        max_queue_len: int = 1024,
        isa: Literal["scalar", "avx2", "avx512"] | None = None,
        packed_weights: str | PathLike[str] | None = ...,
        packed_weights_limit: int | str = 17179869184,
    ) -> Engine: ...
    def generate(
        self,
        prompts: _Prompts,
        sampling_params: _Params = None,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> list[RequestOutput]:
        """Answers to all prompts, in their order.

        `prompts` is a text, a list of token ids, or a list of either; `sampling_params` is one for all or a list
        with one each. Ctrl-C, or an error of one request, cancels the others.
        """

    def agenerate(
        self,
        prompts: _Prompts,
        sampling_params: _Params = None,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> Awaitable[list[RequestOutput]]:
        """`generate` for an event loop: an awaitable whose cancellation cancels the requests."""

    def stream(
        self,
        prompt: _Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> Stream:
        """One answer as it comes. Dropping the iterator cancels the request."""

    def astream(
        self,
        prompt: _Prompt,
        sampling_params: SamplingParams | None = None,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> AsyncStream:
        """`stream` for an event loop. Call it where the loop runs."""

    def chat(
        self,
        messages: _Conversations,
        sampling_params: _Params = None,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> list[RequestOutput]:
        """The model's turn in a conversation, or in each of a list of them."""

    def achat(
        self,
        messages: _Conversations,
        sampling_params: _Params = None,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> Awaitable[list[RequestOutput]]:
        """`chat` for an event loop."""

    def stream_chat(
        self,
        messages: _Conversation,
        sampling_params: SamplingParams | None = None,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> Stream:
        """The model's turn as it comes."""

    def astream_chat(
        self,
        messages: _Conversation,
        sampling_params: SamplingParams | None = None,
        *,
        priority: int = 0,
        cache_salt: str | None = None,
    ) -> AsyncStream:
        """`stream_chat` for an event loop."""

    # A str is a sequence of str, but never a list of prompts.
    @overload
    def score(self, prompts: _Prompt) -> list[TokenLogprob]:  # type: ignore[overload-overlap]
        """Log-probabilities of a text's own tokens, from the second on; a list of them for a list of texts."""

    @overload
    def score(self, prompts: Sequence[str] | Sequence[_Tokens]) -> list[list[TokenLogprob]]: ...
    def embed(self, prompts: _Prompts) -> npt.NDArray[np.float32]:
        """The final hidden state of each prompt's last token, of unit length: (n, hidden_size)."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        """Token ids of a text, with the special tokens that the model expects around it."""

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = True) -> str:
        """The text of token ids, with U+FFFD for bytes that are not UTF-8."""

    def apply_chat_template(self, messages: _Conversation) -> str:
        """A conversation as the model sees it, with the beginning of its own turn."""

    def stats(self) -> EngineStats: ...
    @property
    def model(self) -> ModelInfo:
        """What was loaded."""

    @property
    def config(self) -> dict[str, Any]:
        """The settings, with the names of the keyword arguments."""

    def close(self) -> None:
        """Cancel what runs and free the model. Closing twice is fine."""

    def __enter__(self) -> Engine: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc: BaseException | None = None,
        traceback: TracebackType | None = None,
        /,
    ) -> None: ...

@final
class SchedulerHarness:
    """An engine whose steps the caller makes, with greedy choice and without text. For tests of Ferrule itself."""

    def __new__(
        cls,
        *,
        num_blocks: int = 32,
        block_size: int = 4,
        vocab_size: int = 4,
        windows: Sequence[int | None] | None = None,
        max_num_seqs: int = 8,
        max_num_batched_tokens: int = 16,
        enable_prefix_caching: bool = True,
    ) -> SchedulerHarness: ...
    @property
    def max_tokens_alone(self) -> int:
        """Longest prompt plus output that fits."""

    def add(self, prompt: Sequence[int], max_tokens: int, *, priority: int = 0, cache_salt: str | None = None) -> int:
        """A sequence to the waiting queue; its id."""

    def cancel(self, sequence: int) -> None:
        """End a sequence in any state."""

    def step(self) -> int:
        """One step of the engine; the number of tokens that it computed."""

    def output(self, sequence: int) -> list[int]:
        """The tokens that a sequence has generated so far."""

    def is_finished(self, sequence: int) -> bool: ...
    def check_invariants(self) -> None:
        """Raise AssertionError with what does not hold."""

    @property
    def num_running(self) -> int: ...
    @property
    def num_waiting(self) -> int: ...
    @property
    def num_used_blocks(self) -> int: ...
    @property
    def num_preemptions(self) -> int: ...
    @property
    def prefix_cache_hits(self) -> int:
        """In tokens."""

def cuda_sources() -> list[tuple[str, list[tuple[str, int]]]]:
    """The CUDA kernels: each file's source, and its kernels' names with the dynamic shared memory that they need."""

def main(args: Sequence[str]) -> int:
    """The `ferrule` command; `args` begins with the program's name. Returns the exit code."""

def quantize(source: str | PathLike[str], target: str | PathLike[str], settings: Mapping[str, object]) -> str:
    """What `ferrule.quantize` does with its keyword arguments; the certificate as JSON."""
