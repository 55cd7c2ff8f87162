"""get_service and watch: records that other programs wrote are read leniently, and their garbage harms nobody."""

from __future__ import annotations

import json
import logging
from collections.abc import Generator
from contextlib import contextmanager

from microreg import codec
from microreg.errors import RegistryError
from microreg.events import Action
from microreg.model import Node, Service
from microreg.testing.case import Case
from microreg.testing.check import Check, check

__all__ = ["CHECKS"]

CHECKS: list[Check] = []

_GARBAGE = (
    b"", b"\0\xff\xfe", b"{", b"null", b"[]", b'"text"', b"{}", b'{"name":7}', b'{"name":"x","nodes":"y"}',
    b'{"name":"x","nodes":[{"id":"a","address":7}]}', b"[" * 100_000, b'{"name":"\xff"}',
)  # fmt: skip


@check(CHECKS, "get.lenient", requires=("write_raw",))
async def _lenient(case: Case) -> None:
    reader, odd = await case.client(), case.own(f"{case.stem} größe")
    everything = await case.watch(reader)
    examples = [
        (case.name(), "plain", '{"nodes":[{"address":"10.0.0.1:80","id":"plain"}],"version":"1","name":%s}'),
        (case.name(), "nulls", '{"name":%s,"version":null,"metadata":null,"endpoints":null,"nodes":'
         '[{"id":"nulls","address":"10.0.0.1:80","metadata":null,"status":null}],"version":"1"}'),
        (case.name(), "more", '{"name":%s,"version":"1","later":{"a":[1,2]},"nodes":'
         '[{"id":"more","address":"10.0.0.1:80","weight":7}]}'),
        (odd, "node id/1", '{"name":%s,"version":"1","nodes":[{"id":"node id/1","address":"10.0.0.1:80"}]}'),
    ]  # fmt: skip
    for name, id, text in examples:
        await case.faults.write_raw(name, id, (text % json.dumps(name)).encode())
        expected = Service(name, "1", nodes=[Node("10.0.0.1:80", id=id)])
        await case.shows(reader, name, expected)
        await everything.expect(Action.CREATE, expected)
    for name, id, _ in examples:
        await case.faults.write_raw(name, id, None)
        await case.shows(reader, name)


@check(CHECKS, "get.derives-id", requires=("write_raw",))
async def _derives_id(case: Case) -> None:
    reader, name = await case.client(), case.name()
    listener = await case.watch(reader, name)
    record = Service(name, "1", nodes=[Node("10.0.0.1:80", id="10.0.0.1:80")])
    text = codec.encode(record).replace(b'"id":"10.0.0.1:80",', b"")
    case.expect(b'"id"' not in text, "a record without an id", text)
    await case.faults.write_raw(name, "a", text)
    await case.shows(reader, name, record)
    await listener.expect(Action.CREATE, record)
    await case.faults.write_raw(name, "a", None)
    await case.shows(reader, name)


@check(CHECKS, "get.skips-garbage", requires=("write_raw",))
async def _skips_garbage(case: Case) -> None:
    writer, reader = await case.client(), await case.client()
    name, other = case.name(), case.name()
    good, neighbour, later = (case.service(each, id) for each, id in ((name, "m"), (other, "a"), (name, "n")))
    ids = [f"{side}{number}" for side in "az" for number in range(len(_GARBAGE))]
    one, everything = await case.watch(reader, name), await case.watch(reader)
    await writer.register(good)
    await writer.register(neighbour)
    await everything.holds(good, neighbour)
    with _warnings() as warnings:
        for id, data in zip(ids, _GARBAGE * 2, strict=True):
            await case.faults.write_raw(name, id, data)
        try:
            for _ in range(3):
                await case.shows(reader, name, good)
                await case.shows(reader, other, neighbour)
                case.expect({name, other} <= {*await reader.list_services()}, "both names listed", "one is missing")
            await writer.register(later)
            await one.holds(good, later)
            await everything.holds(good, later, neighbour)
            await (await case.watch(reader, name)).holds(good, later)
            case.expect(one.watch.error is None, "a watch that stays live", repr(one.watch.error))
        except RegistryError as error:
            case.fail("garbage that is skipped", f"{type(error).__name__}: {error}")
        finally:
            for id in ids:
                await case.faults.write_raw(name, id, None)
    case.expect(len(warnings) == len(ids), f"{len(ids)} warnings for as many records", len(warnings))


@contextmanager
def _warnings() -> Generator[list[str]]:
    """The warnings of microreg meanwhile; they go to nobody else."""
    log = logging.getLogger("microreg")
    heard: list[str] = []
    handler = logging.Handler(logging.WARNING)
    handler.emit = lambda record: heard.append(record.getMessage())  # type: ignore[method-assign]
    log.addHandler(handler)
    propagate, log.propagate = log.propagate, False
    try:
        yield heard
    finally:
        log.removeHandler(handler)
        log.propagate = propagate
