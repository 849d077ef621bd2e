"""Quantized models, from Python."""

import json
from os import PathLike
from typing import Any

from ferrule import _core


def quantize(
    source: str | PathLike[str],
    target: str | PathLike[str],
    *,
    scheme: str,
    group_size: int | None = None,
    calibration: str | PathLike[str] | None = None,
    calibration_tokens: int | None = None,
    evaluation: str | PathLike[str] | None = None,
    threads: int | None = None,
) -> dict[str, Any]:
    """Make a quantized model, and return its certificate of quality.

    `source` is a `.gguf` file, a Hugging Face folder or a name such as "smollm2". `target` is the folder to make, which
    Transformers and Ferrule load, or a `.gguf` file, which llama.cpp and Ferrule load. Schemes of folders:
    "int4-gptq" (GPTQ), "int4-awq" (AWQ), "int8" (weights alone), "int8-w8a8" (SmoothQuant, for int8 activations) and
    "int4" (rounded to the nearest). Schemes of `.gguf` files: "q4_0", "q4_k_m", "q5_k_m", "q6_k" and "q8_0".

    `group_size` columns share a scale: 32, 64 or 128, by default the largest that fits the model. `calibration` is a
    text file of which up to `calibration_tokens` are used; without one, the model writes the text itself. The result is
    measured on the text file `evaluation`, or on a part of the calibration text that was kept apart.

    Finished layers stay in `target`.partial, so that the same call goes on where another one was interrupted.

    The certificate has `version`, `scheme`, `group_size`, `source`, `source_bytes`, `bytes`, `calibration` (`name` and
    `tokens`) and `quality`: `text`, `window`, `source_perplexity`, `perplexity`, `mean_kl` (in nats) and `same_top`
    (the share of tokens before which source and result find the same one likeliest). It is in the file's metadata too.

    Raises `InvalidConfig` for a scheme or group size that does not exist or does not fit, and if `target` is there
    already or its name does not go with the scheme; `InvalidRequest` for a text that is too short; and what loading a
    model raises.
    """
    settings = {
        "scheme": scheme,
        "group_size": group_size,
        "calibration": calibration,
        "calibration_tokens": calibration_tokens,
        "evaluation": evaluation,
        "threads": threads,
    }
    certificate: dict[str, Any] = json.loads(_core.quantize(source, target, settings))
    return certificate
