"""Pace: packets go out in bursts, those for all first, those who asked in turn, and nothing too late."""

from __future__ import annotations

import asyncio
import logging

import pytest

from microreg.backends.mdns.pacing import Pace
from microreg.testing import virtual

Sent = list[tuple[float, str]]


def paced() -> tuple[Pace[str], Sent]:
    loop = asyncio.get_running_loop()
    sent: Sent = []
    return Pace(lambda item: sent.append((loop.time(), item))), sent


def test_sixteen_packets_go_out_in_ten_milliseconds() -> None:
    async def main() -> None:
        pace, sent = paced()
        for number in range(40):
            pace.to_all(f"{number}")
        await pace.drained()
        assert [item for _, item in sent] == [f"{number}" for number in range(40)]
        assert [round(time, 6) for time, _ in sent] == [0.0] * 16 + [0.01] * 16 + [0.02] * 8

    virtual.run(main())


def test_who_asks_for_little_does_not_wait_for_those_who_ask_for_much() -> None:
    async def main() -> None:
        pace, sent = paced()
        for lister in range(10):
            for number in range(300):
                pace.to_one(lister, f"{lister} {number}")
        pace.to_one("other", "answer")
        pace.to_all("goodbye")
        await asyncio.sleep(0.02)
        order = [item for _, item in sent]
        assert order.index("goodbye") == 16, "with the first burst after it"
        assert order.index("answer") <= 16 + 1 + 10

    virtual.run(main())


def test_an_answer_that_is_late_is_not_sent_and_that_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        pace, sent = paced()
        for number in range(2000):
            pace.to_one("lister", f"{number}")
        await asyncio.sleep(5)
        assert len(sent) <= 51 * 16 and max(time for time, _ in sent) <= 0.51
        pace.to_one("lister", "again")
        await asyncio.sleep(0.1)
        assert sent[-1][1] == "again"

    with caplog.at_level(logging.WARNING, "microreg.mdns"):
        virtual.run(main())
    assert len(caplog.records) == 1


def test_what_waits_is_bounded_and_forgotten_at_the_end() -> None:
    async def main() -> None:
        pace, sent = paced()
        for number in range(10_000):
            pace.to_one(number, "answer")
            pace.to_all("news")
        assert len(vars(pace)["_askers"]) == vars(pace)["_answers"] <= 4096 and len(vars(pace)["_all"]) <= 4096
        pace.close()
        await pace.drained()
        count = len(sent)
        await asyncio.sleep(1)
        assert len(sent) == count

    virtual.run(main())


def test_whether_somebody_waits_is_known_until_the_last_answer_is_sent_or_too_late() -> None:
    async def main() -> None:
        pace, sent = paced()
        for number in range(40):
            pace.to_one("lister", f"{number}")
        assert pace.waits("lister") and not pace.waits("other")
        await asyncio.sleep(0.015)
        assert pace.waits("lister") and len(sent) == 32
        await asyncio.sleep(0.01)
        assert not pace.waits("lister") and len(sent) == 40

    virtual.run(main())
