"""What others may have registered: skipped with one warning each, and nobody else suffers."""

from __future__ import annotations

import json
import logging
import zlib
from collections.abc import Iterator
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import microreg
from consul_entries import entry, raw
from consul_store import Raw
from microreg import Endpoint, Node, Service
from microreg.codec import encode
from microreg_consul.layouts import GoMicro, Layout
from microreg_consul.records import Records
from microreg_consul.tags import pack
from servers import consul
from support import run, wait_until

WEB: dict[str, object] = {"ID": "web-1", "Service": "web", "Address": "10.0.0.1", "Port": 80}
PLAIN = Service("web", nodes=[Node("10.0.0.1:80", id="web-1")])


@pytest.fixture(name="warnings")
def _warnings() -> Iterator[list[str]]:
    """The warnings of the plugin meanwhile."""
    heard: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            heard.append(record.getMessage())

    listener = Listener(logging.WARNING)
    logging.getLogger("microreg.consul").addHandler(listener)
    yield heard
    logging.getLogger("microreg.consul").removeHandler(listener)


def deflated(kind: str, data: bytes) -> str:
    return f"{kind}-{zlib.compress(data).hex()}"


DEEP = '{"name":"e","request":' + '{"name":"v","values":[' * 200 + '{"name":"v"}' + "]}" * 200 + "}"
OWN = '{"name":"web","nodes":[{"id":"1"}]}'

SKIPPED: dict[str, object] = {
    "a list": [],
    "nothing": None,
    "a text": "web-1",
    "no service": {"Node": {"Node": "agent-one", "Address": "127.0.0.1"}},
    "a service that is null": {"Service": None, "Node": None},
    "a service of the wrong type": {"Service": ["web"], "Node": {}},
    "a node of the wrong type": {"Service": WEB, "Node": "agent-one"},
    "no name": raw(**{**WEB, "Service": ""}),
    "an address with a new line": raw(**{**WEB, "Address": "10.0.0.1\n"}),
    "a name that cannot be shown": raw(**{**WEB, "Service": "web\n\x1b[2J"}),
    "a name of 300 bytes": raw(**{**WEB, "Service": "w" * 300}),
    "a name of the wrong type": raw(**{**WEB, "Service": 7}),
    "no id": raw(**{**WEB, "ID": None}),
    "an id that cannot be shown": raw(**{**WEB, "ID": "a\u2028b"}),
    "an id of a megabyte": raw(**{**WEB, "ID": "i" * 1_048_576}),
    "an address of the wrong type": raw(**{**WEB, "Address": 10}),
    "a port of the wrong type": raw(**{**WEB, "Port": "80"}),
    "a port that is true": raw(**{**WEB, "Port": True}),
    "a negative port": raw(**{**WEB, "Port": -1}),
    "a port without end": raw(**{**WEB, "Port": 10**5000}),
    "tags of the wrong type": raw(**WEB, Tags={"v": "1"}),
    "Meta of the wrong type": raw(**WEB, Meta=["a"]),
    "JSON that is none": raw(**WEB, Meta={"microreg-1": "hello"}),
    "JSON that lacks its end": raw(**{**WEB, "ID": "web:1"}, Meta={"microreg-1": OWN[:-5]}),
    "JSON that lacks a piece": raw(**{**WEB, "ID": "web:1"}, Meta={"microreg-1": OWN[:9], "microreg-3": OWN[9:]}),
    "JSON that is null": raw(**WEB, Meta={"microreg-1": "null"}),
    "JSON of a megabyte": raw(**{**WEB, "ID": "web:1"}, Meta={"microreg-1": OWN + " " * 1_048_576}),
    "JSON of brackets": raw(**WEB, Meta={"microreg-1": "[" * 1_000_000}),
    "JSON that is nested": raw(
        **{**WEB, "ID": "web:1"},
        Meta={"microreg-1": f'{OWN[:-1]},"endpoints":[{DEEP}]}}'},
    ),
    "another's name": raw(**{**WEB, "ID": "web2:1"}, Meta={"microreg-1": OWN.replace("web", "web2")}),
    "the name in another case": raw(**{**WEB, "ID": "Web:1:4"}, Meta={"microreg-1": OWN.replace("web", "Web")}),
    "another's id": raw(**{**WEB, "ID": "web:2"}, Meta={"microreg-1": OWN}),
    "no node": raw(**WEB, Meta={"microreg-1": '{"name":"web"}'}),
    "more of another's name": raw(**WEB, Meta={"microreg-more-1": OWN.replace("web", "web2")}),
    "more of another's id": raw(**WEB, Meta={"microreg-more-1": OWN}),
    "more that is none": raw(**WEB, Meta={"microreg-more-1": "[]"}),
    "a tag that is a bomb": raw(**WEB, Tags=[deflated("t", b'{"k":"' + b"x" * 10_000_000 + b'"}')]),
    "a version that is a bomb": raw(**WEB, Tags=[deflated("v", b"1" * 65_537)]),
    "a plain tag without end": raw(**WEB, Tags=["v=" + "1" * 65_537]),
    "tags that are bombs together": raw(**WEB, Tags=[deflated("e", b" " * 65_000 + b"%d" % n) for n in range(20)]),
}

HARMLESS = {
    "of the edge router": "traefik.enable=true",
    "one letter": "t",
    "one letter of the others": "e",
    "none": "",
    "a word": "e-commerce",
    "another word": "t-shirts",
    "half a byte": "t-789",
    "a version of others": "v-2",
    "not deflated": "e-00112233",
    "deflated and cut off": deflated("v", b"1.0.0")[:-4],
    "deflated, no UTF-8": deflated("v", b"\xff\xfe"),
    "deflated, no JSON": deflated("t", b"hello"),
    "deflated, of the wrong type": deflated("t", b'["a"]'),
    "an endpoint of the wrong type": deflated("e", b'"a"'),
    "an endpoint too deep": deflated("e", DEEP.encode()),
    "plain, no JSON": "t=hello",
    "plain, no endpoint": "e={",
    "of nobody": "x" * 100_000,
}


IN_AN_AGENT = [
    SKIPPED[each]
    for each in ("JSON that is none", "JSON that is null", "another's id", "more of another's id", "no node")
] + [SKIPPED["a tag that is a bomb"], SKIPPED["a version that is a bomb"], SKIPPED["tags that are bombs together"]]


@pytest.mark.parametrize("malformed", SKIPPED.values(), ids=SKIPPED)
def test_what_is_no_record_is_skipped_with_one_warning(warnings: list[str], malformed: object) -> None:
    records = Records()
    for _ in range(3):
        assert records.read(malformed) is None
    [warning] = warnings
    assert warning.startswith("skipped the service ") and warning.isprintable() and len(warning) < 1000


@pytest.mark.parametrize("tag", HARMLESS.values(), ids=HARMLESS)
def test_tags_of_others_are_harmless(warnings: list[str], tag: str) -> None:
    assert Records().read(raw(**WEB, Tags=[tag])) == PLAIN
    greeter = Service(
        "greeter",
        "1.0.0",
        {},
        [Endpoint("Greeter.Hello", metadata={"stream": "true"})],
        [Node("10.0.0.7:9090", id="greeter-1", metadata={"protocol": "grpc"})],
    )
    among = raw(ID="greeter-1", Service="greeter", Address="10.0.0.7", Port=9090, Tags=[tag, *pack(greeter), tag])
    assert Records().read(among) == greeter
    ours = entry(Layout(), greeter)
    service = ours["Service"]
    assert isinstance(service, dict)
    service["Tags"] = [tag, "v=2", deflated("t", b'{"a":"b"}')]
    assert Records().read(ours) == greeter
    assert warnings == []


def test_tags_and_meta_that_are_no_texts_are_left_out() -> None:
    assert Records().read(raw(**WEB, Tags=[1, None, "v=2", ["t"]], Meta={"a": 1, "b": None, "c": "d"})) == Service(
        "web", "2", nodes=[Node("10.0.0.1:80", id="web-1", metadata={"c": "d"})]
    )


def test_in_an_agent_nobody_else_suffers(warnings: list[str]) -> None:
    """Of what is skipped, all that an agent takes at all; each is warned of once, however often it is read."""
    fields = [cast("dict[str, object]", cast("dict[str, object]", each)["Service"]) for each in IN_AN_AGENT]
    metas = [each.get("Meta") for each in fields]
    tags = [each.get("Tags") for each in fields]

    async def main(port: int) -> None:
        good = Service("web", "1", nodes=[Node("10.0.0.1:80", id="a"), Node("10.0.0.1:81", id="z")])
        async with microreg.connect(f"consul://127.0.0.1:{port}") as registry, Raw(port) as raw:
            for number, (meta, tag) in enumerate(zip(metas, tags, strict=True)):
                await raw.register(f"web:m{number:02}", "web", Meta=meta, Tags=tag)
            async with registry.watch("web") as one, registry.watch() as everything:
                catalogs = [microreg.Catalog(), microreg.Catalog()]
                await registry.register(good)

                async def told() -> bool:
                    for catalog, events in zip(catalogs, (one, everything), strict=True):
                        while catalog.services("web") != (good,):
                            catalog.apply(await anext(events))
                    return await registry.get_service("web") == (good,)

                heard: bool = await wait_until(told, 40)
                assert heard and one.error is None and everything.error is None
                assert "web" in await registry.list_services()

    with consul(dev=True) as agent:
        run(main(agent.port))
    assert len(warnings) == len(metas)
    assert {each.split(":")[0] for each in warnings} == {"skipped the service web"}


def test_no_more_than_a_thousand_services_are_warned_of(warnings: list[str]) -> None:
    records = Records()
    for _ in range(2):
        for number in range(1500):
            assert records.read(raw(**{**WEB, "ID": f"web-{number}"}, Meta={"microreg-1": "garbage"})) is None
    assert len(warnings) == 1000


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.just(OWN),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["microreg-1", "microreg-2", "a"]) | st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=5,
)
TAGS = st.text(st.characters(), max_size=20) | st.builds(
    lambda kind, data, deflate: deflated(kind, data) if deflate else f"{kind}-{data.hex()}",
    st.sampled_from("tev"),
    st.binary(max_size=30) | st.sampled_from([b"{}", b'{"a":null}', b'{"a":"b"},"name":"x"', b'{"name":"e"}],"a":[{}']),
    st.booleans(),
)
TEXTS = st.sampled_from(["web", "web-1", "web:1"]) | st.text(st.characters(), max_size=10)
ENTRIES = ANYTHING | st.fixed_dictionaries(
    {
        "Service": ANYTHING
        | st.fixed_dictionaries(
            {
                "ID": TEXTS | ANYTHING,
                "Service": TEXTS | ANYTHING,
                "Address": TEXTS | ANYTHING,
                "Port": st.just(80) | ANYTHING,
                "Tags": st.lists(TAGS, max_size=4) | ANYTHING,
                "Meta": st.dictionaries(
                    st.sampled_from(["microreg-1", "microreg-2", "microreg-more-1", "a"]), TEXTS, max_size=3
                )
                | ANYTHING,
            }
        ),
        "Node": ANYTHING | st.fixed_dictionaries({"Node": TEXTS | ANYTHING, "Address": TEXTS | ANYTHING}),
    }
)


@settings(max_examples=500, deadline=None)
@given(ENTRIES)
def test_nothing_that_is_registered_raises(anything: object) -> None:
    found = Records().read(anything)
    if found is not None:
        assert len(found.nodes) == 1 and found.name and found.nodes[0].id


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=200), st.sampled_from(["t", "e", "v"]))
def test_no_bytes_in_a_tag_raise(data: bytes, kind: str) -> None:
    for tag in (deflated(kind, data), f"{kind}-{data.hex()}", f"{kind}={data.decode('latin-1')}"):
        found = Records().read(raw(**WEB, Tags=[tag]))
        assert found is not None and found.nodes[0].address == "10.0.0.1:80"


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_record_that_was_tampered_with_is_itself_or_none(data: st.DataObject) -> None:
    """One character of the JSON in Meta is another; whoever is read has the name and id that Consul says."""
    record = Service("web", "1", {"a": "b"}, nodes=[Node("10.0.0.1:80", id="1")])
    text = json.dumps(entry(data.draw(st.sampled_from([Layout(), GoMicro()])), record))
    at = data.draw(st.integers(0, len(text) - 1))
    try:
        tampered = json.loads(text[:at] + data.draw(st.sampled_from('"x{}[]:,\\0')) + text[at + 1 :])
    except ValueError:
        return
    found = Records().read(tampered)
    assert found is None or (found.name and found.nodes[0].id and encode(found))
