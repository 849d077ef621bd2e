"""llama.cpp through the C interface of llama-cpp-python."""

import time
from dataclasses import dataclass
from pathlib import Path

import llama_cpp
import numpy as np

from harness.memory import resident_growth_mib
from harness.work import PROMPT, Work, prompts

MAX_BATCH = 512
QUIET = llama_cpp.llama_log_callback(lambda *_: None)


def measure(model: Path, work: Work, threads: int) -> float:
    llama_cpp.llama_log_set(QUIET, None)
    if work.metric == "start":
        return _start_ms(model, work, threads)
    growth = resident_growth_mib()
    session = Session.open(model, work, threads)
    session.prefill([ids[:MAX_BATCH] for ids in prompts(work, session.vocab_size)[:1]])
    session.clear()
    begin = time.perf_counter()
    last = session.prefill(prompts(work, session.vocab_size))
    prefilled = time.perf_counter()
    for step in range(1, work.gen_len):
        last = session.decode(last, work.prompt_len + step - 1)
    end = time.perf_counter()
    match work.metric:
        case "prefill":
            return work.batch * work.prompt_len / (prefilled - begin)
        case "decode":
            return work.batch * (work.gen_len - 1) / (end - prefilled)
        case _:
            return growth()


def _start_ms(model: Path, work: Work, threads: int) -> float:
    """From loading on: the time that Python takes to start and import is not counted."""
    begin = time.perf_counter()
    session = Session.open(model, work, threads)
    session.prefill([session.tokenize(PROMPT)])
    return (time.perf_counter() - begin) * 1e3


@dataclass
class Session:
    """A model and a context, decoding greedily."""

    model: int
    context: int
    vocab_size: int
    batch: llama_cpp.llama_batch

    @classmethod
    def open(cls, path: Path, work: Work, threads: int) -> "Session":
        llama_cpp.llama_backend_init()
        model = llama_cpp.llama_model_load_from_file(bytes(path), llama_cpp.llama_model_default_params())
        if model is None:
            raise RuntimeError(f"llama.cpp cannot load {path}")
        context = llama_cpp.llama_init_from_model(model, _context_params(work, threads))
        if context is None:
            raise RuntimeError("llama.cpp cannot make a context")
        vocab_size = llama_cpp.llama_vocab_n_tokens(llama_cpp.llama_model_get_vocab(model))
        return cls(model, context, vocab_size, llama_cpp.llama_batch_init(MAX_BATCH, 0, 1))

    def tokenize(self, text: str) -> list[int]:
        vocab = llama_cpp.llama_model_get_vocab(self.model)
        data = text.encode()
        ids = (llama_cpp.llama_token * (len(data) + 2))()
        count = llama_cpp.llama_tokenize(vocab, data, len(data), ids, len(ids), True, False)
        return list(ids[:count])

    def clear(self) -> None:
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)

    def prefill(self, sequences: list[list[int]]) -> list[int]:
        """The first generated token of each sequence."""
        rows = [
            (token, position, sequence, position == len(ids) - 1)
            for sequence, ids in enumerate(sequences)
            for position, token in enumerate(ids)
        ]
        chunks = (rows[i : i + MAX_BATCH] for i in range(0, len(rows), MAX_BATCH))
        return [token for chunk in chunks for token in self._run(chunk)]

    def decode(self, tokens: list[int], position: int) -> list[int]:
        """One step of all sequences: their next tokens."""
        return self._run([(token, position, sequence, True) for sequence, token in enumerate(tokens)])

    def _run(self, rows: list[tuple[int, int, int, bool]]) -> list[int]:
        """Rows are (token, position, sequence, whether logits are wanted)."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[i], batch.pos[i], batch.logits[i] = token, position, wanted
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
        if llama_cpp.llama_decode(self.context, batch) != 0:
            raise RuntimeError("llama_decode failed")
        # Without wanted rows nothing below would wait for the result.
        llama_cpp.llama_synchronize(self.context)
        return [self._best(i) for i, row in enumerate(rows) if row[3]]

    def _best(self, row: int) -> int:
        logits = llama_cpp.llama_get_logits_ith(self.context, row)
        return int(np.ctypeslib.as_array(logits, shape=(self.vocab_size,)).argmax())


def _context_params(work: Work, threads: int) -> llama_cpp.llama_context_params:
    per_sequence = -(-(work.prompt_len + work.gen_len + len(PROMPT)) // 256) * 256
    params = llama_cpp.llama_context_default_params()
    params.n_ctx = work.batch * per_sequence
    params.n_seq_max = work.batch
    params.n_batch = params.n_ubatch = MAX_BATCH
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type = llama_cpp.LLAMA_FLASH_ATTN_TYPE_ENABLED
    params.swa_full = False
    return params
