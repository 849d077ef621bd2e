"""schemathesis asks the server what its OpenAPI document allows and forbids, and finds nothing wrong."""

import os
import subprocess
import sys
from pathlib import Path

from serving import running

# What it may not judge: many requests are well formed and still wrong for this server (a model that is not there, a
# prompt that is too long), and so 400 or 404.
WITHOUT = "positive_data_acceptance"


def test_the_server_does_what_its_document_says(tmp_path):
    hooks = {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(Path(__file__).parent)}
    # Short answers: what is asked is more than what is said.
    with running("null", "--max-model-len", "64", "--max-num-seqs", "8") as server:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{server.url}/openapi.json", "--no-color"]
        checks = ["--checks", "all", "--exclude-checks", WITHOUT, "--max-examples", "10", "--seed", "1"]
        # /live has no end.
        flags = [
            "--exclude-path",
            "/live",
            "--phases",
            "examples,coverage,fuzzing",
            "--workers",
            "1",
            "--continue-on-failure",
        ]
        env = {**os.environ, **hooks}
        done = subprocess.run([*command, *checks, *flags], env=env, cwd=tmp_path, capture_output=True, text=True)
        server.wait_idle()
        assert server.process.poll() is None
    assert done.returncode == 0, done.stdout[-20_000:] + done.stderr
