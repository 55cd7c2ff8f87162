"""Runners: who runs an ``async def`` test (pytest-asyncio, anyio, virtual time), and so can open its registry."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Generator
from contextlib import contextmanager
from functools import partial, wraps
from types import ModuleType
from typing import TYPE_CHECKING, Literal

import pytest

from microreg.pytest_plugin.place import Opened, Place, is_virtual

if TYPE_CHECKING:
    import microreg
    from microreg.testing.announced import Announced
    from microreg.testing.virtual import VirtualTime

__all__ = ["TRIO", "learn_asyncio", "opening", "running"]

TRIO = (
    "microreg is for asyncio, and this test runs on {}: @pytest.fixture def anyio_backend(): return 'asyncio' "
    "says so for the tests that use `registry`"
)
_ASYNCIO = "microreg-asyncio"
_LoopScope = Literal["function", "class", "module", "package", "session"]
_LOOP_SCOPES: tuple[_LoopScope, ...] = ("function", "class", "module", "package", "session")
_NO_RUNNER = (
    "nobody who could open `registry` runs this async test: mark it @pytest.mark.asyncio (pip install pytest-asyncio) "
    "or @pytest.mark.anyio, or let the test have the fixture virtual_time, which runs it by itself"
)
_OLD = "`registry` needs pytest-asyncio 0.24 or newer: pip install --upgrade pytest-asyncio"


def opening(request: pytest.FixtureRequest) -> str:
    """The name of the fixture that opens the registry in the form, and on the loop, that suit the test."""
    if is_virtual(request):
        return "_microreg_virtual"
    if not _is_async(request.node):
        return "_microreg_sync"
    plugins, mark = request.config.pluginmanager, request.node.get_closest_marker("asyncio")
    if mark is not None and plugins.has_plugin("asyncio"):
        if not plugins.has_plugin(_ASYNCIO):
            pytest.fail(_OLD, pytrace=False)
        return _of_loop_scope(_loop_scope(request.config, mark))
    if "anyio_backend" in request.fixturenames:
        return "_microreg_anyio"
    pytest.fail(_NO_RUNNER, pytrace=False)


def learn_asyncio(config: pytest.Config) -> None:
    """One more fixture for each loop that pytest-asyncio may run a test on, where it is in use and not too old."""
    if not config.pluginmanager.has_plugin("asyncio"):
        return
    import pytest_asyncio

    if "loop_scope" not in inspect.signature(pytest_asyncio.fixture).parameters:
        return
    plugin = ModuleType("microreg_asyncio")
    for scope in _LOOP_SCOPES:

        async def opened(_microreg_place: Place) -> AsyncGenerator[Opened[microreg.Registry, Announced]]:
            async with _microreg_place.opened() as opened:
                yield opened

        name = _of_loop_scope(scope)
        setattr(plugin, name, pytest_asyncio.fixture(name=name, loop_scope=scope)(opened))
    config.pluginmanager.register(plugin, _ASYNCIO)


@contextmanager
def running(item: pytest.Item, time: VirtualTime) -> Generator[None]:
    """An ``async def`` test runs in virtual time, whoever would run it otherwise."""
    function = getattr(item, "obj", None)
    if not isinstance(item, pytest.Function) or not inspect.iscoroutinefunction(function):
        yield
        return

    @wraps(function)
    def run(**fixtures: object) -> None:
        time.run(function(**fixtures))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(item, "obj", run)
        patch.setattr(item, "runtest", partial(pytest.Function.runtest, item))
        yield


def _is_async(item: pytest.Item) -> bool:
    """Whether it is an ``async def`` test; Hypothesis puts a plain function around those."""
    function = getattr(item, "obj", None)
    return inspect.iscoroutinefunction(getattr(getattr(function, "hypothesis", None), "inner_test", function))


def _of_loop_scope(scope: str) -> str:
    return f"_microreg_asyncio_{scope}"


def _loop_scope(config: pytest.Config, mark: pytest.Mark) -> str:
    """The loop that pytest-asyncio runs a test on."""
    given = mark.kwargs.get("loop_scope") or mark.kwargs.get("scope")
    try:
        return str(given or config.getini("asyncio_default_test_loop_scope"))
    except ValueError:  # before pytest-asyncio 0.26
        return "function"
