"""mdns://: what strangers can make us remember has a bound, in number and in time."""

from __future__ import annotations

import asyncio

from microreg.backends.mdns.own import Own
from microreg.backends.mdns.recent import Recent
from microreg.backends.mdns.table import Table
from microreg.model import Node, Service
from microreg.testing.virtual import VirtualLoop
from support import run


def test_the_oldest_make_room() -> None:
    async def main() -> None:
        recent: Recent[int, str] = Recent(3)
        for number in (1, 2, 3, 1, 4):
            recent.put(number, str(number))
        assert [number for number in range(6) if number in recent] == [1, 3, 4]
        assert len(recent) == 3
        assert (recent.get(1), recent.get(2)) == ("1", None)

    run(main())


def test_what_is_too_old_is_forgotten() -> None:
    async def main() -> None:
        recent: Recent[str, int] = Recent(3, 10.0)
        recent.put("a", 1)
        recent.put("b", 1)
        await asyncio.sleep(6)
        recent.put("a", 2)
        await asyncio.sleep(6)
        assert (recent.get("a"), "b" in recent) == (2, False)
        recent.put("c", 3)
        assert len(recent) == 2
        await asyncio.sleep(10)
        assert "a" not in recent and "c" not in recent

    run(main(), 60, loop_factory=VirtualLoop)


def test_a_node_is_found_by_all_that_is_said_of_it_until_it_is_taken_out() -> None:
    table = Table()
    # "a.b" and "a-b" have one subtype
    one, other = (Own(Service(name, nodes=[Node("h:80", id="x")]), 15, 1) for name in ("a.b", "a-b"))
    for own in (one, other):
        table.add(own)
    assert [table.get(one.key), table.by_label(one.label), table.by_identity(one.identity)] == [one] * 3
    assert list(table.by_subtype(one.subtype)) == list(table) == list(table.named(None)) == [one, other]
    assert list(table.named("a-b")) == [other]
    assert (table.pop(one.key), table.pop(one.key)) == (one, None)
    assert [table.get(one.key), table.by_label(one.label), table.by_identity(one.identity)] == [None] * 3
    assert list(table.by_subtype(one.subtype)) == [other]
    table.pop(other.key)
    assert (len(table), table._subtypes) == (0, {})
