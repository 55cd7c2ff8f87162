"""Fixtures for every test; plain functions that tests import are in support.py."""

from __future__ import annotations

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial

import pytest
from hypothesis import settings

import support
from microreg.testing.ports import reserve_port
from needs import need
from networks import Network, network, unavailable

# The machine that runs the tests may be busy: a slow example is no finding, only a wrong one is.
settings.register_profile("microreg", deadline=None)
settings.load_profile("microreg")

# Where the shell runs the tests in the background, it has them ignore Ctrl-C, and whatever they start would too.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True)
def _own_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """No MICROREG_* variable of the developer's shell reaches a test."""
    for key in [key for key in os.environ if key.startswith("MICROREG_")]:
        monkeypatch.delenv(key)


@pytest.fixture(autouse=True)
def _no_leaked_threads() -> Iterator[None]:
    """A thread that a test started has ended when the test has (ten seconds' grace)."""
    before = set(threading.enumerate())
    yield
    deadline = time.monotonic() + 10.0
    if set(threading.enumerate()) - before:
        gc.collect()  # gRPC's own thread ends with the last of its objects, and cycles are no leak
    for thread in set(threading.enumerate()) - before:
        thread.join(max(0.0, deadline - time.monotonic()))
        assert not thread.is_alive(), f"leaked thread: {thread.name}"


@pytest.fixture(name="alone", scope="module")
def _alone() -> Iterator[None]:
    """The module's tests have the loopback interface for themselves, where that is possible."""
    from networks import alone

    with alone():
        yield


@pytest.fixture(name="run")
def _run() -> object:
    """`support.run`, for tests that prefer a fixture to an import."""
    return support.run


@pytest.fixture(name="wait_until")
def _wait_until() -> object:
    """`support.wait_until`, for tests that prefer a fixture to an import."""
    return support.wait_until


@pytest.fixture
def new_port(request: pytest.FixtureRequest) -> Callable[[], int]:
    """Gives free TCP ports of 127.0.0.1 that no other test and no outgoing connection gets meanwhile."""
    return partial(reserve_port, request.node)


@pytest.fixture(scope="session")
def no_networks() -> str:
    """Why networks of namespaces cannot be made here; empty where they can."""
    return unavailable()


@pytest.fixture
def net(no_networks: str) -> Iterator[Network]:
    """An empty network."""
    if no_networks:
        need("networks", no_networks)
    with network() as net:
        yield net
