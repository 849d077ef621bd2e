"""HTTPS with a certificate that the test makes."""

import select
import shutil
import ssl
import subprocess
import time
from contextlib import closing

import boto3
import httpx
import pytest
from serving import BINARY, add_key, running

TEXT = "/v1/completions"
BODY = {"model": "null", "prompt": "hello", "max_tokens": 5, "ignore_eos": True}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A certificate for 127.0.0.1 and its key."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl to make a certificate with")
    folder = tmp_path_factory.mktemp("tls")
    cert, key = folder / "cert.pem", folder / "key.pem"
    kind = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=ferrule", "-addext", "subjectAltName=IP:127.0.0.1"]
    command = ["openssl", "req", "-x509", *kind, *names, "-out", cert, "-keyout", key]
    subprocess.run(command, check=True, capture_output=True)
    return cert, key


@pytest.fixture(scope="module")
def server(files):
    cert, key = files
    with running("null", "--tls-cert", cert, "--tls-key", key, "--read-timeout", "3") as server:
        yield server


@pytest.fixture(scope="module")
def trusting(files):
    return ssl.create_default_context(cafile=files[0])


def ask(server, trusting):
    return httpx.post(server.url + TEXT, json=BODY, verify=trusting, timeout=20)


def test_answers_come_whole_and_streamed_over_tls(server, trusting):
    assert server.url.startswith("https://127.0.0.1:")
    assert ask(server, trusting).json()["usage"]["completion_tokens"] == 5
    body = {**BODY, "stream": True}
    with httpx.stream("POST", server.url + TEXT, json=body, verify=trusting, timeout=20) as response:
        lines = [line for line in response.iter_lines() if line]
    assert lines[-1] == "data: [DONE]"


def test_clients_that_do_not_know_the_certificate_refuse_it(server):
    with pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        httpx.post(server.url + TEXT, json=BODY)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_versions(server, files, version):
    context = ssl.create_default_context(cafile=files[0])
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2", "http/1.1"])
    with context.wrap_socket(server.connect(), server_hostname="127.0.0.1") as connection:
        assert connection.version() == version.name.replace("_", ".")
        assert connection.selected_alpn_protocol() == "http/1.1"


def test_plain_http_is_closed(server, trusting):
    with server.connect() as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    # A TLS alert, and nothing of HTTP.
    assert answer[:1] == b"\x15"
    assert b"HTTP" not in answer
    assert ask(server, trusting).status_code == 200


def test_slow_handshakes_hold_up_nobody_and_end(server, trusting):
    connections = [server.connect() for _ in range(32)]
    for connection in connections[::2]:
        # The head of a handshake record whose body never comes.
        connection.sendall(b"\x16\x03\x01\x02\x00")
    assert ask(server, trusting).status_code == 200
    # All are still open: it was answered beside them, not after them.
    assert select.select(connections, [], [], 0)[0] == []
    for connection in connections:
        connection.settimeout(20)
        while connection.recv(4096):
            pass
        connection.close()


def test_a_handshake_under_way_keeps_no_server_from_stopping(files):
    cert, key = files
    with running("null", "--tls-cert", cert, "--tls-key", key) as server, server.connect():
        began = time.monotonic()
        assert server.stop() == 0
        # Less than a connection that does not end is given.
        assert time.monotonic() - began < 4.5


@pytest.mark.parametrize("broken", ["missing", "no certificate", "another key", "one alone"])
def test_files_that_do_not_do_are_named(files, tmp_path, broken):
    cert, key = files
    arguments = ["--tls-cert", cert, "--tls-key", key]
    expected = "cert.pem"
    if broken == "missing":
        arguments[1] = expected = "/nowhere/cert.pem"
    elif broken == "no certificate":
        arguments[1] = key
        expected = "no certificate"
    elif broken == "another key":
        other = tmp_path / "other.pem"
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", other], check=True)
        arguments[3] = other
        expected = "other.pem"
    else:
        arguments = arguments[:2]
        expected = "--tls-key"
    done = subprocess.run(
        [BINARY, "serve", "null", "--port", "0", *arguments], capture_output=True, text=True, timeout=20
    )
    assert done.returncode == 2
    assert expected in done.stderr
    assert done.stdout == ""


def test_the_socket_is_closed_with_a_farewell(server, files):
    """An answer that is cut off can be told from one that has ended."""
    context = ssl.create_default_context(cafile=files[0])
    with context.wrap_socket(server.connect(), server_hostname="127.0.0.1", suppress_ragged_eofs=False) as connection:
        connection.sendall(b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        answer = b""
        while piece := connection.recv(4096):
            answer += piece
    assert answer.startswith(b"HTTP/1.1 200")


def test_amazons_client_sends_its_key_or_signs(files, tmp_path, monkeypatch):
    cert, key = files
    keys = tmp_path / "keys.json"
    secret = add_key(keys, "alice", "--sigv4")
    messages = [{"role": "user", "content": [{"text": "hi"}]}]

    def converse(**credentials):
        client = boto3.client("bedrock-runtime", "us-east-1", endpoint_url=server.url, verify=str(cert), **credentials)
        with closing(client):
            answer = client.converse(modelId="null", messages=messages, inferenceConfig={"maxTokens": 4})
        return answer["usage"]["outputTokens"]

    with running("null", "--tls-cert", cert, "--tls-key", key, "--api-key-file", keys) as server:
        signed = converse(aws_access_key_id="alice", aws_secret_access_key=secret)
        monkeypatch.setenv("AWS_BEARER_TOKEN_BEDROCK", secret)
        sent = converse()
    assert 0 < signed <= 4
    assert 0 < sent <= 4
