"""What the APIs of other registries share: turns, and the JSON that Go's decoders take."""

from __future__ import annotations

import asyncio

import pytest

from microreg.server.problems import Problem
from microreg.server.views import Turns, fields, text
from support import run


def test_turns_are_taken_in_order_and_other_keys_do_not_wait() -> None:
    async def main() -> None:
        turns: Turns[str] = Turns()
        order: list[object] = []

        async def take(key: str, number: int) -> None:
            async with turns(key):
                order.append((key, number))
                await asyncio.sleep(0.001)
                order.append((key, number))

        await asyncio.gather(*(take("a", number) for number in range(3)), take("b", 0))
        of_a = [each for each in order if each != ("b", 0)]
        assert of_a == [("a", number) for number in (0, 0, 1, 1, 2, 2)]
        assert order.index(("b", 0)) < order.index(("a", 1))
        assert turns._queues == {}

    run(main())


@pytest.mark.parametrize("granted", [False, True])
def test_one_who_is_cancelled_while_waiting_holds_nobody_up(granted: bool) -> None:
    async def main() -> None:
        turns: Turns[str] = Turns()
        taken: list[int] = []

        async def take(number: int) -> None:
            async with turns("a"):
                taken.append(number)

        async with turns("a"):
            waiting = [asyncio.create_task(take(number)) for number in range(3)]
            await asyncio.sleep(0)
            if not granted:
                waiting[0].cancel()
        if granted:
            waiting[0].cancel()
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert isinstance(results[0], asyncio.CancelledError) and taken == [1, 2]
        assert turns._queues == {}

    run(main())


def test_an_error_in_a_turn_ends_it() -> None:
    async def main() -> None:
        turns: Turns[str] = Turns()
        with pytest.raises(ZeroDivisionError):
            async with turns("a"):
                raise ZeroDivisionError
        async with turns("a"):
            assert list(turns._queues) == ["a"]

    run(main())


def test_members_are_found_in_any_case_and_null_is_nothing() -> None:
    given = fields(b'{"NAME": "x", "Port": null, "n": 5}')
    assert text(given, "name", required=True) == "x"
    assert text(given, "port") == text(given, "address") == ""
    for name in ("n", "port"):
        with pytest.raises(Problem, match=f"{name}: "):
            text(given, name, required=True)


@pytest.mark.parametrize("body", [b"", b"[]", b"nul", b'{"a":1', b'{"a":"\xff"}', b'{"a":' * 50_000])
def test_what_is_no_object_is_a_problem(body: bytes) -> None:
    with pytest.raises(Problem, match="expected a JSON object"):
        fields(body)
