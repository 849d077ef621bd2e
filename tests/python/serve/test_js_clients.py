"""Clients from npm, against a real model: scripts in tests/js print what they got."""

import json
import shutil
import subprocess

import pytest
from serving import QUESTION, ROOT

FOLDER = ROOT / "tests" / "js"


@pytest.fixture
def run(smollm2):
    if not shutil.which("node"):
        pytest.skip("node is not installed")
    if not (FOLDER / "node_modules").is_dir():
        pytest.skip("the packages are not installed: make clients")

    def run(script):
        command = ["node", FOLDER / script, f"{smollm2.url}/v1", QUESTION[0]["content"]]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


def test_openai(run):
    got = run("openai.js")
    assert "Paris" in got["whole"]
    assert got["whole"] == got["streamed"] == got["response"]
    assert (got["types"][0], got["types"][-1]) == ("response.created", "response.incomplete")
    assert (got["dimensions"], got["error"]) == (576, "NotFoundError")


def test_ai(run):
    got = run("ai.js")
    assert "Paris" in got["whole"]
    assert got["whole"] == got["streamed"]
    assert (got["finishReason"], got["outputTokens"], got["dimensions"]) == ("length", 24, 576)
