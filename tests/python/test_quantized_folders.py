"""GPTQ, AWQ and compressed-tensors folders against the NumPy decoder on the numbers that they stand for."""

import json
import zlib

import numpy as np
import pytest

from checkpoints import write_safetensors
from ferrule import DeviceError, Engine, UnsupportedModel
from numpy_decoder import LlamaConfig, LlamaDecoder, random_weights

GROUP = 32
CONFIG = LlamaConfig()
# AutoAWQ's order of columns in a word.
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]
FLAT = {"bits": 4, "group_size": GROUP}
QUANTIZATION = {
    "gptq": FLAT | {"quant_method": "gptq", "desc_act": False},
    "gptq-act-order": FLAT | {"quant_method": "gptq", "desc_act": True},
    "gptq-8-bits": {"quant_method": "gptq", "bits": 8, "group_size": GROUP},
    "gptq-8-bits-act-order": {"quant_method": "gptq", "bits": 8, "group_size": GROUP, "checkpoint_format": "gptq_v2"},
    "awq": FLAT | {"quant_method": "awq", "version": "gemm", "zero_point": True},
    "fp8": {"quant_method": "fp8", "weight_block_size": [GROUP, GROUP]},
    "packed": {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "config_groups": {
            "group_0": {"weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": GROUP}}
        },
    },
}


def quantize(weight, bits):
    """Codes (rows, cols), zero points and scales (rows, groups) of a matrix, rounded to the nearest."""
    most = 2**bits - 1
    groups = weight.reshape(len(weight), -1, GROUP)
    low, high = np.minimum(groups.min(-1), 0), np.maximum(groups.max(-1), 0)
    scales = ((high - low) / most).astype(np.float16)
    zeros = np.rint(-low / scales).astype(np.uint32)
    codes = np.clip(np.rint(groups / scales[..., None]) + zeros[..., None], 0, most).astype(np.uint32)
    return codes.reshape(weight.shape), zeros, scales


def dequantize(codes, zeros, scales):
    steps = codes.reshape(*zeros.shape, GROUP).astype(np.float32) - zeros[..., None]
    return (scales.astype(np.float32)[..., None] * steps).reshape(codes.shape)


def words(codes, bits=4):
    """Codes of the last axis, as many as a word holds."""
    shifts = np.arange(0, 32, bits, dtype=np.uint32)
    together = codes.reshape(*codes.shape[:-1], -1, len(shifts)).astype(np.uint32)
    return np.bitwise_or.reduce(together << shifts, axis=-1).view(np.int32)


def reordered(codes):
    return codes.reshape(*codes.shape[:-1], -1, 8)[..., AWQ_ORDER].reshape(codes.shape)


def input_of(name):
    """Matrices of one input are quantized with its columns in one order."""
    for input_name, readers in (("qkv", ("q_proj", "k_proj", "v_proj")), ("gate_up", ("gate_proj", "up_proj"))):
        if any(reader in name for reader in readers):
            return f"{name.split('.')[2]} {input_name}"
    return name


def act_order(form, name, cols):
    """The columns as GPTQ's act-order sorts them: those of a group side by side."""
    random = np.random.default_rng(zlib.crc32(input_of(name).encode()))
    match form:
        case "gptq-act-order" | "gptq-8-bits-act-order":
            return random.permutation(cols)
        case "gptq-groups-moved":
            return random.permutation(np.arange(cols).reshape(-1, GROUP)).ravel()
        case _:
            return np.arange(cols)


def parts(quantization, codes, zeros, scales, groups):
    match quantization["quant_method"]:
        case "gptq":
            bits = quantization["bits"]
            stored = zeros.T - (quantization.get("checkpoint_format") != "gptq_v2") & (2**bits - 1)
            return {
                "qweight": np.ascontiguousarray(words(codes, bits).T),
                "qzeros": words(stored, bits),
                "scales": np.ascontiguousarray(scales.T),
                "g_idx": groups.astype(np.int32),
            }
        case "awq":
            return {
                "qweight": words(reordered(codes.T)),
                "qzeros": words(reordered(zeros.T)),
                "scales": np.ascontiguousarray(scales.T),
            }
        case _:
            zero_words = np.ascontiguousarray(words(zeros.T).T)
            return {"weight_packed": words(codes), "weight_zero_point": zero_words, "weight_scale": scales}


def float8_values():
    """The numbers of E4M3's first 127 codes: a bias of 7, and subnormal numbers below 2^-6."""
    codes = np.arange(0x7F)
    exponents, mantissas = codes >> 3, (codes & 7) / 8
    return np.where(exponents == 0, mantissas * 2.0**-6, (1 + mantissas) * 2.0 ** (exponents - 7)).astype(np.float32)


def float8(weight):
    """A matrix in squares of GROUP that share a scale: its parts, and the numbers that they stand for."""
    values = float8_values()
    squares = [-(-n // GROUP) for n in weight.shape]
    scales = np.zeros(squares, dtype=np.float32)
    codes = np.zeros(weight.shape, dtype=np.uint8)
    numbers = np.zeros_like(weight)
    for row, col in np.ndindex(*squares):
        part = np.s_[row * GROUP : (row + 1) * GROUP, col * GROUP : (col + 1) * GROUP]
        scale = np.float32(np.abs(weight[part]).max() / values[-1])
        sizes = np.abs(weight[part] / scale)
        code = np.abs(sizes[..., None] - values).argmin(-1)
        negative = np.signbit(weight[part])
        scales[row, col] = scale
        codes[part] = code + 0x80 * negative
        numbers[part] = scale * np.where(negative, -values[code], values[code])
    return {"weight": codes, "weight_scale_inv": scales}, numbers


def write_folder(folder, form, quantization):
    """A quantized checkpoint; returns the weights that it stands for."""
    weights, tensors = random_weights(CONFIG, seed=11), {}
    for name, weight in weights.items():
        if "_proj." not in name:
            tensors[name] = weight
            continue
        stem = name.removesuffix(".weight")
        if form == "fp8":
            quantized, weights[name] = float8(weight)
            tensors |= {f"{stem}.{part}": tensor for part, tensor in quantized.items()}
            continue
        order = act_order(form, name, weight.shape[1])
        back = np.argsort(order)
        codes, zeros, scales = quantize(weight[:, order], quantization.get("bits", 4))
        weights[name] = dequantize(codes, zeros, scales)[:, back]
        quantized = parts(quantization, codes[:, back], zeros, scales, back // GROUP)
        tensors |= {f"{stem}.{part}": tensor for part, tensor in quantized.items()}
    write_safetensors(folder / "model.safetensors", tensors)
    config = CONFIG.to_json() | {"quantization_config": quantization}
    (folder / "config.json").write_text(json.dumps(config))
    return weights


TOKENS = np.random.default_rng(3).integers(3, CONFIG.vocab_size, 40).tolist()


def scores(folder, activations, packed_weights=None, kv_cache_dtype=None):
    settings = {"activations": activations, "kv_cache_memory": "16MB", "packed_weights": packed_weights}
    with Engine(folder, **settings, kv_cache_dtype=kv_cache_dtype) as engine:
        return [entry.logprob for entry in engine.score(TOKENS)]


@pytest.mark.parametrize("form", QUANTIZATION)
def test_scores_are_those_of_the_dequantized_weights(form, tmp_path):
    decoder = LlamaDecoder(CONFIG, write_folder(tmp_path, form, QUANTIZATION[form]))
    expected = decoder.logprobs(TOKENS)[np.arange(39), TOKENS[1:]]
    np.testing.assert_allclose(scores(tmp_path, "f32"), expected, atol=1e-4)


def on_gpu(folder):
    """Scores on the emulated device, and the bytes of weights there."""
    try:
        engine = Engine(folder, device="cuda-emu", kv_cache_memory="16MB")
    except DeviceError as error:
        pytest.skip(str(error))
    with engine:
        return np.array([entry.logprob for entry in engine.score(TOKENS)]), engine.model.weight_bytes


# Heads of 16 are padded to 64 there, which parts groups of 32 columns: attention's output stays bf16 without an order.
SHARES_OF_BF16 = {"gptq-act-order": 0.35, "gptq-8-bits-act-order": 0.55, "gptq": 0.55, "gptq-8-bits": 0.75, "awq": 0.55}


@pytest.mark.parametrize("form", SHARES_OF_BF16)
def test_codes_stay_on_gpus(form, tmp_path):
    """In act-order, too: it is the input whose columns are put into the codes' order."""
    decoder = LlamaDecoder(CONFIG, write_folder(tmp_path, form, QUANTIZATION[form]))
    expected = decoder.logprobs(TOKENS)[np.arange(39), TOKENS[1:]]
    plain = tmp_path / "plain"
    plain.mkdir()
    write_safetensors(plain / "model.safetensors", random_weights(CONFIG, seed=11))
    (plain / "config.json").write_text(json.dumps(CONFIG.to_json()))
    (found, weight_bytes), (_, plain_bytes) = on_gpu(tmp_path), on_gpu(plain)
    # What bf16 activations do to logits that spread as these do.
    assert np.std(found - expected) < 0.025 * np.std(expected)
    assert weight_bytes < SHARES_OF_BF16[form] * plain_bytes


def test_the_fast_mode_does_not_see_which_form_the_weights_had(tmp_path):
    forms = ("gptq", "awq", "packed")
    for form in forms:
        (tmp_path / form).mkdir()
        write_folder(tmp_path / form, form, QUANTIZATION[form])
    gptq, awq, packed = (scores(tmp_path / form, "int8") for form in forms)
    assert gptq == awq == packed


@pytest.mark.parametrize("own_orders", [False, True])
def test_the_fast_mode_does_not_see_where_a_group_stands(own_orders, tmp_path, monkeypatch):
    """Groups of weights and of activations are the same 32 columns, in another order of summation.

    With keys, values and queries in float32: rounded to bf16, numbers that differ by that order may become neighbours.
    """
    if own_orders:
        monkeypatch.setitem(globals(), "input_of", lambda name: name)
    for form in ("gptq", "gptq-groups-moved"):
        (tmp_path / form).mkdir()
        write_folder(tmp_path / form, form, QUANTIZATION["gptq"])
    moved, plain = (scores(tmp_path / form, "int8", kv_cache_dtype="f32") for form in ("gptq-groups-moved", "gptq"))
    np.testing.assert_allclose(moved, plain, atol=5e-3)


def test_packed_weights_keep_the_order_of_columns(tmp_path):
    write_folder(tmp_path, "gptq-act-order", QUANTIZATION["gptq-act-order"])
    store = tmp_path / "packed"
    first = scores(tmp_path, "f32", packed_weights=store)
    assert list(store.glob("*.packed"))
    assert scores(tmp_path, "f32", packed_weights=store) == first


@pytest.mark.parametrize("plain", ["none", "q_proj", "v_proj", "up_proj"])
def test_matrices_of_one_input_may_have_orders_of_their_own(plain, tmp_path, monkeypatch):
    """As where they were quantized one by one, one of them perhaps without an order."""
    monkeypatch.setitem(globals(), "input_of", lambda name: name)
    shuffled = act_order

    def order(form, name, cols):
        return np.arange(cols) if plain in name else shuffled(form, name, cols)

    monkeypatch.setitem(globals(), "act_order", order)
    decoder = LlamaDecoder(CONFIG, write_folder(tmp_path, "gptq-act-order", QUANTIZATION["gptq-act-order"]))
    expected = decoder.logprobs(TOKENS)[np.arange(39), TOKENS[1:]]
    np.testing.assert_allclose(scores(tmp_path, "f32"), expected, atol=1e-4)


def test_what_does_not_run_is_named(tmp_path):
    write_folder(tmp_path, "gptq", {"quant_method": "bitsandbytes", "load_in_4bit": True})
    with pytest.raises(UnsupportedModel, match="bitsandbytes"):
        Engine(tmp_path)
