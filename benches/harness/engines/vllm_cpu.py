"""vLLM's build for CPUs, on folders of safetensors."""

import os
import time
from pathlib import Path

from harness.memory import resident_growth_mib
from harness.work import PROMPT, Work, prompts

MAX_BATCHED_TOKENS = 512
KV_CACHE_GB = 2


def measure(model: Path, work: Work, threads: int) -> float:
    # Read when the library is loaded. One of two cores is left idle unless they are named.
    os.environ["VLLM_CPU_OMP_THREADS_BIND"] = f"0-{threads - 1}"
    os.environ["VLLM_CPU_KVCACHE_SPACE"] = str(KV_CACHE_GB)
    # The engine in this process, whose memory is measured.
    os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
    growth = resident_growth_mib()
    begin = time.perf_counter()
    session = Session(model, work)
    if work.metric == "start":
        session.generate([PROMPT], 1)
        return (time.perf_counter() - begin) * 1e3
    session.seconds(work, 2)
    prefill = session.seconds(work, 1)
    match work.metric:
        case "prefill":
            return work.batch * work.prompt_len / prefill
        case "decode":
            return work.batch * (work.gen_len - 1) / (session.seconds(work, work.gen_len) - prefill)
        case _:
            session.seconds(work, work.gen_len)
            return growth()


class Session:
    def __init__(self, model: Path, work: Work) -> None:
        import vllm

        self._params = vllm.SamplingParams
        self._llm = vllm.LLM(
            model=str(model),
            max_model_len=work.prompt_len + work.gen_len + len(PROMPT),
            max_num_seqs=work.batch,
            max_num_batched_tokens=MAX_BATCHED_TOKENS,
            enable_prefix_caching=False,
        )
        self._vocab_size = self._llm.get_tokenizer().vocab_size

    def generate(self, inputs: list[object], gen_len: int) -> None:
        params = self._params(temperature=0.0, max_tokens=gen_len, ignore_eos=True)
        for output in self._llm.generate(inputs, params, use_tqdm=False):
            if len(output.outputs[0].token_ids) != gen_len:
                raise RuntimeError(f"{len(output.outputs[0].token_ids)} tokens came where {gen_len} were asked for")

    def seconds(self, work: Work, gen_len: int) -> float:
        """For all sequences together."""
        inputs: list[object] = [{"prompt_token_ids": ids} for ids in prompts(work, self._vocab_size)]
        begin = time.perf_counter()
        self.generate(inputs, gen_len)
        return time.perf_counter() - begin
