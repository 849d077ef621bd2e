"""SamplingParams: checked early, comparable, printable, picklable."""

import inspect
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

import ferrule
from ferrule import SamplingParams

FIELDS = inspect.signature(SamplingParams).parameters


def test_the_signature_tells_the_engines_defaults():
    params = SamplingParams()
    lists = {"stop": [], "stop_token_ids": [], "logit_bias": {}}
    assert {name: getattr(params, name) for name in FIELDS} == {
        name: lists.get(name, field.default) for name, field in FIELDS.items()
    }


def test_every_field_reads_back():
    settings = {
        "n": 2,
        "max_tokens": 9,
        "min_tokens": 3,
        "temperature": 0.7,
        "top_k": 5,
        "top_p": 0.9,
        "min_p": 0.1,
        "typical_p": 0.8,
        "repetition_penalty": 1.1,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.3,
        "logit_bias": {3: -1.5},
        "stop": ["a", "b"],
        "stop_token_ids": [1, 2],
        "include_stop_str_in_output": True,
        "ignore_eos": True,
        "seed": 2**64 - 1,
        "logprobs": 0,
        "prompt_logprobs": 4,
        "skip_special_tokens": False,
    }
    assert settings.keys() == FIELDS.keys()
    params = SamplingParams(**settings)
    assert {name: getattr(params, name) for name in settings} == settings
    assert pickle.loads(pickle.dumps(params)) == params
    assert eval(repr(params)) == params


@given(st.floats(0, 100, width=32), st.integers(0, 2**64 - 1))
def test_replace_changes_what_it_names(temperature, seed):
    params = SamplingParams(max_tokens=3, seed=1)
    changed = params.replace(temperature=temperature, seed=seed)
    assert (changed.max_tokens, changed.seed) == (3, seed)
    assert changed.temperature == pytest.approx(temperature)
    assert (params.temperature, params.seed) == (1.0, 1)


def test_one_stop_string_is_a_list_of_one():
    assert SamplingParams(stop="end").stop == ["end"]


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"n": 0}, "n is 0"),
        ({"n": -1}, "n is -1"),
        ({"max_tokens": -5}, "max_tokens is -5"),
        ({"temperature": -0.1}, "temperature is -0.1"),
        ({"temperature": float("nan")}, "temperature is NaN"),
        ({"top_p": 0}, "top_p is 0"),
        ({"top_p": 1.5}, "top_p is 1.5"),
        ({"min_tokens": 9, "max_tokens": 3}, "min_tokens is 9"),
        ({"stop": ""}, "stop has an empty string"),
        ({"logprobs": 1000}, "logprobs is 1000"),
        ({"logit_bias": {1: 1000.0}}, "logit_bias is 1000"),
        ({"seed": 2**64}, "seed is 18446744073709551616"),
    ],
)
def test_values_out_of_range_are_refused_at_once(settings, said):
    with pytest.raises(ferrule.InvalidRequest, match=said) as refused:
        SamplingParams(**settings)
    assert isinstance(refused.value, ValueError)


@pytest.mark.parametrize(
    ("settings", "said"),
    [({"max_tokens": "many"}, "max_tokens: "), ({"stop": 1}, "stop: "), ({"tempreature": 1}, "no 'tempreature'")],
)
def test_what_is_no_setting_is_a_type_error(settings, said):
    with pytest.raises(TypeError, match=said):
        SamplingParams(**settings)
