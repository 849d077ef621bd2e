"""Writes a random-weight model as a Hugging Face folder: config.json, tokenizer.json, safetensors in bf16."""

import json
from collections.abc import Iterator
from pathlib import Path

from harness import vocabulary
from harness.shapes import Shape
from harness.tensors import Tensor, tensors

SHARD_BYTES = 1 << 30


def write(shape: Shape, folder: Path, shard_bytes: int = SHARD_BYTES) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "config.json", config(shape))
    _write_json(folder / "tokenizer.json", vocabulary.hf_tokenizer(shape.vocab_size))
    _write_json(folder / "tokenizer_config.json", _tokenizer_config(shape))
    shards = list(_shards(shape, shard_bytes))
    if len(shards) == 1:
        write_safetensors(folder / "model.safetensors", shards[0])
        return
    names = [f"model-{i:05}-of-{len(shards):05}.safetensors" for i in range(1, len(shards) + 1)]
    for name, shard in zip(names, shards, strict=True):
        write_safetensors(folder / name, shard)
    weight_map = {tensor.hf_name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
    total = sum(tensor.num_bytes() for shard in shards for tensor in shard)
    _write_json(folder / "model.safetensors.index.json", {"metadata": {"total_size": total}, "weight_map": weight_map})


def config(shape: Shape) -> dict[str, object]:
    architecture = {"llama": "LlamaForCausalLM", "qwen3": "Qwen3ForCausalLM"}[shape.model_type]
    return {
        "architectures": [architecture],
        "model_type": shape.model_type,
        "hidden_size": shape.hidden_size,
        "num_hidden_layers": shape.num_layers,
        "num_attention_heads": shape.num_heads,
        "num_key_value_heads": shape.num_kv_heads,
        "head_dim": shape.head_dim,
        "intermediate_size": shape.intermediate_size,
        "vocab_size": shape.vocab_size,
        "max_position_embeddings": shape.max_position,
        "rope_theta": shape.rope_theta,
        "rms_norm_eps": shape.norm_eps,
        "hidden_act": "silu",
        "attention_bias": False,
        "tie_word_embeddings": True,
        "torch_dtype": "bfloat16",
        "bos_token_id": 0,
        "eos_token_id": 0,
    }


def write_safetensors(path: Path, shard: list[Tensor]) -> None:
    """https://huggingface.co/docs/safetensors: header length, header, then the tensors one after another."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for tensor in shard:
        begin, end = end, end + tensor.num_bytes()
        header[tensor.hf_name] = {"dtype": "BF16", "shape": tensor.shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for tensor in shard:
            tensor.bits().tofile(file)


def _shards(shape: Shape, shard_bytes: int) -> Iterator[list[Tensor]]:
    """Consecutive tensors, as many as fit."""
    shard: list[Tensor] = []
    size = 0
    for tensor in tensors(shape):
        if shard and size + tensor.num_bytes() > shard_bytes:
            yield shard
            shard, size = [], 0
        shard.append(tensor)
        size += tensor.num_bytes()
    yield shard


def _tokenizer_config(shape: Shape) -> dict[str, object]:
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": vocabulary.END_OF_TEXT,
        "eos_token": vocabulary.END_OF_TEXT,
        "model_max_length": shape.max_position,
    }


def _write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
