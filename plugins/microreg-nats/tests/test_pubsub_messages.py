"""Subjects and messages: those of eddieraa/registry byte by byte, and what of a record they carry."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from microreg import Endpoint, Node, Service, Status, Value
from microreg.errors import ConfigError, InvalidService
from microreg_nats.pubsub import messages
from microreg_nats.pubsub.messages import RESERVED, Told, told, withdrawn
from microreg_nats.pubsub.subjects import ALL, PING, REGISTER, UNREGISTER, Subjects
from pubsub_peers import BARE, MYSERVICE, MYSERVICE_UNREGISTER, MYSERVICE_WARNING
from strategies import record, services

THEIRS = Service("myservice", "1.2.3", nodes=[Node("127.0.0.1:10000", id="127.0.0.1:10000", metadata={"zone": "a"})])
NOW = 1795226155.6421
SUBJECTS = Subjects("registry")


def register(service: Service, seconds: float = 15.0) -> bytes:
    return messages.register(service, seconds, host="vm", now=NOW)


def unregister(service: Service) -> bytes:
    return messages.unregister(service, host="vm")


# -- what eddieraa/registry says ---------------------------------------------------------------------------------------


def test_what_its_programs_say_is_read() -> None:
    assert told(MYSERVICE) == Told(THEIRS, 30.0)
    assert withdrawn(MYSERVICE_UNREGISTER) == ("myservice", "127.0.0.1:10000")


def test_its_statuses_are_ours() -> None:
    assert told(MYSERVICE_WARNING).record.nodes[0].status is Status.WARNING
    for said, status in ((b"critical", "critical"), (b"passing", "passing"), (b"", "passing"), (b"later", "passing")):
        assert told(MYSERVICE_WARNING.replace(b"warning", said)).record.nodes[0].status == status


def test_a_service_without_an_address_is_known_by_its_host() -> None:
    assert told(BARE).record == Service("bare", nodes=[Node("", id="vm")])
    assert withdrawn(b'{"name":"bare","h":"vm"}') == ("bare", "vm")
    assert told(b'{"name":"bare","t":{"Duration":1000}}').record.nodes[0].id == "bare"


def test_order_nulls_and_unknown_keys_do_not_matter() -> None:
    text = (
        b'{"later":[{}],"status":null,"t":{"Duration":20000,"Registered":null},"kv":{"zone":"a","none":null},"h":null,'
        b'"v":"1.2.3","name":"myservice","url":null,"add":"127.0.0.1:10000","net":null}'
    )
    expected = {"zone": "a", "none": ""}
    assert told(text).record == THEIRS.with_nodes(THEIRS.nodes[0].replace(metadata=expected))


def test_the_wall_clock_of_the_sender_does_not_matter() -> None:
    for moment in (b"0", b"-1", b"9999999999999"):
        assert told(MYSERVICE.replace(b"1795226155642", moment)).seconds == 30.0


def test_a_duration_is_at_most_that_of_a_day() -> None:
    for duration in (b"57600000", b"57600001", b"9223372036854775807"):
        assert told(MYSERVICE.replace(b"20000", duration)).seconds == 86_400.0


MALFORMED = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "a text": b'"register"',
    "no JSON": b"hello",
    "cut off": MYSERVICE[:-3],
    "not UTF-8": b'{"name":"\xff","t":{"Duration":1}}',
    "deep": b"[" * 100_000,
    "a megabyte": b'{"name":"' + b"x" * 1_048_576 + b'"}',
    "no name": b'{"add":"10.0.0.1:1","t":{"Duration":1}}',
    "a name that is null": b'{"name":null,"add":"10.0.0.1:1","t":{"Duration":1}}',
    "a long name": b'{"name":"' + b"x" * 256 + b'","t":{"Duration":1}}',
    "a control character": b'{"name":"a\\u0000b","t":{"Duration":1}}',
    "a lone surrogate": b'{"name":"\\ud800","t":{"Duration":1}}',
    "a name that is a number": b'{"name":7,"t":{"Duration":1}}',
    "an id that is too long": b'{"name":"a","add":"' + b"1" * 256 + b'","t":{"Duration":1}}',
    "a map of numbers": b'{"name":"a","add":"b","kv":{"a":1},"t":{"Duration":1}}',
    "a status that is a number": b'{"name":"a","add":"b","t":{"Duration":1},"status":1}',
    "no times": b'{"name":"a","add":"b"}',
    "times that are null": b'{"name":"a","add":"b","t":null}',
    "no duration": b'{"name":"a","add":"b","t":{"Registered":1}}',
    "a duration of nothing": b'{"name":"a","add":"b","t":{"Duration":0}}',
    "a negative duration": b'{"name":"a","add":"b","t":{"Duration":-1}}',
    "a duration that is a text": b'{"name":"a","add":"b","t":{"Duration":"1s"}}',
    "a duration that is no integer": b'{"name":"a","add":"b","t":{"Duration":1e300}}',
    "endpoints that are no JSON": b'{"name":"a","add":"b","t":{"Duration":1},"kv":{"microreg.endpoints":"["}}',
    "metadata of the wrong type": b'{"name":"a","add":"b","t":{"Duration":1},"kv":{"microreg.metadata":"[1]"}}',
}


@pytest.mark.parametrize("what", MALFORMED)
def test_what_is_no_message_is_refused_with_a_reason(what: str) -> None:
    with pytest.raises(InvalidService) as refused:
        told(MALFORMED[what])
    assert 0 < len(str(refused.value)) < 500


scratched = st.builds(
    lambda text, at, byte: text[:at] + byte + text[at + 1 :],
    st.sampled_from([MYSERVICE, BARE]),
    st.integers(0, len(MYSERVICE)),
    st.binary(max_size=2),
)


@given(st.binary(max_size=200) | scratched)
def test_any_bytes_are_a_message_or_refused(data: bytes) -> None:
    try:
        said = told(data)
    except InvalidService:
        return
    assert said.record.name
    assert said.record.nodes[0].id
    assert 0 < said.seconds <= 86_400


# -- what we say -------------------------------------------------------------------------------------------------------


def test_our_messages_are_its_messages() -> None:
    """The golden ones, where a program of ours says the same; ``url`` is of no use to us."""
    ours = register(THEIRS, 30.0).replace(b'"microreg.id":"127.0.0.1:10000",', b"")
    assert ours == MYSERVICE.replace(b'"url":"http://127.0.0.1:10000/x",', b"")
    (node,) = THEIRS.nodes
    warned = register(THEIRS.with_nodes(node.replace(status=Status.WARNING)), 30.0)
    assert warned.endswith(b'"t":{"Registered":1795226155642,"Duration":20000},"status":"warning"}')
    gone = unregister(THEIRS).replace(b'"microreg.id":"127.0.0.1:10000",', b"")
    assert gone == MYSERVICE_UNREGISTER.replace(b'"url":"http://127.0.0.1:10000/x",', b"")


def test_what_the_protocol_cannot_carry_stands_under_reserved_keys() -> None:
    node = Node("10.0.0.1:80", id="a", metadata={"zone": "eu"}, status=Status.DRAINING)
    hello = Endpoint("Hello", Value("Request", "struct"))
    said = json.loads(register(Service("greeter", "2", {"owner": "team"}, [hello], [node])))
    assert said["kv"].keys() == {"zone", *RESERVED}
    assert said["kv"]["microreg.id"] == "a"
    assert said["kv"]["microreg.status"] == "draining"
    assert json.loads(said["kv"]["microreg.metadata"]) == {"owner": "team"}
    assert [each["name"] for each in json.loads(said["kv"]["microreg.endpoints"])] == ["Hello"]
    assert said["status"] == "critical"  # so that nobody who knows three statuses calls it


def test_nothing_is_said_that_is_empty() -> None:
    said = json.loads(register(Service("greeter", nodes=[Node("10.0.0.1:80", id="a")])))
    assert said == {
        "net": "tcp",
        "add": "10.0.0.1:80",
        "name": "greeter",
        "h": "vm",
        "kv": {"microreg.id": "a"},
        "t": {"Registered": 1795226155642, "Duration": 10000},
    }


@given(services, st.floats(1, 86_400))
def test_every_record_comes_back_as_it_was(service: Service, ttl: float) -> None:
    for each in service.records():
        said = told(register(each, ttl))
        assert said.record == each
        assert ttl <= said.seconds < ttl + 0.002
        assert withdrawn(unregister(each)) == (each.name, each.nodes[0].id)


@given(st.sampled_from(["", "x", *(key.removeprefix("microreg.") for key in RESERVED)]), st.integers(1, 3))
def test_metadata_may_have_the_names_of_reserved_keys(end: str, times: int) -> None:
    metadata = {"microreg." * times + end: "mine", "plain": "too"}
    service = Service("greeter", nodes=[Node("10.0.0.1:80", id="a", metadata=metadata)])
    assert told(register(service)).record == service


def test_a_message_by_address_is_about_nobody_of_ours() -> None:
    gone = messages.unregister(record(), host="vm", by_address=True)
    assert withdrawn(gone) == ("greeter", "10.0.0.1:80")
    assert b"microreg" not in gone


def test_what_is_left_is_told_and_never_nothing() -> None:
    for seconds, duration in ((1.5, 1000), (1.5001, 1001), (0.0001, 1), (86_400, 57_600_000)):
        assert json.loads(register(record(), seconds))["t"]["Duration"] == duration


# -- subjects ----------------------------------------------------------------------------------------------------------


def test_subjects_are_topic_verb_and_name() -> None:
    assert SUBJECTS.of(REGISTER, "myservice") == "registry.register.myservice"
    assert SUBJECTS.of(UNREGISTER, "myservice") == "registry.unregister.myservice"
    assert SUBJECTS.of(PING, "myservice") == "registry.ping.myservice"
    assert SUBJECTS.of(PING, ALL) == "registry.ping._all"
    assert Subjects("tenant-a.registry").of(PING, "a.b") == "tenant-a.registry.ping.a.b"
    assert SUBJECTS.all_about("a.b") == "registry.*.a.b"
    assert SUBJECTS.all_about(None) == "registry.*.>"


def test_the_verb_of_a_subject() -> None:
    assert SUBJECTS.verb("registry.register.a.b") == REGISTER
    assert SUBJECTS.verb("registry.ping.a") == PING
    for other in ("registry2.register.a", "registry", "registry.", "other.registry.register.a"):
        assert SUBJECTS.verb(other) not in (REGISTER, UNREGISTER, PING)


@given(st.text(min_size=1, max_size=8) | st.text("a.*> ", min_size=1, max_size=5))
def test_every_name_has_a_subject_of_its_own(name: str) -> None:
    subject = SUBJECTS.of(REGISTER, name)
    tokens = subject.split(".")
    assert all(tokens)
    assert not any(character.isspace() or character in "*>" for character in subject)
    assert SUBJECTS.fits(subject, name)
    assert not SUBJECTS.fits(subject, f"{name}x")


@pytest.mark.parametrize("topic", ["", ".", "a.", ".a", "a..b", "a b", "a.*", ">", "a\n", "x" * 129])
def test_a_topic_that_is_none_is_a_config_error(topic: str) -> None:
    with pytest.raises(ConfigError, match="topic"):
        Subjects(topic)
