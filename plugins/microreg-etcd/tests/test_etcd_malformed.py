"""What others may have written into the prefix: skipped with one warning each, and nobody else suffers."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etcd_store import Raw
from following import following, found
from microreg import Change, Node, Service, connect, merge
from microreg.codec import encode
from microreg.events import Action, Snapshot
from microreg.testing import ServerProcess
from microreg_etcd.layouts import GoMicro, Layout
from microreg_etcd.reading import Records, Standing
from servers import etcd
from support import run


@pytest.fixture(scope="module", name="server")
def _server() -> Iterator[ServerProcess]:
    with etcd() as server:
        yield server


@pytest.fixture(name="prefix")
def _prefix(request: pytest.FixtureRequest) -> str:
    """A folder of its own for each test."""
    return "".join(character if character.isalnum() else "-" for character in request.node.name)


@pytest.fixture(name="warnings")
def _warnings() -> Iterator[list[str]]:
    """The warnings of the plugin meanwhile."""
    heard: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    listener = Listener(logging.WARNING)
    logging.getLogger("microreg.etcd").addHandler(listener)
    yield heard
    logging.getLogger("microreg.etcd").removeHandler(listener)


def record(name: str, id: str, port: int = 80) -> Service:
    return Service(name, "1.0", nodes=[Node(f"10.0.0.1:{port}", id=id)])


def ids(*services: Service) -> list[str]:
    return [f"{service.name}/{node.id}" for service in services for node in service.nodes]


DEEP = b'{"name":"greeter","nodes":[{"id":"x","address":"10.0.0.1:1"}],"endpoints":[{"name":"e","request":%s}]}' % (
    b'{"name":"v","values":[' * 200 + b'{"name":"v"}' + b"]}" * 200
)

VALUES = {
    "nothing": b"",
    "no JSON": b"hello",
    "cut off": encode(record("greeter", "cut"))[:-5],
    "not UTF-8": b'{"name":"\xff\xfe"}',
    "null": b"null",
    "a list": b"[]",
    "a number": b"7",
    "a megabyte": b'{"name":"greeter","version":"' + b"x" * 1_048_576 + b'","nodes":[]}',
    "a megabyte of brackets": b"[" * 1_000_000,
    "nested values": DEEP,
    "name of the wrong type": b'{"name":7,"nodes":[]}',
    "nodes of the wrong type": b'{"name":"greeter","nodes":{"a":1}}',
    "node of the wrong type": b'{"name":"greeter","nodes":["a"]}',
    "address of the wrong type": b'{"name":"greeter","nodes":[{"id":"a","address":80}]}',
    "metadata of the wrong type": b'{"name":"greeter","metadata":{"a":1},"nodes":[{"id":"a","address":"10.0.0.1:1"}]}',
    "no name": b'{"nodes":[{"id":"a","address":"10.0.0.1:1"}]}',
    "empty name": b'{"name":"","nodes":[{"id":"a","address":"10.0.0.1:1"}]}',
    "another's name": encode(record("greeter2", "a")),
    "the name in another case": encode(record("Greeter", "a")),
    "no node": b'{"name":"greeter","nodes":[]}',
    "nodes that are null": b'{"name":"greeter","nodes":null}',
    "neither id nor address": b'{"name":"greeter","nodes":[{"metadata":{}}]}',
    "an id that cannot be shown": b'{"name":"greeter","nodes":[{"id":"a\\u001b[2J","address":"10.0.0.1:1"}]}',
}

KEYS = {
    "no id": b"greeter",
    "an empty id": b"greeter/",
    "an empty name": b"/a",
    "too deep": b"greeter/a/b",
    "nothing at all": b"",
    "not UTF-8": b"\xff\xfe/a",
    "a name that cannot be shown": b"gre%0Aeter/a",
    "another spelling of a name": b"%67reeter/a",
    "a name of 300 bytes": b"g" * 300 + b"/a",
    "a key of 100,000 bytes": b"greeter/a/" + b"x" * 100_000,
}


@pytest.mark.parametrize("layout", ["microreg", "go-micro"])
def test_values_that_are_no_record_are_skipped_with_one_warning_each(
    server: ServerProcess, prefix: str, warnings: list[str], layout: str
) -> None:
    async def main() -> None:
        url = f"etcd://127.0.0.1:{server.port}/{prefix}?layout={layout}"
        keys = [f"/{prefix}/greeter/{side}{number}".encode() for side in "az" for number in range(len(VALUES))]
        async with connect(url) as registry, Raw(server.port) as raw, following(registry) as everything:
            async with following(registry, "greeter") as one:
                await registry.register(record("greeter", "m"))
                await registry.register(record("neighbour", "m"))
                for key, value in zip(keys, list(VALUES.values()) * 2, strict=True):
                    await raw.put(key, value)
                await registry.register(record("greeter", "n"))
                for each in (one, everything):
                    await each.until(lambda at: "create greeter/n" in at.changes)
                    await each.agrees("greeter")
                    assert each.watch.error is None
                assert ids(*await found(registry, "greeter")) == ["greeter/m", "greeter/n"]
                assert await registry.list_services() == ("greeter", "neighbour")
                await everything.agrees("neighbour", "greeter2", "Greeter")
        skipped = [each.partition(": ")[0] for each in warnings]
        assert sorted(skipped) == sorted(f"skipped the record at {key.decode()}" for key in keys)
        assert all(each.isprintable() and len(each) < 500 for each in warnings)

    run(main())


def test_keys_of_others_are_skipped_with_one_warning_each(
    server: ServerProcess, prefix: str, warnings: list[str]
) -> None:
    async def main() -> None:
        good = encode(record("greeter", "a"))
        async with connect(f"etcd://127.0.0.1:{server.port}/{prefix}") as registry, Raw(server.port) as raw:
            await registry.register(record("greeter", "m"))
            for key in KEYS.values():
                await raw.put(f"/{prefix}/".encode() + key, good)
            for outside in (f"/{prefix}2/greeter/a", f"/{prefix}-/greeter/a", f"/{prefix}", "/greeter/a", "greeter/a"):
                await raw.put(outside.encode(), good)
            async with following(registry) as everything:
                assert await registry.list_services() == ("greeter",)
                assert ids(*await found(registry, "greeter")) == ["greeter/m"]
                await everything.agrees("greeter")
                assert everything.catalog.names() == ("greeter",)
                for key in KEYS.values():
                    await raw.delete(f"/{prefix}/".encode() + key)
                await registry.register(record("greeter", "n"))
                await everything.hears("create greeter/n")
        assert len(warnings) == len(KEYS)
        assert all(each.isprintable() and len(each) < 500 for each in warnings)

    run(main())


def test_a_good_record_that_becomes_garbage_is_gone_and_may_come_back(
    server: ServerProcess, prefix: str, warnings: list[str]
) -> None:
    async def main() -> None:
        key = f"/{prefix}/greeter/a".encode()
        async with connect(f"etcd://127.0.0.1:{server.port}/{prefix}") as registry, Raw(server.port) as raw:
            async with following(registry) as everything, following(registry, "greeter") as one:
                for port, garbage in ((80, b"garbage"), (81, b"null")) * 2:
                    await raw.put(key, encode(record("greeter", "a", port)))
                    for each in (one, everything):
                        await each.hears("create greeter/a")
                        await each.agrees("greeter")
                    await raw.put(key, garbage)
                    for each in (one, everything):
                        await each.hears("delete greeter/a")
                        await each.agrees("greeter")
                await raw.delete(key)
                await registry.register(record("greeter", "b"))
                for each in (one, everything):
                    await each.hears("create greeter/b")
        assert len(warnings) == 1

    run(main())


def test_what_its_owner_registers_takes_the_place_of_garbage(server: ServerProcess, prefix: str) -> None:
    async def main() -> None:
        key = f"/{prefix}/greeter/a".encode()
        async with connect(f"etcd://127.0.0.1:{server.port}/{prefix}") as registry, Raw(server.port) as raw:
            async with following(registry, "greeter") as one:
                await raw.put(key, b"garbage")
                await registry.register(record("greeter", "a"))
                await one.hears("create greeter/a")
                await raw.put(key, b"garbage")
                await one.hears("delete greeter/a")
                await registry.register(record("greeter", "a"))
                await one.hears("create greeter/a")
                await one.agrees("greeter")
                assert ids(*await found(registry, "greeter")) == ["greeter/a"]

    run(main())


def test_several_keys_may_hold_the_same_node(server: ServerProcess, prefix: str) -> None:
    """get and watch agree all the time: the last key in order counts."""

    async def main() -> None:
        def key(id: str) -> bytes:
            return f"/{prefix}/greeter/{id}".encode()

        def port() -> int:
            [service] = one.catalog.services("greeter")
            return service.nodes[0].port

        async with connect(f"etcd://127.0.0.1:{server.port}/{prefix}") as registry, Raw(server.port) as raw:
            await raw.put(key("a"), encode(record("greeter", "m", 1)))
            async with following(registry, "greeter") as one:
                assert port() == 1
                await raw.put(key("z"), encode(record("greeter", "m", 3)))
                await one.until(lambda _: port() == 3)
                await one.agrees("greeter")
                await registry.register(record("greeter", "m", 2))
                await raw.put(key("a"), encode(record("greeter", "m", 4)))
                await raw.put(key("b"), encode(record("greeter", "b", 5)))
                await one.until(lambda at: at.changes[-1:] == ["create greeter/b"])
                await one.agrees("greeter")
                await raw.delete(key("b"))
                await one.until(lambda at: at.changes[-1:] == ["delete greeter/b"])
                assert port() == 3
                async with following(registry, "greeter") as late:
                    assert late.catalog.services("greeter") == one.catalog.services("greeter")
                    await raw.delete(key("z"))
                    for each in (one, late):
                        await each.until(lambda at: at.changes[-1:] == ["update greeter/m"])
                        await each.agrees("greeter")
                    assert port() == 2
                    await registry.deregister(record("greeter", "m"))
                    await one.until(lambda _: port() == 4)
                    await one.agrees("greeter")
                    await raw.put(key("a"), b"garbage")
                    for each in (one, late):
                        await each.until(lambda at: at.changes[-1:] == ["delete greeter/m"])
                        await each.agrees("greeter")

    run(main())


_NAMES = st.sampled_from(["x", "x-y", "x/y", "%78"])
_IDS = st.sampled_from(["a", "b", "a-b", "a/b", "c"])


@settings(max_examples=200)
@given(
    st.sampled_from([Layout(""), GoMicro("")]),
    st.lists(st.tuples(_NAMES, _IDS, st.lists(st.tuples(_NAMES, _IDS), max_size=3)), max_size=12),
    st.integers(0, 12),
)
def test_the_fold_of_every_history_is_what_a_reading_says(
    layout: Layout, history: list[tuple[str, str, list[tuple[str, str]]]], read_at: int
) -> None:
    """Keys come, change and go, and hold any nodes; a watch that begins anywhere ends in what is read at the end."""
    store: dict[bytes, tuple[Service, ...]] = {}
    standing, seen = Standing(layout), dict[tuple[str, str], Service]()

    def apply(change: Change) -> None:
        node = change.service.name, change.node.id
        if change.action is Action.DELETE:
            seen.pop(node, None)
        else:
            seen[node] = change.service

    for number, (name, id, nodes) in enumerate(history):
        if number == read_at:
            standing, seen = Standing(layout), {}
            for key in sorted(store):
                standing.load(key, store[key])
                seen |= {(each.name, each.nodes[0].id): each for each in store[key]}
        key = layout.key(name, id)
        records = tuple(record(*node, port=number + port + 1) for port, node in enumerate(nodes))
        store.pop(key, None)
        if records:
            store[key] = records
        for change in standing.put(key, records):
            apply(change)
        if number >= read_at or read_at >= len(history):
            assert merge(seen.values()) == merge(each for key in sorted(store) for each in store[key])
    assert Snapshot.of(seen.values()).services == merge(each for key in sorted(store) for each in store[key])


@given(st.text(min_size=1, max_size=20), st.text(min_size=1, max_size=20))
def test_a_key_tells_what_it_was_made_of(name: str, id: str) -> None:
    layout = Layout("some/where")
    try:
        key = layout.key(name, id)
    except UnicodeEncodeError:
        return  # a lone surrogate, which every registry refuses before
    first, end = layout.range(name)
    assert first <= key < end
    assert key.count(b"/") == 4
    assert layout.parse(key) == ((name, id) if name.isprintable() else None)


def test_no_more_than_a_thousand_keys_are_warned_of(warnings: list[str]) -> None:
    records = Records(Layout(""))
    for _ in range(2):
        for number in range(1500):
            assert records.read(b"/microreg/greeter/%d" % number, b"garbage") == ()
    assert len(warnings) == 1000
