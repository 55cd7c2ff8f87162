"""connect(): from a config string to a registry, and the front door of the package."""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable

import pytest

import microreg
import microreg.sync
from microreg.backends.memory import MemoryRegistry
from microreg.backends.static import StaticRegistry
from microreg.checked import Checked
from microreg.errors import ConfigError
from microreg.layers.cache import CacheLayer, CacheOptions
from microreg.url import RegistryURL
from support import python, run


def test_a_backend_is_always_inside_checked() -> None:
    registry = microreg.connect("memory://")
    assert isinstance(registry, Checked) and isinstance(registry.inner, MemoryRegistry)


def test_layers_are_put_around_in_the_order_of_the_string() -> None:
    registry = microreg.connect("cache+memory://x")
    assert isinstance(registry, CacheLayer) and isinstance(registry.inner, Checked)
    assert registry.url.location == "x"
    assert microreg.connect("cache+static://a=10.0.0.1:80").unwrap(StaticRegistry) is not None


def test_options_go_to_whom_they_are_meant_for() -> None:
    registry = microreg.connect("cache+memory://?timeout=2s&cache.idle=7s")
    checked = registry.unwrap(Checked)
    assert checked is not None and checked.options.timeout == 2.0
    assert isinstance(registry.options, CacheOptions) and registry.options.idle == 7.0


def test_a_parsed_url_is_taken_as_it_is() -> None:
    url = RegistryURL.parse("memory://x?timeout=1s")
    assert microreg.connect(url).url is url


def test_without_an_argument_the_environment_says_where(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (None, ""):
        if variable is not None:
            monkeypatch.setenv("MICROREG_REGISTRY", variable)
        assert str(microreg.connect().url) == "mdns://"
    monkeypatch.setenv("MICROREG_REGISTRY", "cache+memory://y")
    assert isinstance(microreg.connect(), CacheLayer)
    assert str(microreg.connect("memory://x").url) == "memory://x"


@pytest.mark.parametrize("connect", [microreg.connect, microreg.sync.connect], ids=["asyncio", "sync"])
def test_what_is_wrong_in_the_environment_is_said_of_it(
    monkeypatch: pytest.MonkeyPatch, connect: Callable[..., object]
) -> None:
    for wrong, said in (
        ("nonsense", "expected a registry URL"),
        ("bogus://", "no backend 'bogus' is installed"),
        ("memory://?bogus=1", "has no option bogus"),
        ("memory://:${MICROREG_TEST_UNSET}@x", "the password needs the environment variable MICROREG_TEST_UNSET"),
    ):
        monkeypatch.setenv("MICROREG_REGISTRY", wrong)
        with pytest.raises(ConfigError, match=re.escape(said)) as caught:
            connect()
        assert str(caught.value).startswith("$MICROREG_REGISTRY: ")
        with pytest.raises(ConfigError, match=re.escape(said)) as caught:
            connect(wrong)
        assert "MICROREG_REGISTRY" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("", "the registry URL is empty"),
        ("memory", "://"),
        ("memroy://", "did you mean 'memory'"),
        ("cahce+memory://", "did you mean 'cache'"),
        ("+memory://", "expected a registry URL"),
        ("memory+memory://", "no layer 'memory'"),
        ("cache+cache+memory://", "named twice"),
        ("cache://", "no backend 'cache'"),
        ("memory://?nope=1", "no option nope"),
        ("memory://?timeout=fast", "timeout"),
        ("memory://?cache.timeout=1s", "names no layer 'cache'"),
        ("cache+memory://?cache.nope=1", "nope"),
        ("cache+memory://?cache.timeout=1ms", r"did you mean timeout\? known: cache.disk"),
        ("otel+memory://?otel.timeout=1ms", r"did you mean timeout\? known: none"),
        ("namespace+memory://?namespace.prefix=a&namespace.timeout=1s", r"did you mean timeout\? known: namespace"),
        ("cache+memory://?max_stale=1h", r"memory:// has no option max_stale, did you mean cache.max_stale\?"),
        ("cache+mirror:memory://a|memory://b#max_stale=1h", r"mirror: .*, did you mean cache.max_stale\?"),
        ("cache+fallback:memory://a|memory://b#cache.merge=1", r"cache\+ .*, did you mean merge\?"),
        ("memory://x/path", "no path"),
        (5, "as str, got int"),
        (b"memory://", "as str, got bytes"),
    ],
)
def test_what_is_wrong_is_a_config_error(url: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        microreg.connect(url)  # type: ignore[arg-type]


def test_a_secret_is_never_in_an_error() -> None:
    users = "user:hunter2@", "hunter2@", "hunter2:@"
    places = "nope://{}host", "memory://{}x/path", "memory://{}x?nope=1", "http://{}x", "mdns://{}", "static://{}x"
    for user, place in itertools.product(users, places):
        with pytest.raises(ConfigError) as caught:
            microreg.connect(place.format(user))
        assert "hunter2" not in str(caught.value)


def test_nothing_is_opened_by_connect() -> None:
    async def main() -> None:
        registry = microreg.connect("memory://")
        with pytest.raises(microreg.RegistryClosed):
            await registry.list_services()
        async with registry:
            assert await registry.list_services() == ()

    run(main())


# -- the front door ------------------------------------------------------------------------------------


def test_functions_stay_functions_when_their_modules_are_imported() -> None:
    code = """
import microreg
import microreg.announce, microreg.connect
from microreg.announce import announce
from microreg.connect import connect, DEFAULT_URL
assert microreg.announce is announce and callable(announce), microreg.announce
assert microreg.connect is connect and callable(connect), microreg.connect
"""
    for first in ("", "import microreg.connect, microreg.announce"):
        assert python(f"{first}{code}print('same')").split() == ["same"]


def test_importing_is_light_and_using_memory_loads_no_client_library() -> None:
    code = """
import sys, microreg
heavy = {"asyncio", "zeroconf", "pluggy", "importlib.metadata", "msgspec", "ifaddr"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
import asyncio
async def main():
    async with microreg.connect("cache+memory://") as registry:
        async with microreg.announce(registry, "greeter", port=80):
            async with microreg.Selector(registry) as selector:
                print((await selector.select("greeter")).port)
asyncio.run(main())
assert not {"zeroconf", "ifaddr", "typer", "rich"} & set(sys.modules)
"""
    assert python(code) == "80\n"
