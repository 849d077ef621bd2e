"""The Grafana dashboard asks for what `/metrics` has."""

import json
import re

import pytest
from serving import ROOT

DASHBOARD = json.loads((ROOT / "deploy/grafana/ferrule.json").read_text())
PANELS = {panel["title"]: panel for panel in DASHBOARD["panels"]}
METRIC = r"\b((?:vllm:|http_)[a-z0-9_]+)"


def queries(panel):
    return [target["expr"] for target in panel["targets"]]


@pytest.fixture(scope="module")
def exposed(null):
    """The labels of each metric that the server exposes."""
    null.post("/v1/completions", {"prompt": "hello", "max_tokens": 3})
    found = {}
    for name, labels in re.findall(r"^([a-z][a-z0-9_:]*)(?:{(.*)})? \S+$", null.metrics(), re.M):
        found.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    return found


@pytest.mark.parametrize("title", PANELS)
def test_every_metric_and_label_exists(title, exposed):
    for query in queries(PANELS[title]):
        names = re.findall(METRIC, query)
        assert names
        for name in names:
            assert name in exposed
        selected = [set(re.findall(r"(\w+)=", labels)) for labels in re.findall(r"{(.*?)}", query)]
        grouped = [set(labels.replace(" ", "").split(",")) for labels in re.findall(r"by \((.*?)\)", query)]
        for labels in selected + grouped:
            assert all(labels <= exposed[name] for name in names)


def test_models_are_offered_by_name(exposed):
    offered = [each["query"]["query"] for each in DASHBOARD["templating"]["list"] if each["type"] == "query"]
    ((name, label),) = re.findall(r"label_values\((\S+), (\w+)\)", *offered)
    assert label in exposed[name]


def test_every_series_has_a_place(exposed):
    """What is measured is shown: every counter, gauge and histogram but those that say how requests were made."""
    shown = {
        re.sub(r"_(bucket|sum|count)$", "", name)
        for panel in PANELS.values()
        for q in queries(panel)
        for name in re.findall(METRIC, q)
    }
    measured = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exposed}
    assert shown <= measured
    assert measured - shown == {
        "vllm:cache_config_info",
        "vllm:prompt_tokens_cached_total",
        "vllm:request_params_n",
        "vllm:request_params_max_tokens",
        "vllm:request_inference_time_seconds",
        "vllm:request_time_per_output_token_seconds",
        "http_request_duration_seconds",
    }


def test_every_query_is_promql():
    promql_parser = pytest.importorskip("promql_parser", reason="promql-parser is not installed: make clients")
    for panel in PANELS.values():
        for query in queries(panel):
            promql_parser.parse(query.replace("$__rate_interval", "1m"))


def test_grafanas_own_types_keep_the_dashboard_whole():
    reason = "grafana-foundation-sdk is not installed: make clients"
    dashboard = pytest.importorskip("grafana_foundation_sdk.models.dashboard", reason=reason)
    encoder = pytest.importorskip("grafana_foundation_sdk.cog.encoder", reason=reason)
    read = dashboard.Dashboard.from_json(DASHBOARD)
    written = json.loads(json.dumps(read, cls=encoder.JSONEncoder))
    # Grafana keeps a variable's query a second time, under a name that its types do not have.
    ours = json.loads(json.dumps(DASHBOARD))
    for variable in ours["templating"]["list"]:
        variable.pop("definition", None)
    assert missing(ours, written) == []


def missing(value, other, path=""):
    """Where `other` lacks something that `value` has, or has something else."""
    if isinstance(value, dict) and isinstance(other, dict):
        return [lack for key in value for lack in missing(value[key], other.get(key), f"{path}/{key}")]
    if isinstance(value, list) and isinstance(other, list) and len(value) == len(other):
        pairs = enumerate(zip(value, other, strict=True))
        return [lack for at, (one, two) in pairs for lack in missing(one, two, f"{path}/{at}")]
    return [] if value == other else [path]
