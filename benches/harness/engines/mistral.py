"""mistral.rs on GGUF files. It takes text only, and knows no "ignore end-of-text": the first ids are forbidden."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from harness.memory import resident_growth_mib
from harness.work import PROMPT, Work

WORD = " to"
FORBIDDEN = dict.fromkeys(range(8), -100.0)
"""Where the models of this comparison have their end-of-text and end-of-turn."""


def measure(model: Path, work: Work, threads: int) -> float:
    # Read once, when the library is loaded.
    os.environ["RAYON_NUM_THREADS"] = str(threads)
    growth = resident_growth_mib()
    begin = time.perf_counter()
    session = Session(model, work.batch)
    if work.metric == "start":
        session.generate(PROMPT, 1)
        return (time.perf_counter() - begin) * 1e3
    prompt = WORD * round(work.prompt_len / session.tokens_per_word())
    prefill = session.seconds(prompt, work.batch, 1)
    match work.metric:
        case "prefill":
            return work.batch * work.prompt_len / prefill
        case "decode":
            return work.batch * (work.gen_len - 1) / (session.seconds(prompt, work.batch, work.gen_len) - prefill)
        case _:
            session.seconds(prompt, work.batch, work.gen_len)
            return growth()


class Session:
    def __init__(self, model: Path, max_seqs: int) -> None:
        import mistralrs

        self._request = mistralrs.CompletionRequest
        which = mistralrs.Which.GGUF(quantized_model_id=str(model.parent), quantized_filename=model.name)
        self._runner = mistralrs.Runner(which, max_seqs=max_seqs, prefix_cache_n=0)

    def generate(self, prompt: str, gen_len: int) -> int:
        """The prompt's length in tokens."""
        request = self._request(
            prompt=prompt, model="default", max_tokens=gen_len, temperature=0.0, logit_bias=FORBIDDEN
        )
        usage = self._runner.send_completion_request(request).usage
        if usage.completion_tokens != gen_len:
            raise RuntimeError(f"{usage.completion_tokens} tokens came where {gen_len} were asked for")
        return int(usage.prompt_tokens)

    def tokens_per_word(self) -> float:
        return self.generate(WORD * 64, 1) / 64

    def seconds(self, prompt: str, batch: int, gen_len: int) -> float:
        begin = time.perf_counter()
        with ThreadPoolExecutor(batch) as threads:
            list(threads.map(lambda _: self.generate(prompt, gen_len), range(batch)))
        return time.perf_counter() - begin
