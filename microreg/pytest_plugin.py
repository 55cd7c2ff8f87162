"""The pytest plugin: for tests of programs that use a registry, and of what they do when it dies.

pytest finds it by itself; nothing is imported before a test asks for one of its fixtures:

- ``registry``: open, in memory, the test's own: a :class:`microreg.Registry` in an ``async def`` test, a
  :class:`microreg.sync.Registry` in any other. ``connect()`` in the code under test finds the same registry.
- ``announced``: ``await announced("orders", port=8080)`` (without ``await`` in a plain test) lets a node appear.
- ``faults``: ``with faults.down(): ...``, and ``freeze()``, ``slow(seconds)``, ``wipe()``.
- ``virtual_time``: in a test that names it an hour passes at once.

``@pytest.mark.real_registry`` takes the registry of ``--microreg-registry URL`` instead. See
``docs/howto/test-your-code.md``; ``-p no:microreg`` turns all of this off.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import AsyncGenerator, Generator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from functools import partial, wraps
from types import ModuleType
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

import pytest

if TYPE_CHECKING:
    import microreg
    import microreg.sync
    from microreg.testing.announced import Announced, SyncAnnounced
    from microreg.testing.fake import FakeStore
    from microreg.testing.switches import FaultSwitches
    from microreg.testing.virtual import VirtualTime

__all__ = [
    "announced",
    "faults",
    "pytest_addoption",
    "pytest_configure",
    "pytest_runtest_teardown",
    "registry",
    "virtual_time",
]

R = TypeVar("R", "microreg.Registry", "microreg.sync.Registry")
A = TypeVar("A", "Announced", "SyncAnnounced")

_ASYNCIO = "microreg-asyncio"
_OPTION = "--microreg-registry"
_INI = "microreg_registry"
_LoopScope = Literal["function", "class", "module", "package", "session"]
_LOOP_SCOPES: tuple[_LoopScope, ...] = ("function", "class", "module", "package", "session")
_NO_FAULTS = (
    "the fixture `faults` is for the registry in memory, and this test is marked real_registry: "
    "start the server in the test, and break that (microreg.testing: ServerProcess, Proxy)"
)
_NO_RUNNER = (
    "nobody who could open `registry` runs this async test: mark it @pytest.mark.asyncio (pip install pytest-asyncio) "
    "or @pytest.mark.anyio, or let the test have the fixture virtual_time, which runs it by itself"
)
_OLD = "`registry` needs pytest-asyncio 0.24 or newer: pip install --upgrade pytest-asyncio"
_TRIO = (
    "microreg is for asyncio, and this test runs on {}: @pytest.fixture def anyio_backend(): return 'asyncio' "
    "says so for the tests that use `registry`"
)


@dataclass(frozen=True, slots=True)
class _Place:
    """Which registry a test has: its config string and, where it is in memory, the store itself."""

    url: str
    store: FakeStore | None


@dataclass(frozen=True, slots=True)
class _Opened(Generic[R, A]):
    """The registry of a test, open, and the factory of its nodes."""

    registry: R
    announced: A


_place = pytest.StashKey[_Place]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The registry for tests that want a real one."""
    what = "the registry for tests that are marked real_registry, as a config string such as etcd://127.0.0.1"
    parser.getgroup("microreg").addoption(_OPTION, metavar="URL", help=what)
    parser.addini(_INI, help=f"{what}; {_OPTION} overrides it", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark, and learn from pytest-asyncio how its fixtures are made, where it is in use."""
    config.addinivalue_line(
        "markers", f"real_registry: `registry` is that of {_OPTION}, or of {_INI} in the ini file; skipped without one"
    )
    if config.pluginmanager.has_plugin("asyncio"):
        plugin = _for_pytest_asyncio()
        if plugin is not None:
            config.pluginmanager.register(plugin, _ASYNCIO)


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_teardown(item: pytest.Item) -> None:
    """All is well again before the first fixture ends: what a test started can leave the registry in order."""
    place = item.stash.get(_place, None)
    if place is not None and place.store is not None:
        place.store.faults.restore()


# -- what tests ask for ------------------------------------------------------------------------------


@pytest.fixture
def registry(request: pytest.FixtureRequest) -> microreg.Registry | microreg.sync.Registry:
    """An open registry in memory, the test's own, which ``connect()`` in the code under test finds too.

    A microreg.Registry for an ``async def`` test (pytest-asyncio, anyio) and for tests in virtual time, a
    microreg.sync.Registry for any other.
    """
    return _opened(request).registry


@pytest.fixture
def announced(request: pytest.FixtureRequest) -> Announced | SyncAnnounced:
    """``await announced("orders", port=8080)``, in a plain test without ``await``: a node that goes with the test."""
    return _opened(request).announced


@pytest.fixture
def faults(_microreg_place: _Place) -> FaultSwitches:
    """What can be wrong with the registry: ``with faults.down(): ...``, ``freeze()``, ``slow(seconds)``, ``wipe()``."""
    if _microreg_place.store is None:
        pytest.fail(_NO_FAULTS, pytrace=False)
    return _microreg_place.store.faults


@pytest.fixture
def virtual_time(request: pytest.FixtureRequest) -> Iterator[VirtualTime]:
    """An hour passes at once: in an ``async def`` test, in a plain one by ``virtual_time.run(main())``."""
    from microreg.testing.virtual import VirtualTime

    with VirtualTime() as time, _running(request.node, time):
        yield time


# -- how they are made -------------------------------------------------------------------------------


@pytest.fixture
def _microreg_place(request: pytest.FixtureRequest) -> Iterator[_Place]:
    """The registry of this test, which is $MICROREG_REGISTRY while it runs."""
    with _a_place(request) as place, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MICROREG_REGISTRY", place.url)
        request.node.stash[_place] = place
        yield place
        del request.node.stash[_place]


@contextmanager
def _a_place(request: pytest.FixtureRequest) -> Generator[_Place]:
    if request.node.get_closest_marker("real_registry") is not None:
        url = request.config.getoption(_OPTION) or request.config.getini(_INI)
        if not url:
            pytest.skip(f"needs a real registry: pytest {_OPTION} URL, or {_INI} in the ini file")
        yield _Place(_namespaced(url), None)
        return
    from microreg.testing.fake import FakeStore

    loop = request.getfixturevalue("virtual_time").loop if _is_virtual(request) else None
    with FakeStore(loop=loop) as store:
        yield _Place(store.url, store)


def _namespaced(url: str) -> str:
    """The same store, in a namespace that no other test has, nor the same one in another process."""
    from microreg.url import RegistryURL

    parsed = RegistryURL.parse(url)
    if "namespace" in parsed.layers:
        return url
    first = "#" if parsed.parts else "?"
    return f"namespace+{url}{'&' if first in url else first}namespace.prefix=test-{os.urandom(6).hex()}"


def _opened(
    request: pytest.FixtureRequest,
) -> _Opened[microreg.Registry, Announced] | _Opened[microreg.sync.Registry, SyncAnnounced]:
    """The registry in the form that suits the test, and whoever runs it."""
    if _is_virtual(request):
        name = "_microreg_virtual"
    elif _is_async(request.node):
        name = _for_the_runner(request)
    else:
        name = "_microreg_sync"
    opened: _Opened[microreg.Registry, Announced] | _Opened[microreg.sync.Registry, SyncAnnounced]
    opened = request.getfixturevalue(name)
    return opened


def _for_the_runner(request: pytest.FixtureRequest) -> str:
    """The fixture that whoever runs this async test can set up, on the test's loop."""
    plugins, mark = request.config.pluginmanager, request.node.get_closest_marker("asyncio")
    if mark is not None and plugins.has_plugin("asyncio"):
        if not plugins.has_plugin(_ASYNCIO):
            pytest.fail(_OLD, pytrace=False)
        return _of_loop_scope(_loop_scope(request.config, mark))
    if "anyio_backend" in request.fixturenames:
        return "_microreg_anyio"
    pytest.fail(_NO_RUNNER, pytrace=False)


@asynccontextmanager
async def _open(place: _Place) -> AsyncGenerator[_Opened[microreg.Registry, Announced]]:
    from microreg import connect
    from microreg.testing.announced import Announced

    async with connect(place.url) as registry:
        announced = Announced(registry)
        try:
            yield _Opened(registry, announced)
        finally:
            await announced.close()


@pytest.fixture
def _microreg_sync(_microreg_place: _Place) -> Iterator[_Opened[microreg.sync.Registry, SyncAnnounced]]:
    from microreg.sync import connect
    from microreg.testing.announced import SyncAnnounced

    with connect(_microreg_place.url) as registry:
        yield _Opened(registry, SyncAnnounced(registry))


@pytest.fixture
def _microreg_virtual(
    virtual_time: VirtualTime, _microreg_place: _Place
) -> Iterator[_Opened[microreg.Registry, Announced]]:
    opening = _open(_microreg_place)
    opened = virtual_time.run(opening.__aenter__())
    yield opened
    virtual_time.run(opening.__aexit__(None, None, None))


@pytest.fixture
async def _microreg_anyio(
    anyio_backend_name: str, _microreg_place: _Place
) -> AsyncGenerator[_Opened[microreg.Registry, Announced]]:
    if anyio_backend_name != "asyncio":
        pytest.fail(_TRIO.format(anyio_backend_name), pytrace=False)
    async with _open(_microreg_place) as opened:
        yield opened


def _for_pytest_asyncio() -> ModuleType | None:
    """A plugin with one more fixture for each loop that pytest-asyncio may run a test on; None where it is too old."""
    import pytest_asyncio

    if "loop_scope" not in inspect.signature(pytest_asyncio.fixture).parameters:
        return None
    plugin = ModuleType("microreg_asyncio")
    for scope in _LOOP_SCOPES:

        async def opened(_microreg_place: _Place) -> AsyncGenerator[_Opened[microreg.Registry, Announced]]:
            async with _open(_microreg_place) as opened:
                yield opened

        name = _of_loop_scope(scope)
        setattr(plugin, name, pytest_asyncio.fixture(name=name, loop_scope=scope)(opened))
    return plugin


def _of_loop_scope(scope: str) -> str:
    return f"_microreg_asyncio_{scope}"


def _loop_scope(config: pytest.Config, mark: pytest.Mark) -> str:
    """The loop that pytest-asyncio runs a test on."""
    given = mark.kwargs.get("loop_scope") or mark.kwargs.get("scope")
    try:
        return str(given or config.getini("asyncio_default_test_loop_scope"))
    except ValueError:  # before pytest-asyncio 0.26
        return "function"


def _is_virtual(request: pytest.FixtureRequest) -> bool:
    return "virtual_time" in request.fixturenames


def _is_async(item: pytest.Item) -> bool:
    """Whether it is an ``async def`` test; Hypothesis puts a plain function around those."""
    function = getattr(item, "obj", None)
    return inspect.iscoroutinefunction(getattr(getattr(function, "hypothesis", None), "inner_test", function))


@contextmanager
def _running(item: pytest.Item, time: VirtualTime) -> Generator[None]:
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
