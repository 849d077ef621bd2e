"""The console script, `python -m ferrule` and the standalone binary are one program."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import ferrule

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = Path(sys.executable).parent / "ferrule"
BINARY = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "ferrule"
WAYS = {
    "script": [SCRIPT],
    "module": [sys.executable, "-m", "ferrule"],
    "binary": [BINARY],
}


def run(way, *args):
    return subprocess.run([*WAYS[way], *args], capture_output=True, text=True, timeout=60, stdin=subprocess.DEVNULL)


def test_the_version_is_the_packages():
    assert {way: run(way, "--version").stdout for way in WAYS} == dict.fromkeys(
        WAYS, f"ferrule {ferrule.__version__}\n"
    )


@pytest.mark.parametrize("args", [["--help"], ["run", "--help"], ["bench", "--help"], ["no-such-command"], ["run"]])
def test_all_ways_say_the_same(args):
    script, module, binary = (run(way, *args) for way in WAYS)
    seen = (script.returncode, script.stdout, script.stderr)
    assert (module.returncode, module.stdout, module.stderr) == seen
    assert (binary.returncode, binary.stdout, binary.stderr) == seen
    assert script.stdout + script.stderr


def test_wrong_arguments_exit_with_2():
    assert run("script", "no-such-command").returncode == 2


def test_a_missing_model_is_one_sentence(tmp_path):
    result = run("script", "run", str(tmp_path / "missing.gguf"), "hello")
    assert result.returncode == 2
    assert result.stdout == ""
    assert "missing.gguf" in result.stderr
    assert "Traceback" not in result.stderr
    assert "panicked" not in result.stderr


def test_doctor_speaks_json():
    result = run("script", "doctor", "--json")
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout)
