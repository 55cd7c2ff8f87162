"""Catalog: changes in a second, the cached view, bytes for each node."""

from __future__ import annotations

from functools import cache, partial
from itertools import repeat
from time import process_time

import msgspec
from data import ENDPOINTS, FEW, MANY, NODES, bytes_kept, encoded, records
from figures import Aim, Figure, rate
from timing import Theme, repeated

from microreg.catalog import Catalog
from microreg.codec import decode
from microreg.events import Change
from microreg.model import Service

VIEWS = 100_000


@cache
def changes() -> list[Change]:
    """Every node comes, moves to another port, and goes."""
    first, second = records(NODES), records(NODES, port=81)
    return [
        *map(Change.put, first),
        *(Change.put(new, old) for new, old in zip(second, first, strict=True)),
        *map(Change.gone, second),
    ]


def apply_changes(loops: int) -> float:
    total = 0.0
    for _ in range(loops):
        catalog, events = Catalog(), changes()
        begun = process_time()
        for change in events:
            catalog.apply(change)
        total += process_time() - begun
    return total


def assign_changes(loops: int) -> float:
    total = 0.0
    for _ in range(loops):
        nodes: dict[str, Service] = {}
        events = changes()
        begun = process_time()
        for change in events:
            nodes[change.node.id] = change.service
        total += process_time() - begun
    return total


@cache
def updates(endpoints: int) -> tuple[list[bytes], list[bytes]]:
    """The bytes of all nodes, and of the same nodes on another port."""
    some = ENDPOINTS[:endpoints]
    return encoded(FEW, endpoints=some), encoded(FEW, port=81, endpoints=some)


def read_updates(endpoints: int, loops: int) -> float:
    first, second = updates(endpoints)
    catalog, total = Catalog(), 0.0
    for data in first:
        catalog.put(decode(data))
    for _ in range(loops):
        begun = process_time()
        for data in second:
            catalog.put(decode(data))
        total += process_time() - begun
        first, second = second, first
    return total


def parse_updates(endpoints: int, loops: int) -> float:
    first, second = updates(endpoints)
    nodes: dict[str, object] = {}
    total = 0.0
    for _ in range(loops):
        begun = process_time()
        for data in second:
            document = msgspec.json.decode(data)
            nodes[document["nodes"][0]["id"]] = document
        total += process_time() - begun
        first, second = second, first
    return total


@cache
def hundred() -> Catalog:
    catalog = Catalog()
    for each in records(100):
        catalog.put(each)
    return catalog


def view() -> None:
    services = hundred().services
    for _ in repeat(None, VIEWS):
        services("greeter-0")


def look_up() -> None:
    views = {"greeter-0": hundred().services("greeter-0")}

    def get(name: str) -> object:
        return views[name]

    for _ in repeat(None, VIEWS):
        get("greeter-0")


def memory() -> Figure:
    """A catalog of decoded records, and a dict of the same nodes as plain dicts."""
    stored = encoded(MANY, names=100)

    def fill() -> Catalog:
        catalog = Catalog()
        for data in stored:
            catalog.put(decode(data))
        return catalog

    def parse() -> dict[str, object]:
        nodes = (msgspec.json.decode(data)["nodes"][0] for data in encoded(MANY, names=100, endpoints=()))
        return {node["id"]: node for node in nodes}

    ours, floor = bytes_kept(fill) / MANY, bytes_kept(parse) / MANY
    return Figure("memory of a node, of 100,000", "B", ours, floor, "a dict of the nodes only", Aim(1024, "≤ 1 KB"))


def main() -> None:
    theme = Theme("catalog")
    aim = rate(1_000_000)
    theme.pair("apply a change", apply_changes, assign_changes, "dict assignment", per=3 * NODES, aim=aim)
    for endpoints in (0, 10):
        theme.pair(
            f"bytes to catalog, {endpoints} endpoints",
            partial(read_updates, endpoints),
            partial(parse_updates, endpoints),
            "msgspec to dict",
            per=FEW,
            aim=rate(150_000),
        )
    aim = Aim(0.2e-6, "≤ 0.2 µs")
    theme.pair("services(name)", repeated(view), repeated(look_up), "a function that looks up", per=VIEWS, aim=aim)
    theme.plain(memory)
    theme.report()


if __name__ == "__main__":
    main()
