"""Servers that several files of tests share. Most run the null model: the whole server, and no waiting for weights."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from serving import Server, running


@pytest.fixture(scope="session")
def null() -> Iterator[Server]:
    """One null server for all tests that leave it as they find it."""
    with running("null") as server:
        yield server
        server.wait_idle()
        assert server.process.poll() is None


@pytest.fixture(scope="session")
def smollm2() -> Iterator[Server]:
    """One server with a real model, for the tests of real clients."""
    with running("smollm2") as server:
        yield server
        server.wait_idle("smollm2")


@pytest.fixture
def snapshot():
    """Compares a text with a file in snapshots/; UPDATE_SNAPSHOTS=1 writes it instead."""

    def check(name, text):
        path = Path(__file__).parent / "snapshots" / name
        if os.environ.get("UPDATE_SNAPSHOTS"):
            path.write_text(text)
        assert text == path.read_text(), f"{name} changed; UPDATE_SNAPSHOTS=1 takes it as it is now"

    return check
