"""``layout=go-micro``: one fleet with go-micro's programs. What they read and write, tag by tag.

go-micro's Consul registry keeps what it knows of a node in tags of its service: a pair of metadata, an endpoint or the
version each, deflated and in hexadecimal digits. No two builds deflate alike, so tags are compared inflated. The
vectors were written by go-micro's current version and by v2.9.1, built with Go 1.25 and 1.27.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import asynccontextmanager
from typing import cast

import pytest

import microreg
from consul_entries import entry, raw
from consul_store import Raw, neighbour
from microreg import Change, Endpoint, Node, Reason, Registry, Service, Status, Value, Watch
from microreg.testing import CHECKS, Harness, ServerProcess, contract, running
from microreg_consul.layouts import GoMicro, Layout
from microreg_consul.records import Records
from microreg_consul.tags import pack, unpack
from servers import consul
from support import run, wait_until

pytestmark = pytest.mark.timeout(300)  # the first test of the contract runs all checks

TAGS = [
    "t-789caa562a28ca2fc94fcecf51b2524a2f2a4856aa05040000ffff468306d9",
    "t-789caa56aacacf4b55b2524a54aa05040000ffff1a7e03d8",
    "e-789c8ccd41aa02311084e1bbd43abc03e402cfb55b7111b018844e66ecee08127277611883382e5c35fc74f135286f95e6880d256522e2"
    "4091f9b8e5007f2c5fea3d49a5219ec66c3de3dd5caf657a7b2c55a49f7b80d296b918f7e2d63fc991f766b6e91732d3d32579426c3dbcb6"
    "ff4a3af56f55d09f010000ffffa70f5b4b",
    "v-789c32d433d03300040000ffff02ce00ee",
]
"""What its current version writes, built with Go 1.25."""
V2_ENDPOINT = (
    "e-789c8c8d410ac2301045eff2d7c503e402ba762b2e06fc146192d6cc449092bb8ba504312eba1a78f33e6f419248041c33e9cc87135527"
    "0cc87c149a233463fd9c373cc05ff31ffa142d34844b9bada7e9e6f99ec62f3115d57aad9fa0cd5332f6c58dff261bee9bd1c63dc948979b"
    "b8202cb5be030000ffff48345b4b"
)
"""The endpoint as v2.9.1 writes it: its fields have another order."""
GREETER = Service(
    "greeter",
    "1.0.0",
    {},
    [
        Endpoint(
            "Greeter.Hello",
            Value("HelloRequest", "HelloRequest", (Value("name", "string"),)),
            Value("HelloResponse", "HelloResponse", (Value("msg", "string"),)),
        )
    ],
    [Node("10.0.0.7:9090", id="greeter-1", metadata={"protocol": "grpc", "zone": "a"})],
)
META = {"protocol": "grpc", "zone": "a"}


def theirs(*tags: str, meta: dict[str, str] | None = None) -> dict[str, object]:
    """The greeter as go-micro registers it, with these tags."""
    return raw(ID="greeter-1", Service="greeter", Address="10.0.0.7", Port=9090, Tags=list(tags), Meta=meta)


def inflated(tag: str) -> tuple[str, object]:
    """What a tag says, whoever deflated it, and in whatever order its keys are."""
    kind, _, digits = tag.partition("-")
    data = zlib.decompress(bytes.fromhex(digits))
    return kind, data.decode() if kind == "v" else json.loads(data)


def plain(tag: str) -> str:
    """The same in the form of go-micro's first versions."""
    return f"{tag[0]}={zlib.decompress(bytes.fromhex(tag[2:])).decode()}"


def test_a_node_is_written_as_go_micro_writes_it() -> None:
    written = GoMicro().registration(GREETER)
    tags = cast("list[str]", written.pop("Tags"))
    assert written == {"ID": "greeter-1", "Name": "greeter", "Address": "10.0.0.7", "Port": 9090, "Meta": META}
    assert [inflated(tag) for tag in tags] == [inflated(tag) for tag in TAGS]
    assert inflated(tags[2]) == inflated(V2_ENDPOINT)


@pytest.mark.parametrize("endpoint", [TAGS[2], V2_ENDPOINT], ids=["current", "v2.9.1"])
@pytest.mark.parametrize("meta", [META, None], ids=["with Meta", "v1.13, without"])
@pytest.mark.parametrize("turn", [1, -1], ids=["in order", "in another order"])
def test_what_go_micro_writes_is_read(endpoint: str, meta: dict[str, str] | None, turn: int) -> None:
    tags = [*TAGS[:2], endpoint, TAGS[3]][::turn]
    assert Records().read(theirs(*tags, meta=meta)) == GREETER
    assert Records().read(theirs(*map(plain, tags), meta=meta)) == GREETER


@pytest.mark.parametrize(
    ("tag", "version"),
    [
        ("v-789c32d433d03300040000ffff02ce00ee", "1.0.0"),
        ("v-789c000500faff312e302e30030002ce00ee", "1.0.0"),
        ("v-789c33d433d033000002ce00ee", "1.0.0"),
        ("v-789cca492c492d2e01040000ffff08cc028e", "latest"),
        ("v-789c010000ffff00000001", ""),
        ("v=1.0.0", "1.0.0"),
        ("v=", ""),
    ],
)
def test_versions_as_different_builds_deflate_them(tag: str, version: str) -> None:
    assert unpack([tag]).version == version
    found = Records().read(theirs(tag, meta={"version": "9"}))
    assert found and found.version == version


def test_without_a_tag_of_the_version() -> None:
    assert unpack(TAGS[:3]).version is None
    found = Records().read(theirs(*TAGS[:3]))
    assert found and found == Service("greeter", "", {}, GREETER.endpoints, GREETER.nodes)


def test_tags_of_others_do_not_shadow_anything() -> None:
    """go-micro itself loses all metadata to a tag like the first one, and crashes at one like the second."""
    foreign = ["traefik.enable=true", "t", "e", "v", "v2", "t-shirts", "e-commerce", "tcp", "edge", "urlprefix-/x"]
    assert Records().read(theirs(*foreign, *TAGS)) == GREETER
    assert Records().read(theirs(*TAGS, *foreign)) == GREETER


def test_characters_that_json_escapes() -> None:
    metadata = {"a": "<&>\u2028", "b": 'quote"\\', "c": "é🙂", "d": ""}
    record = GREETER.with_nodes(GREETER.nodes[0].replace(metadata=metadata))
    tags = pack(record)
    assert zlib.decompress(bytes.fromhex(tags[0][2:])) == rb'{"a":"\u003c\u0026\u003e\u2028"}'
    assert Records().read(entry(GoMicro(), record)) == record


def test_what_the_tags_cannot_carry_is_where_go_micro_does_not_look() -> None:
    record = Service(
        "greeter", "1.0.0", {"team": "core"}, GREETER.endpoints, [GREETER.nodes[0].replace(status=Status.WARNING)]
    )
    written = GoMicro().registration(record)
    assert written["Meta"] == META | {
        "microreg-more-1": '{"name":"greeter","metadata":{"team":"core"},'
        '"nodes":[{"id":"greeter-1","status":"warning"}]}'
    }
    assert Records().read(entry(GoMicro(), record)) == record


def test_keys_that_consul_refuses_are_in_the_tags_only() -> None:
    metadata = {"port.http": "8080", "a__b": "c", "consul-x": "y", "microreg-1": "z", "long": "x" * 600}
    record = GREETER.with_nodes(GREETER.nodes[0].replace(metadata=metadata))
    assert GoMicro().registration(record)["Meta"] == {"a__b": "c"}
    assert Records().read(entry(GoMicro(), record)) == record


def test_both_layouts_are_read_side_by_side() -> None:
    records = Records()
    assert records.read(entry(Layout(), GREETER)) == records.read(entry(GoMicro(), GREETER)) == GREETER
    assert records.read(theirs(*TAGS, meta=META)) == GREETER


def test_the_same_record_has_the_same_tags() -> None:
    """In another order they would be a change to Consul, and wake everybody who watches."""
    turned = dict(reversed(GREETER.nodes[0].metadata.items()))
    assert pack(GREETER.with_nodes(GREETER.nodes[0].replace(metadata=turned))) == pack(GREETER)


def test_ids_of_others_are_longer() -> None:
    id = "go.micro.srv.greeter-" + "0123456789abcdef" * 6
    found = Records().read(raw(ID=id, Service="go.micro.srv.greeter", Address="::1", Port=1, Tags=TAGS))
    assert found and found.nodes[0].id == id and found.nodes[0].address == "[::1]:1"


# -- with an agent -----------------------------------------------------------------------------------------------------

server = consul("contract", dev=True)
harness = Harness(f"consul://127.0.0.1:{server.port}?layout=go-micro&timeout=20s", ttl=2.0, grace=5, patience=10)

# What happens to the agent is the same in every layout: test_consul_contract.py.
TestGoMicro = contract(
    harness,
    [check for check in CHECKS if check.requires <= harness.offers],
    around=lambda: running(server, neighbour(server)),
)


@pytest.fixture(scope="module", name="agent")
def _agent() -> Iterator[ServerProcess]:
    with consul("fleet", dev=True) as agent:
        yield agent


@asynccontextmanager
async def fleet(agent: ServerProcess, layout: str = "go-micro") -> AsyncGenerator[tuple[Registry, Raw]]:
    """A registry in a fleet, and go-micro's hand in the agent."""
    url = f"consul://127.0.0.1:{agent.port}?layout={layout}"
    async with microreg.connect(url) as registry, Raw(agent.port) as raw:
        yield registry, raw


async def go_micro_registers(raw: Raw, *tags: str, ttl: str = "1m30s", address: str = "10.0.0.7") -> None:
    """What go-micro asks the agent for: the service with its check, which is critical, and then to pass that."""
    check = {"TTL": ttl, "DeregisterCriticalServiceAfter": "1m5s"}
    await raw.register("greeter-1", "greeter", Address=address, Port=9090, Tags=list(tags), Meta=META, Check=check)
    await raw.put("/agent/check/pass/service:greeter-1?note=")


async def told(events: Watch) -> Change:
    """The next change."""
    event = await anext(events)
    assert isinstance(event, Change)
    return event


@pytest.mark.parametrize("layout", ["microreg", "go-micro"])
def test_a_node_of_go_micro_comes_changes_and_goes(agent: ServerProcess, layout: str) -> None:
    async def main() -> None:
        async with fleet(agent, layout) as (registry, raw), registry.watch("greeter") as events:
            await anext(events)
            await go_micro_registers(raw, *TAGS)
            change = await told(events)
            assert (change.action, change.service) == ("create", GREETER)
            assert await registry.get_service("greeter") == (GREETER,)
            assert "greeter" in await registry.list_services()
            await go_micro_registers(raw, *TAGS, address="10.0.0.8")
            change = await told(events)
            assert (change.action, change.node.address) == ("update", "10.0.0.8:9090")
            await go_micro_registers(raw, *TAGS[:3], "v-789cca492c492d2e01040000ffff08cc028e", address="10.0.0.8")
            change = await told(events)
            assert (change.action, change.service.version) == ("update", "latest")
            await raw.deregister("greeter-1")
            change = await told(events)
            assert (change.action, change.reason) == ("delete", Reason.DEREGISTERED)

    run(main())


def test_a_node_of_go_micro_that_crashed_has_expired(agent: ServerProcess) -> None:
    async def main() -> None:
        async with fleet(agent) as (registry, raw), registry.watch("greeter") as events:
            await anext(events)
            await go_micro_registers(raw, *TAGS, ttl="1s")
            assert (await told(events)).action == "create"
            change = await told(events)
            assert (change.action, change.reason) == ("delete", Reason.EXPIRED)
            await raw.put("/agent/check/pass/service:greeter-1?note=")
            assert (await told(events)).action == "create"
            await raw.deregister("greeter-1")
            assert (await told(events)).action == "delete"

    run(main())


def test_go_micro_finds_what_we_register(agent: ServerProcess) -> None:
    """As it looks: every entry of the name without a critical check, by its tags."""

    async def main() -> None:
        async with fleet(agent) as (registry, raw):

            async def seen() -> list[dict[str, object]]:
                entries = await raw.entries("greeter")
                passing = [each for each in entries if all(it["Status"] != "critical" for it in each["Checks"])]
                return [each["Service"] for each in passing]

            async def nobody() -> bool:
                return not await seen()

            for status in (Status.PASSING, Status.DRAINING, Status.WARNING, Status.STARTING, Status.CRITICAL):
                await registry.register(GREETER.with_nodes(GREETER.nodes[0].replace(status=status)))
                if not status.selectable:
                    gone: bool = await wait_until(nobody, 40, step=0.02)
                    assert gone
                    continue
                services: list[dict[str, object]] = await wait_until(seen, 40, step=0.02)
                [service] = services
                assert (service["ID"], service["Address"], service["Port"]) == ("greeter-1", "10.0.0.7", 9090)
                assert list(map(inflated, cast("list[str]", service["Tags"]))) == list(map(inflated, TAGS))
            await registry.deregister(GREETER)
            assert "greeter-1" not in await raw.services()

    run(main())


def test_nodes_of_both_layouts_and_of_others_are_one_service(agent: ServerProcess) -> None:
    async def main() -> None:
        async with fleet(agent) as (theirs, raw), fleet(agent, "microreg") as (ours, _):
            nodes = [Node(f"10.0.0.1:{port}", id=f"mixed-{port}", metadata={"zone": "a"}) for port in (1, 2)]
            service = Service("mixed", "1.0", nodes=nodes)
            await theirs.register(service.with_nodes(nodes[0]))
            await ours.register(service.with_nodes(nodes[1]))
            await raw.register("by-hand", "mixed", Port=3, Tags=["v=1.0", "traefik.enable=true"])
            foreign = Node("10.0.0.1:3", id="by-hand")
            expected = (service.with_nodes(foreign, *nodes),)

            async def together() -> bool:
                found = [await registry.get_service("mixed") for registry in (theirs, ours)]
                return found == [expected, expected]

            one: bool = await wait_until(together, 40, step=0.02)
            assert one
            await ours.deregister(service.with_nodes(foreign, nodes[0]))
            await theirs.deregister(service.with_nodes(nodes[1]))
            assert not {"by-hand", "mixed-1", "mixed:mixed-2"} & set(await raw.services())

    run(main())
