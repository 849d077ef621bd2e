"""Writes real_models.json: what SentencePiece and `tokenizers` make of texts with the default models' vocabularies.

    make_real_models.py FOLDER      (that has smollm2.gguf and gemma3.gguf)

Needs `gguf`, `sentencepiece` and `tokenizers`.
"""

import json
import pathlib
import sys

import gguf
import sentencepiece
from make_tokenizers import CORPUS, KINDS, TEXTS
from sentencepiece import sentencepiece_model_pb2 as pb
from tokenizers import AddedToken, Tokenizer, models, pre_tokenizers


def vocabulary(path):
    fields = gguf.GGUFReader(path).fields
    prefix = "tokenizer.ggml."
    return {key[len(prefix) :]: field.contents() for key, field in fields.items() if key.startswith(prefix)}


def gemma(vocab):
    """The library itself, on the vocabulary that the file carries."""
    proto = pb.ModelProto()
    for piece, score, kind in zip(vocab["tokens"], vocab["scores"], vocab["token_type"]):
        proto.pieces.add(piece=piece.replace(" ", "▁"), score=score, type=2 if piece == "<unk>" else kind)
    proto.trainer_spec.model_type = pb.TrainerSpec.BPE
    proto.trainer_spec.byte_fallback = True
    proto.normalizer_spec.name = "identity"
    proto.normalizer_spec.add_dummy_prefix = False
    proto.normalizer_spec.remove_extra_whitespaces = False
    return sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString()).encode


def smollm(vocab):
    ids = {token: at for at, token in enumerate(vocab["tokens"])}
    merges = [tuple(merge.split(" ")) for merge in vocab["merges"]]
    tokenizer = Tokenizer(models.BPE(vocab=ids, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(KINDS["smollm"][1])
    special = [token for token, kind in zip(vocab["tokens"], vocab["token_type"]) if kind == 3]
    tokenizer.add_special_tokens([AddedToken(token, normalized=False) for token in special])
    tokenizer.encode_special_tokens = True
    return lambda text: tokenizer.encode(text, add_special_tokens=False).ids


def main():
    folder = pathlib.Path(sys.argv[1])
    texts = TEXTS + CORPUS + ["\n".join(CORPUS), pathlib.Path(__file__).read_text()]
    encoders = {"smollm2": smollm, "gemma3": gemma}
    out = {}
    for name, make in encoders.items():
        encode = make(vocabulary(folder / f"{name}.gguf"))
        out[name] = [{"text": text, "ids": encode(text)} for text in texts]
    path = pathlib.Path(__file__).with_name("real_models.json")
    path.write_text(json.dumps(out, ensure_ascii=False, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
