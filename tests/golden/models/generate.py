"""Makes the tiny random checkpoints of this folder, and the logits that Transformers computes for them in float32.

    pip install torch transformers safetensors
    python tests/golden/models/generate.py [NAME ...]

Each folder has config.json, the weights, and expected.json: input_ids, positions, and the logits of those positions.
"""

import json
import math
import shutil
import sys
from pathlib import Path

import torch
import transformers

HERE = Path(__file__).parent
NUM_TOKENS = 40
POSITIONS = [0, 1, 9, 20, 33, 39]
COMMON = dict(
    vocab_size=128,
    hidden_size=64,
    intermediate_size=96,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=256,
    bos_token_id=None,
    eos_token_id=None,
    pad_token_id=None,
)
YARN = dict(rope_type="yarn", factor=4.0, original_max_position_embeddings=64, rope_theta=1e4)
LONGROPE = dict(
    rope_type="longrope",
    rope_theta=1e4,
    short_factor=[1.0 + 0.05 * i for i in range(8)],
    long_factor=[1.5 + 0.7 * i for i in range(8)],
)
LLAMA3 = dict(
    rope_type="llama3",
    rope_theta=5e5,
    factor=8.0,
    low_freq_factor=1.0,
    high_freq_factor=4.0,
    original_max_position_embeddings=32,
)
GEMMA3_ROPES = dict(
    full_attention=dict(rope_type="linear", factor=4.0, rope_theta=1e6),
    sliding_attention=dict(rope_type="default", rope_theta=1e4),
)

# Name, Transformers configuration, its fields.
MODELS = [
    ("llama3", "LlamaConfig", dict(rope_parameters=LLAMA3, tie_word_embeddings=True)),
    ("llama-sharded", "LlamaConfig", dict(rope_parameters=dict(rope_type="linear", factor=2.0, rope_theta=1e4))),
    ("mistral", "MistralConfig", dict(sliding_window=8)),
    ("phi3", "Phi3Config", dict(rope_parameters=dict(rope_theta=1e4, partial_rotary_factor=0.5), sliding_window=12)),
    ("phi3-longrope", "Phi3Config", dict(rope_parameters=LONGROPE, original_max_position_embeddings=32)),
    ("qwen2", "Qwen2Config", dict(rope_parameters=dict(rope_theta=1e6), tie_word_embeddings=True)),
    ("qwen3", "Qwen3Config", dict(head_dim=32)),
    ("qwen3-yarn", "Qwen3Config", dict(head_dim=32, rope_parameters=YARN)),
    (
        "gemma2",
        "Gemma2Config",
        dict(
            num_hidden_layers=3,
            head_dim=32,
            sliding_window=8,
            query_pre_attn_scalar=24,
            attn_logit_softcapping=3.0,
            final_logit_softcapping=10.0,
        ),
    ),
    (
        "gemma3",
        "Gemma3TextConfig",
        dict(
            num_hidden_layers=4,
            head_dim=32,
            sliding_window=8,
            query_pre_attn_scalar=24,
            layer_types=["sliding_attention", "sliding_attention", "full_attention", "sliding_attention"],
            rope_parameters=GEMMA3_ROPES,
        ),
    ),
    ("mixtral", "MixtralConfig", dict(num_local_experts=4, num_experts_per_tok=2, sliding_window=None)),
    (
        "qwen3-moe",
        "Qwen3MoeConfig",
        dict(head_dim=32, num_experts=6, num_experts_per_tok=3, moe_intermediate_size=32, norm_topk_prob=True),
    ),
]

# Saved in float32; the others hold bf16, to which their weights are rounded before anything is computed.
FLOAT32 = {"llama3"}


def randomize(model: torch.nn.Module, keep_float32: bool) -> None:
    """Weights large enough that a mistake anywhere shows in the logits."""
    is_gemma = model.config.model_type.startswith("gemma")
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape)
        if "norm" in name:
            value = 0.2 * noise + (0.0 if is_gemma else 1.0)
        elif name.endswith("bias"):
            value = 0.3 * noise
        elif "embed" in name:
            value = (0.1 if is_gemma else 0.5) * noise
        else:
            value = 1.3 / math.sqrt(weight.shape[1]) * noise
        weight.data.copy_(value if keep_float32 else value.bfloat16().float())


def older_style(config: dict) -> dict:
    """The same configuration as Transformers 4 wrote it."""
    rope = config.pop("rope_parameters")
    theta = rope.pop("rope_theta")
    config.pop("dtype", None)
    return config | {"rope_theta": theta, "rope_scaling": rope, "torch_dtype": "bfloat16"}


def save(name: str, model: torch.nn.Module) -> None:
    folder = HERE / name
    shutil.rmtree(folder, ignore_errors=True)
    dtype = torch.float32 if name in FLOAT32 else torch.bfloat16
    shard_size = "100KB" if name == "llama-sharded" else "1GB"
    model.to(dtype).save_pretrained(folder, max_shard_size=shard_size)
    model.float()
    (folder / "generation_config.json").unlink(missing_ok=True)
    if name == "llama-sharded":
        path = folder / "config.json"
        path.write_text(json.dumps(older_style(json.loads(path.read_text())), indent=2) + "\n")


@torch.no_grad()
def main() -> None:
    for seed, (name, kind, fields) in enumerate(MODELS):
        if sys.argv[1:] and name not in sys.argv[1:]:
            continue
        torch.manual_seed(seed)
        config = getattr(transformers, kind)(**(COMMON | fields), attn_implementation="eager")
        model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager").float().eval()
        randomize(model, name in FLOAT32)
        model.tie_weights()
        save(name, model)
        # What is compared is what a reader of the folder gets.
        model = transformers.AutoModelForCausalLM.from_pretrained(
            HERE / name, dtype=torch.float32, attn_implementation="eager"
        ).eval()
        ids = torch.randint(0, config.vocab_size, (NUM_TOKENS,)).tolist()
        logits = model(torch.tensor([ids])).logits[0]
        rows = [[float(f"{x:.7g}") for x in logits[p].tolist()] for p in POSITIONS]
        expected = dict(input_ids=ids, positions=POSITIONS, logits=rows)
        (HERE / name / "expected.json").write_text(json.dumps(expected) + "\n")
        print(name, f"logits' standard deviation {logits.std():.3f}")


if __name__ == "__main__":
    main()
