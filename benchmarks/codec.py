"""Codec: one record to bytes and back."""

from __future__ import annotations

from functools import cache, partial

import msgspec
from data import ENDPOINTS, FEW, encoded
from timing import Theme, repeated

from microreg.codec import decode, encode
from microreg.model import Service


@cache
def stored(endpoints: int) -> list[bytes]:
    return encoded(FEW, endpoints=ENDPOINTS[:endpoints])


@cache
def services(endpoints: int) -> list[Service]:
    return [decode(data) for data in stored(endpoints)]


@cache
def documents(endpoints: int) -> list[object]:
    return [msgspec.json.decode(data) for data in stored(endpoints)]


def encode_all(endpoints: int) -> None:
    for service in services(endpoints):
        encode(service)


def write_all(endpoints: int) -> None:
    for document in documents(endpoints):
        msgspec.json.encode(document)


def decode_all(endpoints: int) -> None:
    for data in stored(endpoints):
        decode(data)


def parse_all(endpoints: int) -> None:
    for data in stored(endpoints):
        msgspec.json.decode(data)


def main() -> None:
    theme = Theme("codec")
    for endpoints in (0, 10):
        for what, ours, floor, floor_is in (
            ("encode", encode_all, write_all, "msgspec from dicts"),
            ("decode", decode_all, parse_all, "msgspec to dicts"),
        ):
            timers = repeated(partial(ours, endpoints)), repeated(partial(floor, endpoints))
            theme.pair(f"{what}, {endpoints} endpoints", *timers, floor_is, per=FEW)
    theme.report()


if __name__ == "__main__":
    main()
