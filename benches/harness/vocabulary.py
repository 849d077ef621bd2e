"""A plain byte-level BPE vocabulary of any size, for models that have no text to learn."""

import itertools
import string
from collections.abc import Iterator

END_OF_TEXT = "<|endoftext|>"
CONTROL, NORMAL, UNUSED = 3, 1, 5
"""Token types of the GGUF format."""


def byte_symbols() -> list[str]:
    """The character that stands for each byte: itself if printable, otherwise one from U+0100 on (GPT-2)."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = itertools.count(0x100)
    return [chr(byte if byte in printable else next(others)) for byte in range(256)]


def merges() -> list[tuple[str, str]]:
    """Pairs of lower-case letters."""
    return list(itertools.product(string.ascii_lowercase, string.ascii_lowercase))


def tokens(size: int) -> list[str]:
    """End-of-text, bytes, pairs of letters, and fillers that no text contains."""
    known = [END_OF_TEXT, *byte_symbols(), *("".join(pair) for pair in merges())]
    if size < len(known):
        raise ValueError(f"a vocabulary of {size} tokens is too small: the least is {len(known)}")
    return known + list(_fillers(size - len(known)))


def token_types(size: int) -> list[int]:
    num_known = 1 + 256 + len(merges())
    return [CONTROL] + [NORMAL] * (num_known - 1) + [UNUSED] * (size - num_known)


def hf_tokenizer(size: int) -> dict[str, object]:
    """The content of tokenizer.json."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    special = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": 0, "content": END_OF_TEXT, **special}],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": None,
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: i for i, token in enumerate(tokens(size))},
            "merges": [f"{a} {b}" for a, b in merges()],
        },
    }


def _fillers(count: int) -> Iterator[str]:
    return (f"<filler {i}>".replace(" ", "\u0120") for i in range(count))
