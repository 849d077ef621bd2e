"""`ferrule.quantize`'s folders read by Transformers: GPTQModel decodes GPTQ and AWQ, compressed-tensors its own."""

import importlib

import numpy as np
import pytest

import ferrule
from ferrule import Engine
from quantized_folders import CONFIG, TOKENS, dequantized, write_source

SCHEMES = ["int4", "int4-gptq", "int4-awq", "int8", "int8-w8a8"]
# What these libraries warn of while they are imported and load is theirs.
pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def libraries():
    """Torch, which compiles nothing, and Transformers, where all that it needs for these formats is there as well."""
    for name in ("torch", "transformers", "compressed_tensors", "gptqmodel", "optimum"):
        # Without importing it: a test that does not run need not wait for them.
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed: pip install 'ferrule[readers]'")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TORCHDYNAMO_DISABLE", "1")
        yield importlib.import_module("torch"), importlib.import_module("transformers")


@pytest.fixture(scope="module", params=SCHEMES)
def made(request, libraries, tmp_path_factory):
    source, folder = (tmp_path_factory.mktemp("models") / name for name in ("source", request.param))
    source.mkdir()
    write_source(source)
    ferrule.quantize(source, folder, scheme=request.param, calibration_tokens=1024)
    return folder


@pytest.fixture(scope="module")
def model(libraries, made):
    """With kernels that are not compiled first."""
    torch, transformers = libraries
    settings = {"dtype": torch.float16, "device_map": "cpu"}
    if made.name.startswith("int4"):
        awq = made.name == "int4-awq"
        kind = transformers.AwqConfig if awq else transformers.GPTQConfig
        settings["quantization_config"] = kind(bits=4, backend="torch_awq" if awq else "torch")
    return transformers.AutoModelForCausalLM.from_pretrained(made, **settings).eval()


def log_probabilities(torch, model):
    with torch.inference_mode():
        logits = model(torch.tensor([TOKENS])).logits[0].float()
    return torch.log_softmax(logits, -1).numpy()


def decoded(torch, linear):
    """The matrix, (rows, cols): GPTQModel's layers tell what unit vectors become."""
    if isinstance(linear, torch.nn.Linear):
        return linear.weight.detach().numpy()
    with torch.inference_mode():
        return linear(torch.eye(linear.in_features, dtype=torch.float16)).t().numpy()


def test_weights_are_ours_bit_for_bit(libraries, made, model):
    torch, _ = libraries
    # compressed-tensors decodes when the model runs for the first time.
    log_probabilities(torch, model)
    compared = 0
    for name, weight in dequantized(made).items():
        if "_proj." in name:
            linear = model.get_submodule(name.removesuffix(".weight"))
            np.testing.assert_array_equal(decoded(torch, linear), weight.astype(np.float16), err_msg=name)
            compared += 1
    assert compared == 7 * CONFIG.num_hidden_layers


def test_scores_are_ours(libraries, made, model):
    """Up to what Transformers rounds: its activations are float16 numbers, and W8A8's have eight bits a token."""
    torch, _ = libraries
    theirs = log_probabilities(torch, model)[np.arange(len(TOKENS) - 1), TOKENS[1:]]
    with Engine(made, activations="f32", kv_cache_memory="16MB") as engine:
        ours = np.array([entry.logprob for entry in engine.score(TOKENS)])
    assert np.std(theirs - ours) < (0.2 if made.name == "int8-w8a8" else 0.02)
    assert np.std(ours) > 3
