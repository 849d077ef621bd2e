"""`ferrule.quantize` to GGUF, read back by code that is not ours: the `gguf` package, and llama.cpp where installed."""

import ctypes
import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

import ferrule
from checkpoints import write_tokenizer
from ferrule import Engine
from harness.shapes import SHAPES
from harness.tensors import interleave_heads, tensors

gguf = pytest.importorskip("gguf", reason="gguf is not installed: make clients")

SHAPE = SHAPES["tiny"]
SCHEMES = {"q4_0": 2, "q4_k_m": 15, "q5_k_m": 17, "q6_k": 18, "q8_0": 7}
"""With llama.cpp's numbers of file types."""
GOLDEN = Path(__file__).parent.parent / "golden" / "models"


@pytest.fixture(scope="module")
def llama_cpp():
    return pytest.importorskip("llama_cpp", reason="pip install 'ferrule[peers]' compiles llama.cpp")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    from harness import gguf_file

    path = tmp_path_factory.mktemp("source") / "tiny.gguf"
    gguf_file.write(SHAPE, path)
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The same model as a Hugging Face folder."""
    from harness import hf_folder

    path = tmp_path_factory.mktemp("source") / "tiny"
    hf_folder.write(SHAPE, path)
    return path


@pytest.fixture(scope="module")
def text(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "letters.txt"
    letters = np.random.default_rng(5).integers(97, 123, 20_000, dtype=np.uint8)
    path.write_text(letters.tobytes().decode())
    return path


@pytest.fixture(scope="module", params=SCHEMES)
def made(request, source, text, tmp_path_factory):
    """The scheme, the file, and its certificate."""
    path = tmp_path_factory.mktemp("made") / f"{request.param}.gguf"
    certificate = ferrule.quantize(source, path, scheme=request.param, calibration=text, calibration_tokens=1024)
    return request.param, path, certificate


def quantize_command(source, target, text):
    settings = ["--scheme", "q4_k_m", "--calibration", text, "--calibration-tokens", "4096"]
    return [sys.executable, "-m", "ferrule", "quantize", source, target, *settings]


def test_runs_that_are_killed_at_any_time_end_with_the_same_bytes(source, text, tmp_path):
    begin = time.monotonic()
    subprocess.run(quantize_command(source, tmp_path / "whole.gguf", text), check=True, capture_output=True)
    whole, random = time.monotonic() - begin, np.random.default_rng()
    command, target, num_killed = quantize_command(source, tmp_path / "pieces.gguf", text), tmp_path / "pieces.gguf", 0
    while not target.exists():
        # Some get further than those before; whatever is finished stays.
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=random.uniform(0.1, 1) * whole)
        except subprocess.TimeoutExpired:
            num_killed += 1
    assert target.read_bytes() == (tmp_path / "whole.gguf").read_bytes(), f"after {num_killed} were killed"


def weights():
    """Under their names in GGUF files, as these hold them."""
    for tensor in tensors(SHAPE):
        values = tensor.values()
        yield tensor.gguf_name, interleave_heads(values, tensor.rotated_heads) if tensor.rotated_heads else values


def by_llama_cpp(llama_cpp, source, target, scheme, names):
    """llama.cpp's file of the same source and scheme, of columns that have an importance: one, everywhere."""
    params = llama_cpp.llama_model_quantize_default_params()
    params.ftype, params.nthread = SCHEMES[scheme], 1
    ones = np.ones(SHAPE.intermediate_size, dtype=np.float32)
    entries = (llama_cpp.llama_model_imatrix_data * (len(names) + 1))()
    for entry, (name, width) in zip(entries, names.items(), strict=False):
        entry.name, entry.size = name.encode(), width
        entry.data = ones.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    params.imatrix = ctypes.cast(entries, ctypes.POINTER(llama_cpp.llama_model_imatrix_data))
    assert llama_cpp.llama_model_quantize(bytes(source), bytes(target), ctypes.byref(params)) == 0


def test_tensors_are_near_their_source(made):
    scheme, path, _ = made
    read = {tensor.name: tensor for tensor in gguf.GGUFReader(path).tensors}
    bits = {"q4_0": 4, "q4_k_m": 4, "q5_k_m": 5, "q6_k": 6, "q8_0": 8}[scheme]
    for name, values in weights():
        tensor = read.pop(name)
        numbers = gguf.quants.dequantize(tensor.data, tensor.tensor_type).reshape(values.shape)
        if values.ndim == 1:
            np.testing.assert_array_equal(numbers, values)
        else:
            # A block of 32 reaches over 4 to 5 standard deviations in 2 ** bits steps, whose errors are uniform.
            step = 5 * values.std() / 2**bits
            assert np.sqrt(np.mean((numbers - values) ** 2)) < step / np.sqrt(12)
    assert not read


def test_types_are_those_of_llama_cpp(made, source, llama_cpp, tmp_path):
    scheme, path, _ = made
    names = {name: values.shape[1] for name, values in weights() if values.ndim == 2}
    by_llama_cpp(llama_cpp, source, tmp_path / "other.gguf", scheme, names)
    types = [
        {tensor.name: tensor.tensor_type for tensor in gguf.GGUFReader(file).tensors}
        for file in (path, tmp_path / "other.gguf")
    ]
    assert types[0] == types[1]


def test_metadata_are_the_sources_and_the_certificate(made, source):
    scheme, path, certificate = made
    ours, theirs = (gguf.GGUFReader(file).fields for file in (path, source))
    assert ours["general.file_type"].contents() == SCHEMES[scheme]
    assert ours["general.quantization_version"].contents() == 2
    own = {"general.file_type", "general.quantization_version", "ferrule.certificate"}
    for key, field in theirs.items():
        if key not in own and not key.startswith("GGUF."):
            assert ours[key].contents() == field.contents()
    assert certificate["scheme"] == scheme
    assert certificate["quality"]["mean_kl"] >= 0
    assert not path.with_name(f"{path.name}.partial").exists()


def scores(path, prompt, activations):
    with Engine(path, activations=activations, kv_cache_memory="16MB") as engine:
        return np.array([entry.logprob for entry in engine.score(prompt)])


def test_llama_cpp_computes_the_same_and_generates(made, llama_cpp):
    _, path, _ = made
    model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, verbose=False, logits_all=True)
    prompt = model.tokenize(b"some letters in a row", add_bos=False)
    model.eval(prompt)
    logits = np.array(model.eval_logits)
    theirs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    theirs = theirs[np.arange(len(prompt) - 1), prompt[1:]]
    exact, rounded = (scores(path, prompt, activations) for activations in ("f32", "int8"))
    # llama.cpp rounds activations to eight bits, as the fast mode does: it is as far from the exact scores.
    assert np.std(theirs - exact) < 2 * np.std(rounded - exact)
    generated = model.create_completion(prompt, max_tokens=8, temperature=0)
    assert generated["choices"][0]["finish_reason"] == "length"


@pytest.fixture(scope="module")
def made_both_ways(source, folder, text, tmp_path_factory):
    """Files that the folder became, and that the file of the same model became."""
    out = tmp_path_factory.mktemp("both")
    settings = {"scheme": "q4_k_m", "calibration": text, "calibration_tokens": 1024}
    for path in (folder, source):
        ferrule.quantize(path, out / f"{path.suffix[1:] or 'folder'}.gguf", **settings)
    return out / "folder.gguf", out / "gguf.gguf"


def test_a_folder_becomes_what_its_file_becomes(made_both_ways):
    ours, theirs = (gguf.GGUFReader(path) for path in made_both_ways)
    expected = {tensor.name: tensor for tensor in theirs.tensors}
    assert {tensor.name for tensor in ours.tensors} == set(expected)
    for tensor in ours.tensors:
        assert tensor.tensor_type == expected[tensor.name].tensor_type
        np.testing.assert_array_equal(tensor.data, expected[tensor.name].data, err_msg=tensor.name)
    # A folder does not tell which of its tokens no text contains, and the certificate names the source.
    other = {"tokenizer.ggml.token_type", "ferrule.certificate"}
    for key, field in theirs.fields.items():
        if key not in other and not key.startswith("GGUF."):
            assert ours.fields[key].contents() == field.contents(), key


def test_llama_cpp_reads_a_folders_file_as_the_other(made_both_ways, llama_cpp):
    def read(path):
        model = llama_cpp.Llama(str(path), n_ctx=64, n_threads=1, verbose=False, logits_all=True)
        tokens = model.tokenize(b"some Letters, 12 numbers\n and others: \xc3\xa9", add_bos=True)
        model.eval(tokens)
        return tokens, model.eval_logits

    ours, theirs = map(read, made_both_ways)
    assert ours[0] == theirs[0]
    np.testing.assert_array_equal(ours[1], theirs[1])


def golden_folder(family, out):
    """A tiny model with a tokenizer, of Gemma with the choices that llama.cpp takes for granted, of others without the
    windows that it does not know."""
    shutil.copytree(GOLDEN / family, out)
    config = json.loads((out / "config.json").read_text())
    if "query_pre_attn_scalar" in config:
        config["query_pre_attn_scalar"] = config["head_dim"]
    if family == "gemma3":
        config["layer_types"] = ["sliding_attention"] * config["num_hidden_layers"]
    if family in ("mistral", "phi3"):
        config["sliding_window"] = None
    (out / "config.json").write_text(json.dumps(config))
    write_tokenizer(out / "tokenizer.json", config["vocab_size"])
    return config["vocab_size"]


@pytest.mark.parametrize("family", ["llama3", "mistral", "qwen2", "qwen3", "gemma2", "gemma3", "phi3"])
def test_llama_cpp_computes_the_same_of_every_familys_folder(family, llama_cpp, tmp_path):
    # Not by the family's name: llama.cpp expects certain tokens in files that are called phi3.
    vocab_size = golden_folder(family, tmp_path / "tiny")
    ferrule.quantize(tmp_path / "tiny", tmp_path / "made.gguf", scheme="q8_0", calibration_tokens=256)
    tokens = np.random.default_rng(7).integers(3, vocab_size, 24).tolist()
    model = llama_cpp.Llama(str(tmp_path / "made.gguf"), n_ctx=64, n_threads=1, verbose=False, logits_all=True)
    model.eval(tokens)
    logits = np.array(model.eval_logits)
    theirs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    theirs = theirs[np.arange(len(tokens) - 1), tokens[1:]]
    exact, rounded = (scores(tmp_path / "made.gguf", tokens, activations) for activations in ("f32", "int8"))
    # Rounded activations differ by how sums are grouped; a wrong row, norm or angle changes scores by far more.
    assert np.std(theirs - exact) < 3 * np.std(rounded - exact)
    assert np.std(theirs - exact) < 0.1 * np.std(exact)
