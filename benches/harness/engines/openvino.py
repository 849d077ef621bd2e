"""OpenVINO GenAI with continuous batching, on GGUF files."""

import time
from pathlib import Path

import numpy as np
import openvino
import openvino_genai

from harness.memory import resident_growth_mib
from harness.work import PROMPT, Work, prompts

MAX_BATCHED_TOKENS = 512
KV_CACHE_GB = 2
VOCAB_SIZE = 32_768
"""Prompts stay below every model's vocabulary, whose size the pipeline does not tell."""


def measure(model: Path, work: Work, threads: int) -> float:
    growth = resident_growth_mib()
    begin = time.perf_counter()
    pipeline = _open(model, threads)
    if work.metric == "start":
        pipeline.generate([PROMPT], [_greedy(1)])
        return (time.perf_counter() - begin) * 1e3
    _seconds(pipeline, work, gen_len=2)
    prefill = _seconds(pipeline, work, gen_len=1)
    match work.metric:
        case "prefill":
            return work.batch * work.prompt_len / prefill
        case "decode":
            return work.batch * (work.gen_len - 1) / (_seconds(pipeline, work, work.gen_len) - prefill)
        case _:
            _seconds(pipeline, work, work.gen_len)
            return growth()


def _open(model: Path, threads: int) -> openvino_genai.ContinuousBatchingPipeline:
    scheduler = openvino_genai.SchedulerConfig()
    scheduler.max_num_batched_tokens = MAX_BATCHED_TOKENS
    scheduler.dynamic_split_fuse = True
    scheduler.enable_prefix_caching = False
    scheduler.cache_size = KV_CACHE_GB
    properties = {"INFERENCE_NUM_THREADS": threads}
    return openvino_genai.ContinuousBatchingPipeline(str(model), scheduler, "CPU", properties)


def _greedy(gen_len: int) -> openvino_genai.GenerationConfig:
    return openvino_genai.GenerationConfig(max_new_tokens=gen_len, ignore_eos=True, do_sample=False)


def _seconds(pipeline: openvino_genai.ContinuousBatchingPipeline, work: Work, gen_len: int) -> float:
    """For all sequences together."""
    inputs = [openvino.Tensor(np.array([ids], dtype=np.int64)) for ids in prompts(work, VOCAB_SIZE)]
    begin = time.perf_counter()
    pipeline.generate(inputs, [_greedy(gen_len)] * work.batch)
    return time.perf_counter() - begin
