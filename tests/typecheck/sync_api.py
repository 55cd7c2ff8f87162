"""What type checkers see of microreg.sync. Never run: mypy and pyright read it (see tests/test_sync.py).

A line that is wrong on purpose bears an ignore for each checker; both report an ignore that is not needed.
"""

from __future__ import annotations

from typing import assert_type

import microreg.sync
from microreg import Node, Service, Status
from microreg.announce.announcement import State, Transition
from microreg.events import Event
from microreg.findings import Finding


def verbs(service: Service) -> None:
    with microreg.sync.connect("memory://") as registry:
        assert_type(registry, microreg.sync.Registry)
        assert_type(registry.register(service, ttl=5.0), None)
        assert_type(registry.deregister(service=service), None)
        assert_type(registry.get_service("greeter"), tuple[Service, ...])
        assert_type(registry.list_services(), tuple[str, ...])
        assert_type(registry.examine(), tuple[Finding, ...])
        with registry.watch("greeter") as events:
            assert_type(events, microreg.sync.Watch)
            for event in events:
                assert_type(event, Event)


def mistakes(registry: microreg.sync.Registry, service: Service) -> None:
    registry.register("greeter")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    registry.register(service, 5.0)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    registry.get_service()  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    registry.get_service(title="greeter")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    registry.watch(1)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    microreg.sync.announce(registry, "greeter", port="80")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
    microreg.sync.announce(registry, "greeter", prt=80)  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    microreg.sync.announce("memory://", "greeter")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def announcing(registry: microreg.sync.Registry) -> None:
    def healthy() -> bool:
        return True

    with microreg.sync.announce(registry, "greeter", port=8080, check=healthy, ttl=5) as announcement:
        assert_type(announcement, microreg.sync.Announcement)
        assert_type(announcement.wait_live(timeout=1), None)
        assert_type(announcement.changed(announcement.history[0], timeout=1), tuple[Transition, ...])
        assert_type(announcement.update(status=Status.WARNING, metadata={"zone": "a"}), None)
        assert_type(announcement.state, State)
        assert_type(announcement.history, tuple[Transition, ...])
        assert_type(announcement.service, Service)
        assert_type(announcement.node, Node)
        assert_type(announcement.drain(), None)
        announcement.changed(State.LIVE)  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]
        announcement.update(status="warning")  # type: ignore[arg-type] # pyright: ignore[reportArgumentType]


def selecting(registry: microreg.sync.Registry) -> None:
    def length(node: Node) -> int:
        return len(node.address)

    async def waits(node: Node) -> int:
        return len(node.address)

    with microreg.sync.Selector(registry, "round_robin") as selector:
        assert_type(selector, microreg.sync.Selector)
        assert_type(selector.pick("greeter"), Node)
        assert_type(selector.select("greeter", timeout=1), Node)
        assert_type(selector.call("greeter", length, attempts=2, retry_on=ConnectionError), int)
        assert_type(selector.explain("greeter").nodes[0].latency, float | None)
        with selector.acquire("greeter") as acquired, selector.track("greeter", acquired) as tracked:
            assert_type(acquired, Node)
            assert_type(tracked, Node)
        count: int = selector.call("greeter", waits)  # type: ignore[assignment] # pyright: ignore[reportAssignmentType]
        del count


async def anything_else(registry: microreg.sync.Registry) -> None:
    async def lookup(name: str, *, limit: int) -> bytes:
        return name.encode()[:limit]

    assert_type(registry.portal.call(lookup, "greeter", limit=3), bytes)
    registry.portal.call(lookup, "greeter")  # type: ignore[call-arg] # pyright: ignore[reportCallIssue]
    await registry.get_service("greeter")  # type: ignore[misc] # pyright: ignore[reportGeneralTypeIssues]
