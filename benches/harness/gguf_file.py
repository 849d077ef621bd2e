"""Writes a random-weight model as GGUF in bf16."""

from pathlib import Path

import gguf
import numpy as np

from harness import vocabulary
from harness.shapes import Shape
from harness.tensors import Tensor, interleave_heads, tensors


def write(shape: Shape, path: Path) -> None:
    writer = gguf.GGUFWriter(path, shape.model_type)
    _describe(writer, shape, path.stem)
    _add_vocabulary(writer, shape.vocab_size)
    for tensor in tensors(shape):
        is_norm = len(tensor.shape) == 1
        kind = gguf.GGMLQuantizationType.F32 if is_norm else gguf.GGMLQuantizationType.BF16
        dtype, size = (np.float32, 4) if is_norm else (np.uint16, 2)
        num_bytes = tensor.num_bytes() // 2 * size
        writer.add_tensor_info(tensor.gguf_name, tensor.shape, np.dtype(dtype), num_bytes, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors(shape):
        writer.write_tensor_data(_content(tensor))
    writer.close()


def _describe(writer: gguf.GGUFWriter, shape: Shape, name: str) -> None:
    writer.add_name(name)
    writer.add_context_length(shape.max_position)
    writer.add_embedding_length(shape.hidden_size)
    writer.add_block_count(shape.num_layers)
    writer.add_feed_forward_length(shape.intermediate_size)
    writer.add_head_count(shape.num_heads)
    writer.add_head_count_kv(shape.num_kv_heads)
    writer.add_key_length(shape.head_dim)
    writer.add_value_length(shape.head_dim)
    writer.add_rope_dimension_count(shape.head_dim)
    writer.add_rope_freq_base(shape.rope_theta)
    writer.add_layer_norm_rms_eps(shape.norm_eps)
    writer.add_vocab_size(shape.vocab_size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)


def _add_vocabulary(writer: gguf.GGUFWriter, size: int) -> None:
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(vocabulary.tokens(size))
    writer.add_token_types(vocabulary.token_types(size))
    writer.add_token_merges([f"{a} {b}" for a, b in vocabulary.merges()])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.add_add_bos_token(False)


def _content(tensor: Tensor) -> "np.ndarray[tuple[int, ...], np.dtype[np.generic]]":
    if len(tensor.shape) == 1:
        return tensor.values()
    return interleave_heads(tensor.bits(), tensor.rotated_heads) if tensor.rotated_heads else tensor.bits()
