"""Pace: packets go out in bursts, those for all first, those who asked in turn, and nothing too late."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter

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
        await asyncio.sleep(0.011)
        order = [item for _, item in sent]
        assert order.index("goodbye") == 64, "before the burst after it"
        assert order.index("answer") <= 64 + 1 + 10

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


def test_a_burst_is_sixteen_for_one_and_sixty_four_for_all_who_asked() -> None:
    async def main() -> None:
        pace, sent = paced()
        for number in range(40):
            pace.to_one("one", f"one {number}")
        await asyncio.sleep(0.1)
        assert [round(time, 6) for time, _ in sent] == [0.0] * 16 + [0.01] * 16 + [0.02] * 8
        sent.clear()
        for asker in range(8):
            for _ in range(40):
                pace.to_one(asker, f"{asker}")
        await asyncio.sleep(0.1)
        begun = sent[0][0]
        bursts = Counter(round((time - begun) * 100) for time, _ in sent)
        assert bursts == {0: 64, 1: 64, 2: 64, 3: 64, 4: 64}
        second = Counter(item for time, item in sent if round((time - begun) * 100) == 1)
        assert set(second.values()) == {8}, "each as many as the others"

    virtual.run(main())


def test_who_asks_the_same_again_gets_all_once_more_and_first_what_it_has_not() -> None:
    async def main() -> None:
        pace, sent = paced()
        pace.to_one_instead("lister", [f"{number}" for number in range(40)])
        pace.to_one_instead("lister", [f"again {number}" for number in range(40)])
        pace.to_one_instead("other", ["other"])
        await asyncio.sleep(1)
        told = [item for _, item in sent if item != "other"]
        assert told[:16] == [f"{number}" for number in range(16)]
        assert told[16:] == [f"again {number}" for number in (*range(16, 40), *range(16))]
        assert len(sent) == 16 + 40 + 1 and vars(pace)["_answers"] == 0
        pace.to_one_instead("lister", ["new"])
        assert sent[-1][1] == "new"

    virtual.run(main())
