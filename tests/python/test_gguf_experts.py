"""Mixtures of experts in GGUF files that the `gguf` package writes, as llama.cpp understands them."""

import ctypes
import json
from pathlib import Path

import numpy as np
import pytest

import ferrule
from ferrule import Engine

gguf = pytest.importorskip("gguf", reason="gguf is not installed: make clients")

GOLDEN = Path(__file__).parent.parent / "golden" / "models"
MODELS = {"mixtral": "llama", "qwen3-moe": "qwen3moe"}
# Of a layer: the name in the folder, and in GGUF files.
NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "block_sparse_moe.gate": "ffn_gate_inp",
    "mlp.gate": "ffn_gate_inp",
}
PARTS = {
    "w1": "ffn_gate_exps",
    "w3": "ffn_up_exps",
    "w2": "ffn_down_exps",
    "gate_proj": "ffn_gate_exps",
    "up_proj": "ffn_up_exps",
    "down_proj": "ffn_down_exps",
}


def tensors(folder):
    """A folder's tensors, of bf16."""
    data = (folder / "model.safetensors").read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__", None)
    for name, entry in header.items():
        first, end = entry["data_offsets"]
        bits = np.frombuffer(data[start + first : start + end], np.uint16).astype(np.uint32) << 16
        yield name, bits.view(np.float32).reshape(entry["shape"])


def interleaved(weight, num_heads):
    """Rows i and i + head_dim / 2 of each head become neighbours, as llama's files have them."""
    return weight.reshape(num_heads, 2, -1, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)


def gguf_tensors(folder, config, arch):
    """Matrices of all experts of a layer as one tensor."""
    ends = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    experts = {}
    for name, weight in tensors(folder):
        stem = name.removesuffix(".weight")
        if stem in ends:
            yield f"{ends[stem]}.weight", weight
            continue
        layer, stem = stem.removeprefix("model.layers.").split(".", 1)
        if ".experts." in stem:
            expert, part = stem.split(".experts.")[1].split(".")
            experts.setdefault(f"blk.{layer}.{PARTS[part]}.weight", {})[int(expert)] = weight
            continue
        if arch == "llama" and stem.endswith(("q_proj", "k_proj")):
            heads = config["num_attention_heads" if stem.endswith("q_proj") else "num_key_value_heads"]
            weight = interleaved(weight, heads)
        yield f"blk.{layer}.{NAMES[stem]}.weight", weight
    for name, parts in experts.items():
        yield name, np.stack([parts[expert] for expert in range(len(parts))])


@pytest.fixture(scope="module", params=MODELS)
def file(request, tmp_path_factory):
    """The folder's name, the file, and the folder's configuration."""
    folder, arch = GOLDEN / request.param, MODELS[request.param]
    path, config = tmp_path_factory.mktemp("made") / "model.gguf", json.loads((folder / "config.json").read_text())
    writer = gguf.GGUFWriter(path, arch)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_expert_count(config.get("num_local_experts") or config["num_experts"])
    writer.add_expert_used_count(config["num_experts_per_tok"])
    if arch == "qwen3moe":
        writer.add_expert_feed_forward_length(config["moe_intermediate_size"])
    if head_dim := config.get("head_dim"):
        writer.add_key_length(head_dim)
        writer.add_value_length(head_dim)
        writer.add_rope_dimension_count(head_dim)
    else:
        writer.add_rope_dimension_count(config["hidden_size"] // config["num_attention_heads"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([*(f"<{token}>" for token in range(config["vocab_size"] - 1)), "<0><1>"])
    writer.add_token_types([1] * config["vocab_size"])
    writer.add_token_merges(["<0> <1>"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    for name, weight in gguf_tensors(folder, config, arch):
        writer.add_tensor(name, np.ascontiguousarray(weight))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return request.param, path, config


def scores(path, tokens, **settings):
    with Engine(path, activations="f32", kv_cache_memory="8MiB", packed_weights=None, **settings) as engine:
        return np.array([entry.logprob for entry in engine.score(tokens)])


def expected(name):
    """Tokens, and positions with the logits that Transformers computed of them."""
    golden = json.loads((GOLDEN / name / "expected.json").read_text())
    return golden["input_ids"], golden["positions"], np.array(golden["logits"])


def log_softmax(logits):
    shifted = logits - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def test_scores_are_those_of_the_folder(file):
    name, path, _ = file
    tokens = expected(name)[0]
    np.testing.assert_allclose(scores(path, tokens), scores(GOLDEN / name, tokens), atol=1e-4)


@pytest.fixture(scope="module")
def llama_cpp():
    return pytest.importorskip("llama_cpp", reason="pip install 'ferrule[peers]' compiles llama.cpp")


def scores_of_llama_cpp(llama_cpp, path, tokens, vocab_size):
    """Log-probabilities, (positions, vocab_size)."""
    llama = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, logits_all=True, verbose=False)
    llama.eval(tokens)
    found = log_softmax(llama.scores[: len(tokens), :vocab_size].astype(np.float64))
    llama.close()
    return found


def test_logits_are_those_of_llama_cpp(file, llama_cpp):
    name, path, config = file
    tokens, positions, logits = expected(name)
    theirs = scores_of_llama_cpp(llama_cpp, path, tokens, config["vocab_size"])
    # It is the model that Transformers computed, up to what llama.cpp rounds: its cache has float16 numbers.
    np.testing.assert_allclose(theirs[positions], log_softmax(logits), atol=0.02)
    np.testing.assert_allclose(scores(path, tokens), theirs[np.arange(len(tokens) - 1), tokens[1:]], atol=0.02)


def types(path):
    return {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(path).tensors}


def test_quantized_files_are_what_llama_cpp_makes_and_reads(file, llama_cpp, tmp_path):
    """Routers stay, and experts have the types of what they stand for."""
    name, path, config = file
    ours, theirs = tmp_path / "ours.gguf", tmp_path / "theirs.gguf"
    ferrule.quantize(path, ours, scheme="q4_k_m", calibration_tokens=512)
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = 15, 1
    assert llama_cpp.llama_model_quantize(bytes(path), bytes(theirs), ctypes.byref(params)) == 0
    assert types(ours) == types(theirs)
    assert types(ours)["blk.0.ffn_gate_inp.weight"] == "F32"
    tokens = expected(name)[0]
    read = scores_of_llama_cpp(llama_cpp, ours, tokens, config["vocab_size"])[np.arange(len(tokens) - 1), tokens[1:]]
    found, whole = scores(ours, tokens), scores(path, tokens)
    # llama.cpp rounds activations to 8 bits, and experts that are all but equally good change places by that.
    assert np.median(np.abs(found - read)) < 0.05
    assert np.std(found - whole) < 0.5
