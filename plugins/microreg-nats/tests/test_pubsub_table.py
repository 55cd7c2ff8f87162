"""What is remembered of what was heard: until when, how much of it, and what it takes to be believed. No server."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from microreg import Change, Service
from microreg.events import Action
from microreg.testing import virtual
from microreg_nats.pubsub import messages, table
from microreg_nats.pubsub.subjects import Subjects
from microreg_nats.pubsub.table import Table
from pubsub_peers import MYSERVICE, MYSERVICE_UNREGISTER
from strategies import record

SUBJECTS = Subjects("registry")
REGISTER, UNREGISTER = "registry.register.{}", "registry.unregister.{}"


class Heard:
    """A table, and what it has said of its nodes: ``create a``."""

    def __init__(self) -> None:
        self.news = 0
        self.doubts = 0
        self.changes: list[str] = []
        self.table = Table(SUBJECTS, news=self._count_news, doubt=self._count_doubts)
        self.table.catalog.subscribe(None, self._note)

    def _count_news(self) -> None:
        self.news += 1

    def _count_doubts(self) -> None:
        self.doubts += 1

    def _note(self, change: Change) -> None:
        why = f" {change.reason}" if change.action is Action.DELETE else ""
        self.changes.append(f"{change.action}{why} {change.node.id}")

    def register(self, service: Service, seconds: float = 15.0) -> None:
        data = messages.register(service, seconds, host="vm", now=0.0)
        self.table.heard(REGISTER.format(service.name), data)

    def unregister(self, service: Service) -> None:
        self.table.heard(UNREGISTER.format(service.name), messages.unregister(service, host="vm"))


@pytest.fixture(name="warnings")
def _warnings(caplog: pytest.LogCaptureFixture) -> Iterator[Callable[[], list[str]]]:
    """The warnings so far."""
    with caplog.at_level(logging.WARNING, "microreg.nats"):
        yield lambda: [each.getMessage() for each in caplog.records if each.name == "microreg.nats"]


def test_a_node_is_overdue_when_it_is_due_and_gone_when_that_is_sure() -> None:
    async def main() -> None:
        heard = Heard()
        heard.register(record(id="a"), 2.0)
        heard.register(record(id="b"), 3.0)
        await asyncio.sleep(1.9)
        assert (heard.doubts, heard.table.overdue) == (0, {})
        await asyncio.sleep(0.2)
        assert heard.table.overdue == {("greeter", "a"): None}
        assert heard.changes == ["create a", "create b"]
        heard.table.bury(tuple(heard.table.overdue))
        assert heard.changes[2:] == ["delete expired a"]
        await asyncio.sleep(1.0)
        assert heard.doubts == 2

    virtual.run(main())


def test_who_speaks_again_in_the_last_moment_is_not_buried() -> None:
    async def main() -> None:
        heard = Heard()
        heard.register(record(id="a"), 2.0)
        await asyncio.sleep(2.1)
        overdue = tuple(heard.table.overdue)
        heard.register(record(id="a"), 2.0)
        heard.table.bury(overdue)
        assert heard.changes == ["create a"]
        await asyncio.sleep(2.1)
        heard.table.bury(tuple(heard.table.overdue))
        assert heard.changes == ["create a", "delete expired a"]

    virtual.run(main())


def test_where_nobody_was_heard_all_have_a_while_to_speak_and_not_for_ever() -> None:
    async def main() -> None:
        heard = Heard()
        for id, seconds in (("overdue", 1.0), ("soon", 2.0), ("later", 10.0), ("long", 1000.0)):
            heard.register(record(id=id), seconds)
        await asyncio.sleep(1.5)
        heard.table.spare(5.0, 30.0)
        assert heard.table.overdue == {}
        for moment, due in ((4.9, []), (5.1, ["overdue", "soon"]), (8.6, ["later"]), (29.9, []), (30.1, ["long"])):
            await asyncio.sleep(1.5 + moment - asyncio.get_running_loop().time())
            assert [id for _, id in heard.table.overdue] == due
            heard.table.bury(tuple(heard.table.overdue))
        assert len(heard.table.catalog) == 0

    virtual.run(main())


def test_who_had_no_chance_to_renew_is_not_taken_at_its_word() -> None:
    async def main() -> None:
        heard = Heard()
        heard.table.spare(5.0, 30.0)  # nobody is known: nobody is spared
        heard.register(record(id="a"), 0.5)
        await asyncio.sleep(0.6)
        assert heard.table.overdue == {("greeter", "a"): None}
        heard.table.spare(5.0, 30.0)
        for id in "ab":
            heard.register(record(id=id), 0.5)
        await asyncio.sleep(4.9)
        assert heard.table.overdue == {}
        await asyncio.sleep(0.2)
        assert [id for _, id in heard.table.overdue] == ["a", "b"]

    virtual.run(main())


def test_news_are_what_is_new_or_changed() -> None:
    async def main() -> None:
        heard = Heard()
        for port, news in ((80, 1), (80, 1), (81, 2), (80, 3)):
            heard.register(record(port=port))
            assert heard.news == news
        heard.unregister(record())
        assert heard.news == 3
        assert heard.changes == ["create a", "update a", "update a", "delete deregistered a"]

    virtual.run(main())


def test_what_is_about_another_name_or_verb_is_none_of_our_business(warnings: Callable[[], list[str]]) -> None:
    async def main() -> None:
        heard = Heard()
        heard.register(record("greeter"))
        for subject in ("registry.ping.greeter", "registry.later.greeter", "registry.x", "elsewhere.register.greeter"):
            heard.table.heard(subject, MYSERVICE)
        assert warnings() == []
        heard.table.heard("registry.register.greeter", MYSERVICE)
        heard.table.heard("registry.unregister.greeter", MYSERVICE_UNREGISTER)
        assert [each.name for each in heard.table.catalog.records()] == ["greeter"]
        assert len(warnings()) == 2
        assert "service 'myservice'" in warnings()[0]

    virtual.run(main())


def test_malformed_messages_are_one_warning_for_each_subject_and_not_for_ever(
    warnings: Callable[[], list[str]],
) -> None:
    async def main() -> None:
        heard = Heard()
        for _ in range(3):
            for number in range(1100):
                heard.table.heard(f"registry.register.s{number}", b"null")
        assert len(warnings()) == 1000
        assert "registry.register.s0" in warnings()[0]
        assert len(heard.table.catalog) == 0

    virtual.run(main())


def test_a_flood_of_nodes_is_remembered_up_to_a_bound(
    warnings: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(table, "MAX_NODES", 100)

    async def main() -> None:
        heard = Heard()
        for number in range(150):
            heard.register(record(id=f"n{number}"))
        assert len(heard.table.catalog) == 100
        assert len(warnings()) == 1
        heard.register(record(id="n5", port=81))  # one of them may change
        heard.unregister(record(id="n7"))
        heard.unregister(record(id="n7"))
        for number in range(150, 153):
            heard.register(record(id=f"n{number}"))
        assert len(heard.table.catalog) == 100
        assert heard.changes[100:] == ["update n5", "delete deregistered n7", "create n150"]

    virtual.run(main())


def test_a_table_that_is_closed_has_no_timer() -> None:
    async def main() -> None:
        heard = Heard()
        heard.register(record(), 1.0)
        heard.table.close()
        await asyncio.sleep(2.0)
        assert heard.doubts == 0

    virtual.run(main())


steps = st.lists(
    st.tuples(st.sampled_from(["register", "unregister", "wait", "garbage"]), st.integers(0, 3), st.integers(1, 4)),
    max_size=30,
)


@settings(deadline=None)
@given(steps)
def test_it_holds_exactly_what_was_said_and_is_not_over(steps: list[tuple[str, int, int]]) -> None:
    async def main() -> None:
        heard, loop = Heard(), asyncio.get_running_loop()
        model: dict[str, tuple[Service, float]] = {}
        for what, number, seconds in steps:
            service = record(id=f"n{number}", port=seconds)
            if what == "register":
                heard.register(service, seconds)
                model[f"n{number}"] = service, loop.time() + seconds
            elif what == "unregister":
                heard.unregister(service)
                model.pop(f"n{number}", None)
            elif what == "wait":
                await asyncio.sleep(seconds * 0.7)
                heard.table.bury(tuple(heard.table.overdue))
            else:
                heard.table.heard("registry.register.greeter", json.dumps({"name": "greeter"}).encode())
            model = {id: each for id, each in model.items() if each[1] + 0.002 > loop.time()}
            assert {each.nodes[0].id: each for each in heard.table.catalog.records()} == {
                id: each for id, (each, _) in model.items()
            }
        heard.table.close()

    virtual.run(main())
