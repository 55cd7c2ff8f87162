"""Who may do what: tokens, hosts, origins, rates, the headers of every answer, and the access log."""

from __future__ import annotations

import logging

import pytest

from microreg import connect
from microreg.errors import ConfigError
from microreg.server import Settings, access, application
from microreg.server.problems import Problem
from serving import BASE, serving
from support import run

WRITE, READ = "write-token-1", "read-token-1"
TOKENS = Settings(tokens=("other-token", WRITE), read_tokens=(READ,))


@pytest.mark.parametrize(
    ("given", "read", "write"),
    [
        (None, 401, 401),
        ("", 401, 401),
        ("Bearer", 401, 401),
        ("Bearer ", 401, 401),
        ("Bearer wrong-token", 401, 401),
        (f"Bearer {WRITE}x", 401, 401),
        (f"Bearer {WRITE[:-1]}", 401, 401),
        (f"Basic {WRITE}", 401, 401),
        (WRITE, 401, 401),
        (f"Bearer {'x' * 5000}", 401, 401),
        (f"Bearer {READ}", 200, 403),
        (f"Bearer {WRITE}", 200, 204),
        (f"bearer  {WRITE} ", 200, 204),
        ("Bearer other-token", 200, 204),
    ],
)
def test_tokens(given: str | None, read: int, write: int) -> None:
    async def main() -> None:
        async with serving(TOKENS) as server:
            headers = {} if given is None else {"Authorization": given}
            answers = [
                await server.http.get("/v1/services", headers=headers),
                await server.http.get("/openapi.json", headers=headers),
                await server.http.delete("/v1/services/a/nodes/x", headers=headers),
            ]
            assert [answer.status_code for answer in answers] == [read, read, write]
            for answer in answers:
                if answer.status_code == 401:
                    assert answer.headers["www-authenticate"] == "Bearer"
                if answer.status_code in (401, 403):
                    assert answer.json()["code"] == "permission_denied"
                    assert WRITE not in answer.text and READ not in answer.text

    run(main())


def test_following_is_reading_also_with_a_body() -> None:
    async def main() -> None:
        async with serving(TOKENS) as server:
            headers = {"Authorization": f"Bearer {READ}"}
            async with server.watch(body={"names": ["a"]}, **headers) as stream:
                assert stream.status == 200
            answer = await server.http.post("/v1/renewals", json={"renewals": []}, headers=headers)
            assert answer.status_code == 403

    run(main())


def test_settings_that_make_no_sense() -> None:
    with pytest.raises(ConfigError, match="nobody could register"):
        Settings(read_tokens=(READ,))
    for name in ("max_body", "max_nodes", "max_services", "max_streams", "max_per_client"):
        with pytest.raises(ConfigError, match=f"{name}=0"):
            Settings(**{name: 0})  # type: ignore[arg-type]
    for rate in (-1.0, float("nan")):
        with pytest.raises(ConfigError, match="rate="):
            Settings(rate=rate)
    assert WRITE not in repr(TOKENS) and READ not in repr(TOKENS)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:4214", 200),
        ("127.0.0.1", 200),
        ("[::1]:4214", 200),
        ("10.1.2.3:4214", 200),
        ("localhost:4214", 200),
        ("LOCALHOST", 200),
        ("registry.localhost", 200),
        ("registry.internal:4214", 200),
        ("Registry.Internal.", 200),
        ("attacker.example", 421),
        ("localhost.attacker.example", 421),
        ("127.0.0.1.attacker.example", 421),
        ("", 421),
        ("[attacker.example]", 421),
    ],
)
def test_without_tokens_the_server_answers_to_names_that_nobody_else_can_give_it(host: str, status: int) -> None:
    async def main() -> None:
        async with serving(Settings(hosts=("registry.internal",))) as server:
            answer = await server.http.get("/v1/services", headers={"Host": host})
            assert answer.status_code == status
            if status == 421:
                assert answer.json()["code"] == "misdirected_request"
        async with serving(TOKENS) as guarded:  # a page has no token
            headers = {"Host": host, "Authorization": f"Bearer {READ}"}
            assert (await guarded.http.get("/v1/services", headers=headers)).status_code == 200

    run(main())


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "https://attacker.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": ""}, 403),
        ({"Origin": "http://127.0.0.1:8080"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
        ({"Sec-Fetch-Site": "same-origin", "Origin": BASE}, 200),
        ({"Sec-Fetch-Site": "none"}, 200),
        ({"Origin": BASE}, 200),
    ],
)
@pytest.mark.parametrize("settings", [Settings(), TOKENS])
def test_a_page_of_another_origin_can_neither_read_nor_write(
    headers: dict[str, str], status: int, settings: Settings
) -> None:
    async def main() -> None:
        sent = headers | {"Authorization": f"Bearer {WRITE}"}
        async with serving(settings) as server:
            read = await server.http.get("/v1/services", headers=sent)
            written = await server.http.post("/v1/renewals", content=b'{"renewals":[]}', headers=sent)
            assert (read.status_code, written.status_code) == (status, status)
            for answer in (read, written):
                assert not [name for name in answer.headers if name.startswith("access-control-")]

    run(main())


def test_every_answer_has_the_headers_that_keep_browsers_careful() -> None:
    async def main() -> None:
        async with serving(TOKENS) as server:
            paths = ("/v1/services", "/nothing", "/openapi.json")
            answers = [await server.http.get(path) for path in paths]
            token = {"Authorization": f"Bearer {READ}"}
            answers += [await server.http.get(path, headers=token) for path in paths]
            for answer in answers:
                assert answer.headers["x-content-type-options"] == "nosniff"
                assert answer.headers["cache-control"] == "no-store"
                assert "default-src 'none'" in answer.headers["content-security-policy"]

    run(main())


def test_more_requests_than_allowed_are_refused_until_time_has_passed(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("microreg.server.access.time.monotonic", lambda: now[0])

    async def main() -> None:
        async with serving(Settings(rate=5.0)) as server:
            statuses = [(await server.http.get("/v1/services")).status_code for _ in range(12)]
            assert statuses == [200] * 10 + [429] * 2
            refused = await server.http.get("/v1/services")
            assert (refused.json()["code"], refused.headers["retry-after"]) == ("too_many_requests", "1")
            now[0] += 1.0
            statuses = [(await server.http.get("/v1/services")).status_code for _ in range(6)]
            assert statuses == [200] * 5 + [429]

    run(main())


class Limited:
    """A server that lets an address make ``rate`` requests a second, and its clock."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, rate: float) -> None:
        self.now = 100.0
        monkeypatch.setattr("microreg.server.access.time.monotonic", lambda: self.now)
        self._access = application(connect("memory://"), Settings(rate=rate)).access

    def passes(self, address: str) -> bool:
        """Whether one more request from this address is let through."""
        try:
            self._access.check_rate(address)
        except Problem as problem:
            assert problem.status == 429
            return False
        return True

    @property
    def counted(self) -> int:
        """How many are remembered."""
        return len(self._access._buckets)


def test_many_addresses_give_nobody_new_room(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(access, "_BUCKETS", 100)
    limited = Limited(monkeypatch, 1.0)
    passes = limited.passes
    assert [passes("10.0.0.1") for _ in range(3)] == [True, True, False]
    for number in range(99):
        assert passes(f"10.0.1.{number}")
        assert not passes("10.0.0.1")
    for number in range(100):  # the one that has been silent for longest makes room
        assert passes(f"10.0.2.{number}")
    assert passes("10.0.0.1")
    limited.now += 2.0
    assert passes("10.0.0.1")
    assert limited.counted <= 100


def test_who_is_silent_until_the_bucket_is_full_again_takes_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    limited = Limited(monkeypatch, 0.5)
    for number in range(1000):
        assert limited.passes(f"10.1.{number >> 8}.{number & 255}")
        limited.now += 0.1
        assert limited.counted <= 22


@pytest.mark.parametrize(
    ("address", "origin"),
    [
        ("10.0.0.1", "10.0.0.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::"),
        ("2001:db8:1:2::", "2001:db8:1:2::"),
        ("2001:DB8:1:2::9%eth0", "2001:db8:1:2::"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::1", "fe80::"),
        ("a proxy:said", "a proxy:said"),
        ("", ""),
    ],
)
def test_the_addresses_of_one_ipv6_network_are_one_client(address: str, origin: str) -> None:
    assert access.origin_of(address) == origin


def test_a_whole_ipv6_network_is_limited_as_one_address(monkeypatch: pytest.MonkeyPatch) -> None:
    passes = Limited(monkeypatch, 1.0).passes
    assert [passes(f"2001:db8::{number:x}") for number in range(4)] == [True, True, False, False]
    assert passes("2001:db8:0:1::1")


def test_the_access_log_has_a_line_for_each_request(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        async with serving(Settings(access_log=True, tokens=(WRITE,))) as server:
            await server.http.get("/v1/services")
            await server.http.get("/v1/services", headers={"Authorization": f"Bearer {WRITE}"})

    with caplog.at_level(logging.INFO, logger="microreg.server.access"):
        run(main())
    lines = [record for record in caplog.records if record.name == "microreg.server.access"]
    told = [record.request for record in lines]  # type: ignore[attr-defined]
    assert [(each["method"], each["path"], each["status"]) for each in told] == [
        ("GET", "/v1/services", 401),
        ("GET", "/v1/services", 200),
    ]
    assert told[1]["bytes"] == len(b'{"services":[]}')
    assert told[0]["client"] and told[0]["ms"] >= 0
    assert WRITE not in caplog.text
