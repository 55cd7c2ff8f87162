"""Composites: from the config string to parts that are opened, named, shown and closed together."""

from __future__ import annotations

import asyncio

import pytest

import microreg
import microreg.sync
from composing import Odd, one
from doctoring import absent, found
from microreg.backends.memory import MemoryRegistry
from microreg.backends.static import StaticRegistry
from microreg.checked import Checked
from microreg.composite import Composite
from microreg.errors import ConfigError, InvalidService, RecordTooLarge, RegistryClosed, RegistryError
from microreg.findings import EXAMINE_FAILED, Finding
from microreg.layers.cache import CacheLayer
from microreg.layers.fallback import FallbackRegistry
from microreg.layers.mirror import MirrorRegistry
from microreg.layers.namespace import NamespaceLayer
from microreg.options import Duration, Options
from microreg.registry import Registry
from microreg.url import RegistryURL
from support import store_of
from timeless import run


def whole(registry: Registry) -> Composite:
    found = registry.unwrap(MirrorRegistry) or registry.unwrap(FallbackRegistry)
    assert found is not None
    return found


def test_options_of_outer_layers_stand_after_the_hash() -> None:
    registry = microreg.connect("cache+mirror:etcd://a|consul://b?timeout=9s#cache.max_stale=1h")
    assert isinstance(registry, CacheLayer) and registry._means.options.max_stale == 3600.0
    checked = registry.inner
    assert isinstance(checked, Checked) and isinstance(checked.inner, MirrorRegistry)
    first, second = whole(registry).parts
    assert (str(first.url), str(second.url)) == ("etcd://a", "consul://b?timeout=9s")
    assert (str(first), str(second)) == ("part 1 (etcd://a)", "part 2 (consul://b?timeout=9s)")
    assert checked.options.timeout == 11.0, "a part says itself that it is late"
    assert microreg.connect("fallback:memory://a|memory://b#timeout=3s").options.timeout == 3.0


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("mirror:memory://a|cache+memory://b", r"cache\+ belongs around the whole.*write cache\+mirror:…"),
        ("fallback:cache+memory://a|memory://b", r"cache\+fallback:url\|url#cache.option=value"),
        ("mirror:memory://a|memory://a", r"part 1 \(memory://a\) and part 2 are the same store"),
        ("mirror:memory://a|memory://b|memory://a?timeout=1s", "part 1 .* and part 3 are the same store"),
        ("mirror:memory://a|memory://b#merge=true", "mirror: has no option merge"),
        ("fallback:memory://a|memory://b#marge=true", "fallback: has no option marge, did you mean merge"),
        ("fallback:memory://a|memory://b#merge=perhaps", "option merge: expected true or false"),
        ("fallback:memory://a|memory://b#cache.max_stale=1h", "the URL names no layer 'cache'"),
        ("mirror:memory://a|nope://b", "no backend 'nope'"),
        ("mirror:memory://a|memory://b/path", "no path"),
        ("mirror:memory://a|mirror:memory://b|memory://c", "URL 2 of mirror"),
        ("mirror:memory://a", "two or more URLs"),
    ],
)
def test_what_is_wrong_is_a_config_error(url: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        microreg.connect(url)


def test_one_store_may_be_a_part_twice_where_its_layout_or_namespace_differs() -> None:
    assert microreg.connect("mirror:etcd://a|etcd://a?layout=go-micro")
    assert microreg.connect("mirror:memory://a|namespace+memory://a?namespace.prefix=new")


def test_layers_inside_and_around_parts() -> None:
    async def main() -> None:
        url = "namespace+mirror:memory://a|namespace+memory://b?namespace.prefix=new#namespace.prefix=all"
        async with microreg.connect(url) as registry:
            await registry.register(one())
            assert await registry.list_services() == ("orders",)
            for store, name in (("a", "all.orders"), ("b", "new.all.orders")):
                async with microreg.connect(f"memory://{store}") as plain:
                    assert await plain.list_services() == (name,)
            assert registry.unwrap(NamespaceLayer) is registry

    run(main())


def test_unwrap_reaches_the_parts_in_their_order() -> None:
    registry = microreg.connect("fallback:memory://a|namespace+memory://b?namespace.prefix=x|static://x=10.0.0.1:80")
    assert isinstance(registry, Checked) and registry.unwrap(Checked) is registry
    memory, static = registry.unwrap(MemoryRegistry), registry.unwrap(StaticRegistry)
    assert memory is not None and memory.url.location == "a" and static is not None
    assert registry.unwrap(NamespaceLayer) is not None and registry.unwrap(CacheLayer) is None
    assert registry.capabilities == {"complete_list", "authoritative"}
    assert registry.advertised_host() == "127.0.0.1"


SECRET = "hunter2"


def test_secrets_of_parts_are_never_shown() -> None:
    url = f"mirror:memory://u:{SECRET}@a|etcd://u:{SECRET}@b#timeout=2s"
    shown = [str(microreg.connect(url).url), repr(microreg.connect(url))]
    shown += [f"{part} {part!r}" for part in whole(microreg.connect(url)).parts]
    with pytest.raises(ConfigError) as caught:
        microreg.connect(f"mirror:memory://u:{SECRET}@a|memory://u:{SECRET}@a")
    assert not [text for text in (*shown, str(caught.value)) if SECRET in text]


def _made(*parts: Registry) -> Checked:
    url = RegistryURL.parse("mirror:" + "|".join(str(part.url) for part in parts))
    return Checked(MirrorRegistry([Checked(part) for part in parts], url, Options()))


class Broken(Odd):
    async def open(self) -> None:
        raise ConfigError("no such file: ca.pem")


def test_where_a_part_cannot_be_opened_none_stays_open() -> None:
    async def main() -> None:
        first, third = Odd("first"), Odd("third")
        registry = _made(first, Broken("broken"), third)
        with pytest.raises(ConfigError, match=r"part 2 \(memory://broken\): no such file"):
            await registry.open()
        for part in (first, third):
            with pytest.raises(RegistryError, match="it is not open"):
                assert part.store
        with pytest.raises(RegistryClosed):
            await registry.get_service("orders")
        await registry.close()

    run(main())


class Hanging(Odd):
    closed = False

    async def open(self) -> None:
        await super().open()
        await asyncio.sleep(100)

    async def close(self) -> None:
        self.closed = True
        await super().close()


def test_opening_can_be_cancelled_and_is_bounded() -> None:
    async def main() -> None:
        for cancel in (True, False):
            first, second = Odd("first"), Hanging("second")
            registry = _made(first, second)
            opening = asyncio.create_task(registry.open())
            await asyncio.sleep(1)
            if cancel:
                opening.cancel()
            await asyncio.wait([opening])
            assert second.closed
            with pytest.raises(RegistryError, match="it is not open"):
                assert first.store

    run(main())


def test_one_part_that_does_not_close_keeps_no_other_open() -> None:
    class Stuck(Odd):
        async def close(self) -> None:
            await super().close()
            raise OSError("odd")

    async def main() -> None:
        first, last = Odd("first"), Odd("last")
        registry = _made(first, Stuck("stuck"), last)
        await registry.open()
        with pytest.raises(RegistryError, match="odd"):
            await registry.close()
        for part in (first, last):
            with pytest.raises(RegistryError, match="it is not open"):
                assert part.store

    run(main())


def test_a_part_names_errors_of_every_kind() -> None:
    class Special(RegistryError):
        def __init__(self, *, only: int) -> None:
            super().__init__(f"special {only}")

    part = whole(microreg.connect("mirror:memory://a|memory://b")).parts[1]
    errors = Special(only=3), InvalidService("bad"), RecordTooLarge("x", size=2, limit=1)
    named = [part.named(error) for error in errors]
    assert [type(error) for error in named] == [RegistryError, InvalidService, RecordTooLarge]
    assert str(named[0]) == "part 2 (memory://b): special 3"


def test_an_examination_is_of_each_part() -> None:
    class Examined(Odd):
        async def examine(self) -> tuple[Finding, ...]:
            return (EXAMINE_FAILED("something odd"),)

    async def main() -> None:
        async with _made(Odd("first"), Examined("second")) as registry:
            store_of(registry).down = True
            findings = await registry.examine()
            assert found(findings, "examine.failed").what == "part 2 (memory://second): something odd"
            assert found(findings, "part.answers").what == "part 2 (memory://second) answers, and has 0 services"
            assert found(findings, "part.silent").what.startswith("part 1 (memory://first) does not answer: the memory")
            store_of(registry).down = False
            absent(await registry.examine(), "part.silent")
        absent(await _made(Odd("a"), Odd("b")).examine(), "part.silent")

    run(main())


def test_the_blocking_facade_has_them_too() -> None:
    with microreg.sync.connect("cache+mirror:memory://a|memory://b#cache.max_stale=1m") as registry:
        registry.register(one())
        assert registry.get_service("orders") == (one(),)
        registry.deregister(one())
    with microreg.sync.connect("fallback:memory://a|static://orders=10.0.0.1:80") as registry:
        assert [node.address for node in registry.get_service("orders")[0].nodes] == ["10.0.0.1:80"]


def test_a_time_limit_of_its_own_counts() -> None:
    url = RegistryURL.parse("mirror:memory://a|memory://b#timeout=1s")
    parts = [Checked(Odd(name)) for name in "ab"]
    assert MirrorRegistry(parts, url, Options(timeout=Duration(1.0))).options.timeout == 1.0
