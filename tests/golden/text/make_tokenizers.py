"""Writes tokenizers.json: small vocabularies, and what their authors' own libraries make of texts.

Needs `sentencepiece` and `tokenizers`. The vocabularies are trained here, on the few lines below.
"""

import io
import json
import pathlib
import random

import sentencepiece
import tokenizers
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

CORPUS = """The quick brown fox jumps over the lazy dog, and the dog doesn't mind; it's asleep.
In 1969, 3 people flew to the moon; 12345 others watched. It cost $25.4 billion (or so they say).
def main(argv):\n    for index, value in enumerate(argv):\n        print(f"{index}: {value}")\n    return 0
Ceci n'est pas une pipe. Où est la bibliothèque? L'été dernier, j'ai mangé des crêpes à Besançon.
Der Fluß fließt über die Brücke. Größe, Übermut und Äpfel sind schön.
Съешь же ещё этих мягких французских булок, да выпей чаю.
我能吞下玻璃而不伤身体。日本語のテキストと、カタカナ。한국어 문장도 있습니다.
I'LL SAY IT: HTTPServer and camelCase and snake_case_names are WORDS, aren't they?
the theme then there these those their them thesis other another mother brother
""".splitlines()

TEXTS = [
    "",
    " ",
    "  ",
    "Hello, world!",
    " leading and trailing ",
    "the other brother doesn't say I'LL",
    "line\nline\n\n\nline\r\n  indented\n\ttabbed\n\n",
    "    return  0   ;  ",
    "12345 and 1,234.56 and ４２ and Ⅷ and ½",
    "Où est la bibliothèque, Größe?",
    "cafe\u0301 e\u0301te\u0301 (combining)",
    "我能吞下玻璃而不伤身体。日本語 カタカナ 한국어",
    "Съешь же ещё этих булок",
    "🦀🦀 👩‍👩‍👧 unseen ✓ ∀x∈ℝ",
    "HTTPServer camelCase snake_case_names WORDS aren't 'S 'll 'RE",
    "a" * 40,
    '!!!??? ... --- === <<>> ``` "quoted" (x)[y]{z}',
    "a▁b ▁▁ c",
    "<s>hi</s> <0x41> <unk>",
    "<|im_start|>user\nhi<|im_end|>\n",
    "tabs\t\tand\u00a0nbsp\u3000wide\u200bzero",
    "<b>bold</b> [sep] x",
    "The quick brown fox jumps over the lazy dog, and it's asleep. " * 3,
]

random.seed(7)
TEXTS += ["".join(random.choices("the quick'S 12 é中🦀\n\t <s>▁.,A", k=30)) for _ in range(20)]


def sentence_piece(name, byte_fallback, dummy_prefix, user_defined):
    """A SentencePiece vocabulary as a GGUF file carries it, and what the library makes of the texts."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CORPUS * 3),
        model_writer=model,
        model_type="bpe",
        vocab_size=600,
        byte_fallback=byte_fallback,
        add_dummy_prefix=dummy_prefix,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        allow_whitespace_only_pieces=True,
        split_digits=True,
        user_defined_symbols=user_defined,
        character_coverage=0.98,
        minloglevel=2,
    )
    proto = pb.ModelProto.FromString(model.getvalue())
    # Unused pieces are merged through, and split again: some from the middle of the vocabulary.
    normal = [p for p in proto.pieces if p.type == 1 and len(p.piece) > 3]
    for piece in normal[5::17]:
        piece.type = 5
    library = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
    # The library cuts user-defined symbols out of texts, and never control tokens.
    cases = [{"text": text, "ids": library.encode(text)} for text in TEXTS]
    for case in cases:
        case["decoded"] = library.decode(case["ids"])
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": [p.piece for p in proto.pieces],
        "tokenizer.ggml.scores": [p.score for p in proto.pieces],
        "tokenizer.ggml.token_type": [p.type for p in proto.pieces],
        "tokenizer.ggml.bos_token_id": library.bos_id(),
        "tokenizer.ggml.eos_token_id": library.eos_id(),
        "tokenizer.ggml.unknown_token_id": library.unk_id(),
        "tokenizer.ggml.add_space_prefix": dummy_prefix,
    }
    return {"name": name, "metadata": metadata, "cases": cases}


def split(pattern):
    return pre_tokenizers.Split(Regex(pattern), "isolated")


def byte_level(use_regex=False):
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


ENDINGS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LETTERS = r"\p{Lm}\p{Lo}\p{M}"
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}{LETTERS}]*[\p{{Ll}}{LETTERS}]+|"
    rf"[^\r\n\p{{L}}\p{{N}}]?[\p{{Lu}}\p{{Lt}}{LETTERS}]+[\p{{Ll}}{LETTERS}]*|"
    r"\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)

# As the models' tokenizer.json files have them: (normalizer, pre-tokenizers, ignore_merges).
KINDS = {
    "gpt-2": (None, [byte_level(use_regex=True)], False),
    "smollm": (None, [pre_tokenizers.Digits(individual_digits=True), byte_level(use_regex=True)], False),
    "starcoder": (None, [pre_tokenizers.Digits(individual_digits=True), byte_level(use_regex=True)], False),
    "olmo": (normalizers.NFC(), [byte_level(use_regex=True)], False),
    "llama-bpe": (
        None,
        [split(rf"{ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{{1,3}}|{REST}"), byte_level()],
        True,
    ),
    "qwen2": (
        normalizers.NFC(),
        [split(rf"{ENDINGS}|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}|{REST}"), byte_level()],
        False,
    ),
    "tekken": (None, [split(TEKKEN), byte_level()], True),
    "deepseek-coder": (
        None,
        [
            split("[\r\n]"),
            split(r"\s?\p{L}+"),
            split(r"\s?\p{P}+"),
            split("[一-龥ࠀ-一가-퟿]+"),
            pre_tokenizers.Digits(individual_digits=True),
            byte_level(),
        ],
        False,
    ),
}

SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<s>", "</s>"]


def trained():
    """One byte-level vocabulary for all kinds."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = byte_level(use_regex=True)
    trainer = trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    return json.loads(tokenizer.to_str())["model"]


def build(model, normalizer, steps, ignore_merges):
    merges = [tuple(m) for m in model["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=model["vocab"], merges=merges, ignore_merges=ignore_merges))
    if normalizer:
        tokenizer.normalizer = normalizer
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, normalized=False) for t in SPECIAL])
    tokenizer.add_tokens([AddedToken("<b>", normalized=False)])
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(t, tokenizer.token_to_id(t)) for t in ("<s>", "</s>")]
    )
    return tokenizer


def encodings(tokenizer):
    """Ids with special tokens recognised, and with them as text."""
    cases = []
    for text in TEXTS:
        tokenizer.encode_special_tokens = False
        parsed = tokenizer.encode(text, add_special_tokens=False).ids
        around = tokenizer.encode(text).ids
        tokenizer.encode_special_tokens = True
        plain = tokenizer.encode(text, add_special_tokens=False).ids
        shown = tokenizer.decode(parsed, skip_special_tokens=False)
        decoded = tokenizer.decode(parsed)
        cases.append(
            {"text": text, "ids": plain, "parsed": parsed, "around": around, "decoded": decoded, "shown": shown}
        )
    return cases


def byte_level_kinds():
    model = trained()
    kinds = [
        {"pre": name, "cases": encodings(build(model, normalizer, steps, ignore_merges))}
        for name, (normalizer, steps, ignore_merges) in KINDS.items()
    ]
    folder = build(model, *KINDS["qwen2"])
    tokens = sorted(folder.get_vocab(), key=folder.get_vocab().get)
    metadata = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3 if t in SPECIAL else 4 if t == "<b>" else 1 for t in tokens],
        "tokenizer.ggml.merges": [" ".join(m) for m in model["merges"]],
        "tokenizer.ggml.bos_token_id": tokens.index("<s>"),
        "tokenizer.ggml.eos_token_id": tokens.index("</s>"),
        "tokenizer.ggml.add_bos_token": True,
        "tokenizer.ggml.add_eos_token": True,
    }
    return {"metadata": metadata, "kinds": kinds, "tokenizer_json": json.loads(folder.to_str()), "folder_kind": "qwen2"}


def main():
    out = {
        "made_with": {"sentencepiece": sentencepiece.__version__, "tokenizers": tokenizers.__version__},
        "sentence_piece": [
            sentence_piece("llama", True, True, ["<b>", "[sep]"]),
            sentence_piece("gemma", True, False, ["▁▁", "▁▁▁", "\n", "\n\n"]),
            sentence_piece("no_bytes", False, True, []),
        ],
        "byte_level": byte_level_kinds(),
    }
    path = pathlib.Path(__file__).with_name("tokenizers.json")
    path.write_text(json.dumps(out, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
