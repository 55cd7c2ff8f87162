"""The watch of all names, where what is read is newer than what the queries have told."""

from __future__ import annotations

import asyncio
import random
from typing import cast

from consul_entries import entry
from microreg import Node, Service
from microreg_consul.client import Client
from microreg_consul.health import Check, Entry
from microreg_consul.layouts import Layout
from microreg_consul.overview import Overview
from microreg_consul.records import Records
from support import run, wait_until


def standing(id: str) -> tuple[Entry, Check]:
    body = entry(Layout(), Service("web", nodes=[Node("10.0.0.1:80", id=id)]))
    check: Check = {
        "Node": "agent",
        "CheckID": f"service:web:{id}:0",
        "Name": "microreg TTL",
        "Type": "ttl",
        "Status": "passing",
        "ServiceName": "web",
        "ModifyIndex": 7,
    }
    return {**body, "Checks": [check]}, check


class Agent:
    """Node b is told of; a comes before the name is read, and is gone before the checks are told again."""

    def __init__(self) -> None:
        self.gone = asyncio.Event()

    async def services(self, index: int, wait: float) -> tuple[int, dict[str, list[str]]]:
        return (1, {"web": []}) if not index else await asyncio.Future[tuple[int, dict[str, list[str]]]]()

    async def checks(self, index: int, wait: float) -> tuple[int, list[Check]]:
        if index == 1:
            await self.gone.wait()
        elif index > 1:
            await asyncio.Future[None]()
        return (3 if index else 1), [standing("b")[1]]

    async def entries(self, name: str) -> tuple[int, list[Entry]]:
        return 2, [standing(id)[0] for id in ("b" if self.gone.is_set() else "ab")]


def test_a_node_that_came_and_went_between_two_answers_is_not_kept() -> None:
    async def main() -> None:
        agent = Agent()
        feed = Overview(cast(Client, agent), Records(), random.Random(1), lambda _: None)

        def ids() -> list[str]:
            return sorted(each.nodes[0].id for each in feed.catalog.records("web"))

        await feed.ready()
        assert ids() == ["a", "b"]
        agent.gone.set()
        await wait_until(lambda: ids() == ["b"])
        await feed.close()

    run(main())
