"""The OpenAPI document: it names every route and no other, and the server does what it says."""

import json
import re
import subprocess
from collections import Counter

from serving import BINARY, ROOT, running

SOURCES = ROOT / "rust" / "server" / "src" / "serve"
ROUTE = re.compile(r"\.route\(\s*(\"[^\"]+\"|[A-Z_]+)\s*,\s*(get|post|delete|put|patch)\(")
CONSTANT = re.compile(r"const ([A-Z_]+): &str = (\"[^\"]+\");")


def routes():
    """Every (method, path) that some dialect registers; tails of paths are parameters like others."""
    found = Counter()
    for source in SOURCES.rglob("*.rs"):
        text = source.read_text()
        constants = dict(CONSTANT.findall(text))
        for path, method in ROUTE.findall(text):
            found[method, constants.get(path, path).strip('"').replace("{*", "{")] += 1
    return found


def test_the_document_has_every_route_and_no_other(null):
    document = null.http.get("/openapi.json").json()
    described = {(method, path) for path, methods in document["paths"].items() for method in methods}
    found = routes()
    assert set(found.values()) == {1}
    missing = set(found) - described
    assert not missing, f"{sorted(missing)} are not in serve/openapi/operations.rs"
    unknown = described - set(found)
    assert not unknown, f"{sorted(unknown)} are no routes of the server"


def test_the_command_prints_what_the_server_says(null):
    printed = subprocess.run([BINARY, "openapi"], capture_output=True, text=True, check=True).stdout
    assert json.loads(printed) == null.http.get("/openapi.json").json()


def test_the_document_is_open_and_the_rest_is_not(tmp_path):
    keys = tmp_path / "keys.json"
    keys.write_text('{"keys": []}')
    with running("null", "--api-key-file", str(keys)) as server:
        assert server.http.get("/openapi.json").status_code == 200
        assert server.http.get("/v1/models").status_code == 401
