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

from collections.abc import AsyncGenerator, Iterator
from typing import TYPE_CHECKING

import pytest

from microreg.pytest_plugin.place import INI, OPTION, Opened, Place, of_test
from microreg.pytest_plugin.runners import TRIO, learn_asyncio, opening, running

if TYPE_CHECKING:
    import microreg
    import microreg.sync
    from microreg.testing.announced import Announced, SyncAnnounced
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

_NO_FAULTS = (
    "the fixture `faults` is for the registry in memory, and this test is marked real_registry: "
    "start the server in the test, and break that (microreg.testing: ServerProcess, Proxy)"
)

_place = pytest.StashKey[Place]()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The registry for tests that want a real one."""
    what = "the registry for tests that are marked real_registry, as a config string such as etcd://127.0.0.1"
    parser.getgroup("microreg").addoption(OPTION, metavar="URL", help=what)
    parser.addini(INI, help=f"{what}; {OPTION} overrides it", default="")


def pytest_configure(config: pytest.Config) -> None:
    """Declare the mark, and learn from pytest-asyncio how its fixtures are made, where it is in use."""
    config.addinivalue_line(
        "markers", f"real_registry: `registry` is that of {OPTION}, or of {INI} in the ini file; skipped without one"
    )
    learn_asyncio(config)


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
    return _fitting(request).registry


@pytest.fixture
def announced(request: pytest.FixtureRequest) -> Announced | SyncAnnounced:
    """``await announced("orders", port=8080)``, in a plain test without ``await``: a node that goes with the test."""
    return _fitting(request).announced


@pytest.fixture
def faults(_microreg_place: Place) -> FaultSwitches:
    """What can be wrong with the registry: ``with faults.down(): ...``, ``freeze()``, ``slow(seconds)``, ``wipe()``."""
    if _microreg_place.store is None:
        pytest.fail(_NO_FAULTS, pytrace=False)
    return _microreg_place.store.faults


@pytest.fixture
def virtual_time(request: pytest.FixtureRequest) -> Iterator[VirtualTime]:
    """An hour passes at once: in an ``async def`` test, in a plain one by ``virtual_time.run(main())``."""
    from microreg.testing.virtual import VirtualTime

    with VirtualTime() as time, running(request.node, time):
        yield time


# -- how they are made -------------------------------------------------------------------------------


@pytest.fixture
def _microreg_place(request: pytest.FixtureRequest) -> Iterator[Place]:
    """The registry of this test, which is $MICROREG_REGISTRY while it runs."""
    with of_test(request) as place, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MICROREG_REGISTRY", place.url)
        request.node.stash[_place] = place
        yield place
        del request.node.stash[_place]


def _fitting(
    request: pytest.FixtureRequest,
) -> Opened[microreg.Registry, Announced] | Opened[microreg.sync.Registry, SyncAnnounced]:
    """The registry in the form that suits the test, and whoever runs it."""
    opened: Opened[microreg.Registry, Announced] | Opened[microreg.sync.Registry, SyncAnnounced]
    opened = request.getfixturevalue(opening(request))
    return opened


@pytest.fixture
def _microreg_sync(_microreg_place: Place) -> Iterator[Opened[microreg.sync.Registry, SyncAnnounced]]:
    with _microreg_place.opened_sync() as opened:
        yield opened


@pytest.fixture
def _microreg_virtual(
    virtual_time: VirtualTime, _microreg_place: Place
) -> Iterator[Opened[microreg.Registry, Announced]]:
    place = _microreg_place.opened()
    yield virtual_time.run(place.__aenter__())
    virtual_time.run(place.__aexit__(None, None, None))


@pytest.fixture
async def _microreg_anyio(
    anyio_backend_name: str, _microreg_place: Place
) -> AsyncGenerator[Opened[microreg.Registry, Announced]]:
    if anyio_backend_name != "asyncio":
        pytest.fail(TRIO.format(anyio_backend_name), pytrace=False)
    async with _microreg_place.opened() as opened:
        yield opened
