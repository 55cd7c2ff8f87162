"""What the APIs of other registries share: turns, and the JSON that Go's decoders take."""

from __future__ import annotations

import asyncio
import json
from urllib.parse import quote

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from microreg.server.problems import Problem
from microreg.server.views import Shared, Turns, fields, text
from serving import serving
from support import run

PATHS = ["/register", "/heartbeat", "/lookup", "/deregister", "/registro/1.0/apps", "/registro/1.0/apps/web"]
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=80),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
addresses = st.sampled_from(["http://h:1", "http://[::1", "//", "localhost:4321", "\ud800", "http://\u2028", "[::1]:1"])
members = st.dictionaries(
    st.sampled_from(["name", "NAME", "address", "port", "id", "ip", "x"]), values | addresses, max_size=6
)


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


def test_long_answers_are_made_one_at_a_time_and_shared_by_who_asked_before() -> None:
    async def main() -> None:
        begun: list[str] = []
        go_on = asyncio.Event()

        async def make(key: str) -> bytes:
            begun.append(key)
            await go_on.wait()
            return f"{key}{len(begun)}".encode()

        shared = Shared(make)
        asked = [asyncio.create_task(shared("a")) for _ in range(1)]
        await asyncio.sleep(0)
        asked += [asyncio.create_task(shared(key)) for key in ("a", "a", "b", "a")]
        await asyncio.sleep(0)
        assert begun == ["a"]
        go_on.set()
        # What was under way is too old for those who came later, and they share the next; another key is another.
        assert await asyncio.gather(*asked) == [b"a1", b"a2", b"a2", b"b3", b"a4"]
        assert await shared("a") == b"a5"  # nothing is kept when nobody waits

    run(main())


def test_a_long_answer_that_fails_or_is_not_wanted_any_more_is_made_for_the_next() -> None:
    async def main() -> None:
        calls = 0

        async def make(_: None) -> bytes:
            nonlocal calls
            calls += 1
            if calls == 1:
                await asyncio.sleep(60)
            if calls == 2:
                raise OSError("no")
            return b"made"

        shared = Shared(make)
        first, second, third = (asyncio.create_task(shared(None)) for _ in range(3))
        await asyncio.sleep(0)
        first.cancel()
        with pytest.raises(OSError, match="no"):
            await second
        assert await third == b"made"

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


@settings(max_examples=60)
@given(st.lists(st.tuples(st.sampled_from(PATHS), members), max_size=8), st.text(max_size=20))
@example([("/register", {"name": "a", "address": "http://\U0001f600:1", "port": "٣"})], "%")
def test_whatever_is_sent_the_answer_is_not_the_servers_fault(requests: list[tuple[str, object]], id: str) -> None:
    async def main() -> None:
        async with serving() as server:
            await server.http.post("/registro/1.0/apps", json={"name": "web"})
            for path, body in requests:
                answer = await server.http.post(path, content=json.dumps(body).encode())
                assert answer.status_code in (200, 201, 400, 409), answer.text
            for method in ("GET", "PUT", "DELETE"):
                answer = await server.http.request(method, f"/registro/1.0/apps/web/{quote(id, safe='')}")
                assert answer.status_code in (200, 204, 307, 404, 405)
            for path in ("/registro/1.0/apps", "/prometheus/sd", "/metrics"):
                assert (await server.http.get(path)).status_code == 200

    run(main())
