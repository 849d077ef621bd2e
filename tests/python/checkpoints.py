"""Files of tiny checkpoints."""

import json
import struct

# Safetensors' names of NumPy's types.
TYPES = {"float32": "F32", "float16": "F16", "int32": "I32", "uint8": "F8_E4M3"}


def write_safetensors(path, tensors):
    """The format's own words: 8 bytes of header length, a JSON header, the bytes."""
    header, offset = {}, 0
    for name, tensor in tensors.items():
        header[name] = {
            "dtype": TYPES[tensor.dtype.name],
            "shape": tensor.shape,
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + b"".join(t.tobytes() for t in tensors.values()))


def write_tokenizer(path, vocab_size):
    """Byte-level BPE without merges: a printable character for each token."""
    special = ["<unk>", "<s>", "</s>"]
    characters = [chr(ord("!") + i) for i in range(vocab_size - len(special))]
    vocab = {piece: i for i, piece in enumerate(special + characters)}
    added = [
        {
            "id": i,
            "content": word,
            "special": True,
            "single_word": False,
            "lstrip": False,
            "rstrip": False,
            "normalized": False,
        }
        for i, word in enumerate(special)
    ]
    model = {"type": "BPE", "vocab": vocab, "merges": []}
    tokenizer = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": model,
    }
    path.write_text(json.dumps(tokenizer))
