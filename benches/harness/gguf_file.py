"""Writes a random-weight model as GGUF, in bf16 or in MXFP4, which llama.cpp makes of mixtures of experts alone."""

import zlib
from pathlib import Path

import gguf
import numpy as np
from gguf import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from harness import vocabulary
from harness.shapes import Shape
from harness.tensors import Tensor, interleave_heads, tensors

MXFP4_BLOCK, MXFP4_BYTES = 32, 17
"""Numbers of a block, and bytes: the exponent of its scale, then four bits a number."""


def write(shape: Shape, path: Path, kind: Kind = Kind.BF16) -> None:
    writer = gguf.GGUFWriter(path, shape.model_type)
    _describe(writer, shape, path.stem)
    _add_vocabulary(writer, shape.vocab_size)
    for tensor in tensors(shape):
        own = _kind(tensor, kind)
        block, size = gguf.GGML_QUANT_SIZES[own]
        num_numbers = tensor.num_bytes() // 2
        dtype = np.dtype(np.float32 if own is Kind.F32 else np.uint16)
        writer.add_tensor_info(tensor.gguf_name, tensor.shape, dtype, num_numbers // block * size, raw_dtype=own)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for tensor in tensors(shape):
        writer.write_tensor_data(_content(tensor, _kind(tensor, kind)))
    writer.close()


def _kind(tensor: Tensor, kind: Kind) -> Kind:
    """A norm has float32. The embedding table, which is the head too, has eight bits beside four."""
    if len(tensor.shape) == 1:
        return Kind.F32
    return Kind.Q8_0 if kind is Kind.MXFP4 and tensor.gguf_name == "token_embd.weight" else kind


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


def _content(tensor: Tensor, kind: Kind) -> NDArray[np.generic]:
    if kind is Kind.F32:
        return tensor.values()
    if kind is Kind.Q8_0:
        rounded: NDArray[np.generic] = gguf.quants.quantize(tensor.values(), kind)
        return rounded
    if kind is Kind.MXFP4:
        return _random_codes(tensor)
    return interleave_heads(tensor.bits(), tensor.rotated_heads) if tensor.rotated_heads else tensor.bits()


def _random_codes(tensor: Tensor) -> NDArray[np.generic]:
    """Blocks of equally likely codes, spread as the tensor's numbers are."""
    rows, cols = tensor.shape
    random = np.random.default_rng(zlib.crc32(tensor.gguf_name.encode()))
    blocks = random.integers(0, 256, (rows, cols // MXFP4_BLOCK, MXFP4_BYTES), dtype=np.uint8)
    # The spread of equally likely codes is 5.9, and an exponent of 128 is a scale of one.
    blocks[..., 0] = round(128 + np.log2(tensor.std / 5.9))
    return blocks.reshape(rows, -1)
