"""``--state``: what is registered survives a restart of the server, and files that are no good do no harm."""

from __future__ import annotations

import asyncio
import json
import logging
import os
import stat
import time
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

from microreg import Node, Registry, Service, Status, connect, files
from microreg.errors import ConfigError, ServiceNotFound
from microreg.files import locked
from microreg.server import state as state_room
from microreg.server import statefile as file_room
from microreg.server.state import State
from microreg.server.statefile import Clock, Kept, StateFile
from support import wait_until
from timeless import run

P = ParamSpec("P")
T = TypeVar("T")
NOW = 1e9


class AtOnce:
    """Virtual time knows no threads: what would run in one runs at once."""

    async def __call__(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        await asyncio.sleep(0)
        return function(*args, **kwargs)


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_room, "Serial", AtOnce)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "state"


class Set(Clock):
    """A clock that shows ``now`` when it is made, on a machine that has been running for ``up`` seconds then.

    Without ``boot`` it is that of a system which does not tell how long it has been running.
    """

    def __init__(self, now: float, up: float = 0.0, boot: str = "") -> None:
        self.boot = boot
        self._loop = asyncio.get_running_loop()
        self._made = self._loop.time()
        self._up = up if boot else now
        self._now = now

    def uptime(self) -> float:
        return self._up + self._loop.time() - self._made

    def began(self) -> float:
        return self._now - self._up


@asynccontextmanager
async def opened(
    path: Path, now: float = NOW, url: str = "memory://", clock: Clock | None = None
) -> AsyncGenerator[Registry]:
    """A registry with this state, opened at ``now`` by the time of day, or by this clock."""
    async with State(connect(url), path, clock=clock or Set(now)) as registry:
        yield registry


def one(id: str = "n1", name: str = "greeter", **metadata: str) -> Service:
    return Service(name, "1.0", nodes=[Node("10.0.0.1:80", id=id, metadata=metadata)])


async def ids(registry: Registry, name: str = "greeter") -> list[str]:
    """The ids of the nodes of a name."""
    try:
        return [node.id for service in await registry.get_service(name) for node in service.nodes]
    except ServiceNotFound:
        return []


def copied(path: Path) -> Path:
    """What the file has now, in a file beside it."""
    copy = path.with_name("copy")
    copy.write_bytes(path.read_bytes())
    return copy


def size(path: Path) -> int:
    return path.stat().st_size


def known(path: Path) -> tuple[int, bytes, int]:
    """Which file it is, what is in it, and who may read it."""
    status = path.stat()
    return status.st_ino, path.read_bytes(), stat.S_IMODE(status.st_mode)


# -- what survives -----------------------------------------------------------------------------------------


def test_everything_survives_with_what_is_left_of_its_ttl(path: Path) -> None:
    async def main() -> None:
        record = Service("greeter", "1.0", {"team": "ä"}, nodes=[Node("[::1]:80", id="n1", status=Status.WARNING)])
        async with opened(path) as registry:
            await registry.register(record, ttl=30)
            await registry.register(one(name="orders"), ttl=60)
        async with opened(path, NOW + 20) as registry:
            assert await registry.get_service("greeter") == (record,)
            assert await registry.list_services() == ("greeter", "orders")
            await asyncio.sleep(9.9)
            assert await ids(registry) == ["n1"]
            await asyncio.sleep(0.2)
            assert await ids(registry) == [] and await ids(registry, "orders") == ["n1"]
        async with opened(path, NOW + 61) as registry:
            assert await registry.list_services() == ()

    run(main())


def test_what_has_changed_been_renewed_and_been_withdrawn_is_so_afterwards(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as registry:
            for id in ("n1", "n2", "n3"):
                await registry.register(one(id), ttl=30)
            await asyncio.sleep(20)
            await registry.register(one("n1"), ttl=30)
            await registry.register(one("n2", zone="b"), ttl=30)
            await registry.deregister(one("n3"))
            await asyncio.sleep(1)
        async with opened(path, NOW + 45) as registry:
            [service] = await registry.get_service("greeter")
            assert service.nodes == (*one("n1").nodes, *one("n2", zone="b").nodes)

    run(main())


def test_it_is_written_while_the_server_runs(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as registry:
            await registry.register(one(), ttl=30)
            await asyncio.sleep(0.5)
            copy = copied(path)
            async with opened(copy) as other:
                assert await ids(other) == ["n1"]
            await registry.deregister(one())
            await asyncio.sleep(0.5)
            copied(path)
            async with opened(copy) as other:
                assert await ids(other) == []

    run(main())


def test_a_clock_that_was_set_back_makes_nobody_immortal(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as registry:
            await registry.register(one(), ttl=30)
        async with opened(path, NOW - 86_400) as registry:
            await asyncio.sleep(29)
            assert await ids(registry) == ["n1"]
            await asyncio.sleep(2)
            assert await ids(registry) == []

    run(main())


@pytest.mark.parametrize("jump", [-86_400.0, -5.0, 5.0, 86_400.0, 1e9])
def test_a_time_of_day_that_was_set_meanwhile_does_not_matter(path: Path, jump: float) -> None:
    async def main() -> None:
        async with opened(path, clock=Set(NOW, 1000.0, "b1")) as registry:
            await registry.register(one(), ttl=30)
        async with opened(path, clock=Set(NOW + 20 + jump, 1020.0, "b1")) as registry:
            await asyncio.sleep(9)
            assert await ids(registry) == ["n1"]
            await asyncio.sleep(2)
            assert await ids(registry) == []

    run(main())


@pytest.mark.parametrize(("up", "boot"), [(50.0, "b2"), (5000.0, "b2"), (0.0, "")])
def test_after_a_restart_of_the_machine_the_time_of_day_counts(path: Path, up: float, boot: str) -> None:
    async def main() -> None:
        async with opened(path, clock=Set(NOW, 1000.0, "b1")) as registry:
            await registry.register(one(), ttl=30)
            await registry.register(one("n2"), ttl=90)
            await asyncio.sleep(1)
            await registry.register(one("n2"), ttl=60)
        async with opened(path, clock=Set(NOW + 29, up, boot)) as registry:
            assert await ids(registry) == ["n1", "n2"]
        async with opened(path, clock=Set(NOW + 59, up + 7, f"{boot}3")) as registry:
            assert await ids(registry) == ["n2"]
            await asyncio.sleep(3)
            assert await ids(registry) == []

    run(main())


def test_the_clock_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    assert abs(clock.began() + clock.uptime() - time.time()) < 1
    if clock.boot:
        assert clock.uptime() < time.time() - 1e8
    monkeypatch.delattr("time.CLOCK_BOOTTIME", raising=False)
    other = Clock()
    assert other.boot == "" and abs(other.uptime() - time.time()) < 1 and abs(other.began()) < 1


def test_a_restart_of_a_restart_goes_on_counting(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as registry:
            await registry.register(one(), ttl=30)
        for passed in (10, 20, 29):
            async with opened(path, NOW + passed) as registry:
                assert await ids(registry) == ["n1"]
        async with opened(path, NOW + 31) as registry:
            assert await ids(registry) == []

    run(main())


def test_the_file_is_for_its_owner_and_does_not_grow_for_ever(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_room, "_GROWTH", 4096)

    async def main() -> None:
        async with opened(path) as registry:
            for number in range(300):
                await registry.register(one(), ttl=30)
                await registry.register(one(f"m{number}"), ttl=1)
                await asyncio.sleep(1)
                assert size(path) < 40_000
            assert await ids(registry) == ["n1"]
        async with opened(path, NOW + 300) as registry:
            assert await ids(registry) == ["n1"]

    run(main())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert sorted(os.listdir(path.parent)) == ["state", "state.lock"]


def test_a_namespace_over_memory_is_kept_too(path: Path) -> None:
    async def main() -> None:
        url = "namespace+memory://?namespace.prefix=team"
        async with opened(path, url=url) as registry:
            await registry.register(one(), ttl=30)
        async with opened(path, url=url) as registry:
            assert await ids(registry) == ["n1"]

    run(main())


@pytest.mark.parametrize("url", ["mdns://127.0.0.1", "static://a=10.0.0.1:80", "cache+mdns://127.0.0.1"])
def test_other_registries_keep_what_is_registered_themselves(url: str, path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--state is for memory://.*leave --state out"):
        State(connect(url), path)
    assert not path.exists()


# -- crashes, and files that are no good -------------------------------------------------------------------


def written(path: Path) -> bytes:
    """What a server has written that registered two nodes, one after the other."""

    async def main() -> None:
        async with opened(path) as registry:
            for id in ("n1", "n2"):
                await registry.register(one(id), ttl=30)
                await asyncio.sleep(1)

    run(main())
    return path.read_bytes()


def found(path: Path, caplog: pytest.LogCaptureFixture) -> tuple[list[str], str]:
    """What the next server finds, and what it says of the file; afterwards it works as always."""
    caplog.clear()

    async def main() -> list[str]:
        async with opened(path) as registry:
            restored = await ids(registry)
            await registry.register(one("later"), ttl=30)
        async with opened(path) as registry:
            assert await ids(registry) == ["later", *restored]
        return restored

    restored = run(main())
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len(said) <= 1
    return restored, said[0] if said else ""


def test_a_crash_at_any_moment_loses_only_what_was_being_written(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    data = written(path)
    lines = data.splitlines(keepends=True)
    assert len(lines) == 3
    ends = [sum(map(len, lines[:count])) for count in (1, 2, 3)]
    for size in range(ends[0], len(data) + 1, 7):
        path.write_bytes(data[:size])
        whole = sum(size >= end for end in ends[1:])
        assert found(path, caplog) == (["n1", "n2"][:whole], "")


def test_a_draft_that_a_crash_left_behind_does_not_matter(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    written(path)
    path.with_name("state.new").write_bytes(b"half")
    assert found(path, caplog) == (["n1", "n2"], "")


@pytest.mark.parametrize(
    ("spoil", "restored", "words"),
    [
        (lambda data: b"[section]\nkey = value\n", [], "it is no state of a microreg server"),
        (lambda data: bytes(range(256)) * 10, [], "it is no state of a microreg server"),
        (lambda data: data[:14], [], "it is no state of a microreg server"),
        (lambda data: data.replace(b"1 0 ", b"1 3 ", 1), ["n1", "n2"], "it is damaged: lines are missing at its end"),
        (lambda data: data.replace(b"state 1", b"state 2", 1), [], "it is of version '2'"),
        (lambda data: data.replace(b'"n1"', b'"n9"'), ["n2"], "it is damaged: 1 of 2 lines cannot be read"),
        (lambda data: data.replace(b"10.0.0.1", b"10.0.\xff.1"), [], "it is damaged: 2 of 2 lines cannot be read"),
        (lambda data: data + b"rubbish\n", ["n1", "n2"], "it is damaged: 1 of 3 lines cannot be read"),
        (lambda data: data + b"[" * 100_000 + b"\n", ["n1", "n2"], "it is damaged: 1 of 3 lines cannot be read"),
    ],
)
def test_a_damaged_file_is_set_aside_and_what_is_whole_counts(
    path: Path,
    spoil: Callable[[bytes], bytes],
    restored: list[str],
    words: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    spoiled = spoil(written(path))
    path.write_bytes(spoiled)
    there, said = found(path, caplog)
    assert there == restored
    assert said.startswith(f"set a state file aside: {path}: {words}") and "it is now state.aside-1" in said
    assert path.with_name("state.aside-1").read_bytes() == spoiled


def test_an_empty_file_is_a_beginning(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path.touch()
    assert found(path, caplog) == ([], "")


def test_a_line_of_other_content_is_damage_even_if_its_checksum_is_right(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    from hashlib import sha256

    body = json.dumps({"put": [[1, "x", {}]]}).encode()
    path.write_bytes(written(path) + sha256(body).hexdigest().encode() + b" " + body + b"\n")
    there, said = found(path, caplog)
    assert there == ["n1", "n2"] and "1 of 3 lines" in said


@pytest.mark.parametrize("url", ["memory://", "namespace+memory://?namespace.prefix=team"])
def test_a_record_that_may_not_be_registered_any_more_harms_no_other(
    url: str, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It lives for what is left of its time at most: nobody can renew it."""
    data = written(path).replace(b'"id":"n1"', b'"id":"-1"')
    head, *lines = data.splitlines()
    from hashlib import sha256

    bodies = [line.partition(b" ")[2] for line in lines]
    fixed = [sha256(body).hexdigest().encode() + b" " + body for body in bodies]
    path.write_bytes(b"\n".join([head, *fixed]) + b"\n")

    async def main() -> list[str]:
        async with opened(path, url=url) as registry:
            restored = await ids(registry)
            await asyncio.sleep(31)
            assert await ids(registry) == []
        return restored

    caplog.clear()
    restored = run(main())
    if url == "memory://":
        assert (restored, caplog.records) == (["-1", "n2"], [])
    else:  # a layer checks what it is given
        assert restored == ["n2"]
        assert caplog.records[0].getMessage().startswith("left a record out of the state: node id")


def test_one_server_at_a_time(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microreg.files.time.sleep", lambda _: None)

    async def main() -> None:
        with locked(path), pytest.raises(ConfigError, match=r"--state .*: another server uses this file"):
            async with opened(path):
                pass
        async with opened(path) as registry:
            assert await ids(registry) == []

    run(main())


def test_a_file_that_cannot_be_written_at_all_is_an_error_at_once(tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(ConfigError, match=r"--state .*No such file or directory"):
            async with opened(tmp_path / "nowhere" / "state"):
                pass
        (tmp_path / "folder").mkdir()
        with pytest.raises(ConfigError, match="is no regular file|Is a directory"):
            async with opened(tmp_path / "folder"):
                pass

    run(main())


def test_a_disk_that_is_full_for_a_while_is_one_warning_and_nothing_is_lost(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    real, full = os.write, [False]

    def write(fd: int, data: bytes) -> int:
        if full[0]:
            real(fd, bytes(data)[:10])
            raise OSError(28, "No space left on device")
        return real(fd, data)

    async def main() -> None:
        async with opened(path) as registry:
            await registry.register(one("n1"), ttl=300)
            await asyncio.sleep(1)
            full[0] = True
            monkeypatch.setattr("os.write", write)
            monkeypatch.setattr("os.fsync", lambda fd: write(fd, b"") if full[0] else None)
            for number in range(2, 12):
                await registry.register(one(f"n{number}"), ttl=300)
                await asyncio.sleep(1)
            assert [record.levelname for record in caplog.records] == ["WARNING"]
            full[0] = False
            await asyncio.sleep(3)
            copy = copied(path)
            async with opened(copy) as other:
                assert len(await ids(other)) == 11
        async with opened(path) as other:
            assert len(await ids(other)) == 11

    run(main())
    assert len(caplog.records) == 1


def test_a_disk_that_is_full_at_the_start_is_a_warning_and_the_file_stays_as_it_was(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    before = written(path)
    write, whole = os.write, files.write_whole

    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    async def main() -> None:
        monkeypatch.setattr(files, "write_whole", full)
        monkeypatch.setattr("os.write", full)
        async with opened(path) as registry:
            assert await ids(registry) == ["n1", "n2"]
            await registry.register(one("n3"), ttl=30)
            await asyncio.sleep(5)
            assert copied(path).read_bytes() == before
            assert ["cannot write the state file" in record.getMessage() for record in caplog.records] == [True]
            monkeypatch.setattr(files, "write_whole", whole)
            monkeypatch.setattr("os.write", write)
            await asyncio.sleep(2)
            async with opened(copied(path)) as other:
                assert await ids(other) == ["n1", "n2", "n3"]

    run(main())


def test_a_file_that_somebody_removes_is_written_anew(path: Path) -> None:
    async def main() -> None:
        async with opened(path) as registry:
            await registry.register(one("n1"), ttl=30)
            await asyncio.sleep(1)
            os.unlink(path)
            await registry.register(one("n2"), ttl=30)
            await wait_until(path.exists)
            copy = copied(path)
            async with opened(copy) as other:
                assert await ids(other) == ["n1", "n2"]

    run(main())


def test_what_was_written_is_one_short_line_for_a_renewal(path: Path) -> None:
    clock = Clock()
    now = clock.uptime()
    file = StateFile(path, clock)
    assert file.open() == ([], "")
    record = one("n1", text="x" * 1000)
    file.write({("greeter", "n1"): Kept(record, now + 30, 30)})
    size = path.stat().st_size
    file.write({("greeter", "n1"): Kept(one("n1", text="x" * 1000), now + 60, 30)})
    assert path.stat().st_size - size < 250
    file.release()
    again = StateFile(path, clock)
    [kept], problem = again.open()
    assert (kept.record, kept.ttl, problem) == (record, 30, "") and abs(kept.until - now - 60) < 1e-3
    again.release()


@pytest.mark.parametrize(
    ("spoil", "anew"),
    [
        (lambda path: None, False),
        (lambda path: path.write_bytes(path.read_bytes() + b"half a li"), True),
        (lambda path: path.chmod(0o644), True),
        (lambda path: path.write_bytes(path.read_bytes().replace(b"1 0 b1\n", b"1 0 b0\n")), True),
        (lambda path: path.write_bytes(path.read_bytes() + path.read_bytes().partition(b"\n")[2] * 20), True),
    ],
    ids=["whole", "torn", "readable by others", "of another boot", "long"],
)
def test_a_file_that_is_in_order_is_not_written_anew_at_the_start(
    path: Path, spoil: Callable[[Path], None], anew: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_room, "_GROWTH", 1024)

    async def main() -> None:
        async with opened(path, clock=Set(NOW, 1000.0, "b1")) as registry:
            await registry.register(one("n1"), ttl=30)
        spoil(path)
        before = known(path)
        async with opened(path, clock=Set(NOW, 1000.0, "b1")) as registry:
            assert await ids(registry) == ["n1"]
            assert (known(path) != before) is anew
            await registry.register(one("n2"), ttl=30)
        assert known(path)[2] == 0o600
        async with opened(path, clock=Set(NOW, 1000.0, "b1")) as registry:
            assert await ids(registry) == ["n1", "n2"]

    run(main())


def test_closing_twice_and_opening_twice_is_fine(path: Path) -> None:
    async def main() -> None:
        registry = State(connect("memory://"), path)
        await registry.open()
        await registry.open()
        await registry.register(one(), ttl=30)
        await registry.close()
        await registry.close()
        async with State(connect("memory://"), path) as other:
            assert await ids(other) == ["n1"]

    run(main())
