"""cache.disk: what the cache knows, over restarts; and files that cannot be read or written."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import ParamSpec, TypeVar

import pytest

import support
from caching import Store, Vague, at_once, hot, one, opened, ports, several
from microreg.errors import RegistryUnavailable, ServiceNotFound
from microreg.events import Change
from microreg.files import locked
from microreg.layers.cache import Freshness
from microreg.layers.cache import disk as disk_room
from microreg.layers.cache.disk import key_of
from microreg.layers.cache.snapshot import SnapshotFile
from microreg.model import Service
from microreg.url import RegistryURL
from support import wait_until
from timeless import run

P = ParamSpec("P")
T = TypeVar("T")
NOW = 1e6


@pytest.fixture(autouse=True)
def no_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    """Virtual time knows no threads: what would run in one runs at once."""

    async def in_place(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        await asyncio.sleep(0)
        return function(*args, **kwargs)

    monkeypatch.setattr(disk_room, "in_thread", in_place)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "snapshot"


def down() -> Store:
    """A store that nobody answers for: calls wait, watches too."""
    store = Store()
    store.answer.clear()
    store.watches.clear()
    return store


async def remember(path: Path, *services: Service, at: float = NOW) -> None:
    """A file that a cache has written which knew these."""
    async with opened(disk=str(path), clock=lambda: at) as (cache, _):
        for service in services:
            await cache.register(service, ttl=86_400)
            await hot(cache, service.name)


def kept(path: Path, url: str = "memory://") -> dict[str, int]:
    """How many records the file has of each name."""
    entries, problem = SnapshotFile(path, url).load()
    assert problem == ""
    return {name: len(entry.records) for name, entry in entries.items()}


# -- used ------------------------------------------------------------------------------------------------


def test_what_the_file_says_is_served_after_the_wait(path: Path) -> None:
    async def main() -> None:
        await remember(path, several(80, 81))
        loop = asyncio.get_running_loop()
        async with opened(down(), disk=str(path), clock=lambda: NOW + 100) as (cache, store):
            began = loop.time()
            assert await asyncio.gather(*(cache.get_service("greeter") for _ in range(3))) == [(several(80, 81),)] * 3
            assert loop.time() - began == pytest.approx(0.2) and store.gets == 1
            assert at_once(cache.get_service("greeter")) == (several(80, 81),)
            fresh = cache.freshness("greeter")
            assert fresh.kind == "disk" and fresh.age == pytest.approx(100)
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(1), cache.watch("greeter") as events:
                    await anext(events)

    run(main())


def test_an_error_need_not_be_waited_for(path: Path) -> None:
    async def main() -> None:
        await remember(path, one())
        async with opened(disk=str(path)) as (cache, store):
            store.store.down = True
            assert await cache.get_service("greeter") == (one(),)
            assert asyncio.get_running_loop().time() < 0.2
            with pytest.raises(RegistryUnavailable):
                await cache.get_service("other")

    run(main())


def test_who_follows_a_name_hears_of_what_the_file_says(path: Path) -> None:
    async def main() -> None:
        await remember(path, one())
        async with opened(down(), disk=str(path)) as (cache, store):
            seen: list[Change] = []
            cache.follow("greeter")
            cache.subscribe("greeter", seen.append)
            await asyncio.sleep(0.3)
            assert [change.node.id for change in seen] == ["n80"]
            store.watches.set()  # the store answers: nobody is there
            await wait_until(lambda: len(seen) == 2)
            assert not cache.services("greeter") and cache.freshness("greeter") == Freshness("live")

    run(main())


def test_a_store_that_answers_in_time_is_believed(path: Path) -> None:
    async def main() -> None:
        await remember(path, one())
        for known in ((), (one(81),)):
            async with opened(disk=str(path)) as (cache, _):
                for service in known:
                    await cache.register(service)
                try:
                    found = await cache.get_service("greeter")
                except ServiceNotFound:
                    found = ()
                assert found == known
                await asyncio.sleep(1)
                assert cache.services("greeter") == known

    run(main())


def test_a_lookup_that_says_no_is_an_answer(path: Path) -> None:
    async def main() -> None:
        await remember(path, one())
        store = Store()
        store.watches.clear()
        async with opened(store, disk=str(path)) as (cache, _):
            for _ in range(3):
                with pytest.raises(ServiceNotFound):
                    await cache.get_service("greeter")
                await asyncio.sleep(0.3)

    run(main())


def test_nobody_answering_is_no_answer(path: Path) -> None:
    async def main() -> None:
        await remember(path, one())
        store = Vague()
        store.watches.clear()
        async with opened(store, disk=str(path)) as (cache, _):
            assert await cache.get_service("greeter") == (one(),)

    run(main())


def test_what_is_too_old_is_not_used_and_what_becomes_too_old_is_given_up(path: Path) -> None:
    async def main() -> None:
        await remember(path, one())
        async with opened(down(), disk=str(path), clock=lambda: NOW + 3601) as (cache, _):
            with pytest.raises(RegistryUnavailable):
                await cache.get_service("greeter")
        await remember(path, one())
        async with opened(down(), disk=str(path), clock=lambda: NOW + 3000) as (cache, _):
            assert await cache.get_service("greeter") == (one(),)
            await asyncio.sleep(590)
            assert at_once(cache.get_service("greeter")) == (one(),)
            await asyncio.sleep(20)
            with pytest.raises(RegistryUnavailable, match=r"36\d\d s old"):
                await cache.get_service("greeter")
        async with opened(down(), disk=str(path), clock=lambda: NOW - 3000) as (cache, _):
            with pytest.raises(RegistryUnavailable):
                await cache.get_service("greeter")

    run(main())


# -- written ---------------------------------------------------------------------------------------------


def test_a_relative_path_means_where_the_program_was_started(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(path.parent)

    async def main() -> None:
        async with opened(disk="snapshot") as (cache, _):
            await cache.register(one(), ttl=86_400)
            await hot(cache)
            monkeypatch.chdir("/")

    run(main())
    assert kept(path) == {"greeter": 1}


def test_only_names_that_were_asked_for_are_written_and_only_for_the_owner(path: Path) -> None:
    async def main() -> None:
        async with opened(disk=str(path)) as (cache, _):
            await cache.register(several(80, 81))
            await cache.register(one(name="other"))
            await hot(cache)
            await asyncio.sleep(0.1)
            assert kept(path) == {"greeter": 2}

    run(main())
    assert path.stat().st_mode & 0o777 == 0o600


def test_it_is_written_at_most_every_five_seconds_and_at_the_end(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[float] = []
    real = SnapshotFile.save

    def save(self: SnapshotFile, names: dict[str, tuple[Service, ...]], now: float, lifetime: float) -> str:
        written.append(now)
        return real(self, names, now, lifetime)

    monkeypatch.setattr(SnapshotFile, "save", save)

    async def main() -> None:
        async with opened(disk=str(path)) as (cache, _):
            with pytest.raises(ServiceNotFound):
                await cache.get_service("greeter")
            for number in range(600):
                await cache.register(one(zone=str(number)), ttl=86_400)
                await asyncio.sleep(0.1)
            assert 10 <= len(written) <= 13
            assert min(after - before for before, after in zip(written, written[1:], strict=False)) >= 5
            await cache.register(one(82), ttl=86_400)
            await asyncio.sleep(0.1)
        assert kept(path) == {"greeter": 2}

    run(main())


def test_a_name_that_has_no_node_any_more_leaves_the_file(path: Path) -> None:
    async def main() -> None:
        await remember(path, one())
        assert kept(path) == {"greeter": 1}
        async with opened(disk=str(path)) as (cache, _):
            with pytest.raises(ServiceNotFound):
                await cache.get_service("greeter")
            await asyncio.sleep(0.1)
        assert kept(path) == {}

    run(main())


def test_an_outage_ages_what_is_written_and_a_long_quiet_time_does_not(path: Path) -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        async with opened(disk=str(path)) as (cache, store):
            await cache.register(one(), ttl=86_400)
            await hot(cache)
            cache.subscribe("greeter", lambda _: None)
            await asyncio.sleep(10_000)
            store.store.down = True
            lost = loop.time()
            await asyncio.sleep(1000)
        entry = SnapshotFile(path, "memory://").load()[0]["greeter"]
        assert lost - 361 <= entry.at - NOW <= lost

    run(main())


def test_registries_and_processes_share_a_file(path: Path) -> None:
    async def main() -> None:
        one_url, other_url = "cache+memory://", "cache+etcd://u:secret@10.0.0.1/x?token=abc&cache.idle=5m"
        async with (
            opened(disk=str(path)) as (first, _),
            opened(disk=str(path), url=one_url) as (second, _),
            opened(disk=str(path), url=other_url) as (third, _),
        ):
            for cache, name in ((first, "a"), (second, "b"), (third, "c")):
                await cache.register(one(name=name), ttl=86_400)
                await hot(cache, name)
            await asyncio.sleep(20)
            key = key_of(RegistryURL.parse(other_url))
            assert kept(path) == {"a": 1, "b": 1} and kept(path, key) == {"c": 1}
        assert kept(path) == {"a": 1, "b": 1} and kept(path, key) == {"c": 1}

    run(main())
    assert b"secret" not in path.read_bytes() and b"abc" not in path.read_bytes()


def test_the_later_one_of_two_that_know_a_name_counts_and_what_is_too_old_goes(path: Path) -> None:
    mine, other = SnapshotFile(path, "a://"), SnapshotFile(path, "b://")
    mine.save({"greeter": (one(80),)}, NOW, 100)
    other.save({"greeter": (one(80),)}, NOW, 3600)
    mine.save({"greeter": (one(81), one(82))}, NOW - 5, 100)
    assert kept(path, "a://") == {"greeter": 1}
    mine.save({}, NOW + 101, 100)
    assert kept(path, "a://") == {} and kept(path, "b://") == {"greeter": 1}
    mine.save({}, NOW - 1000, 100)
    assert kept(path, "b://") == {}, "written by a clock far ahead"


@pytest.mark.parametrize(
    ("url", "key"),
    [
        ("cache+memory://x?cache.idle=5m", "memory://x"),
        ("count+cache+namespace+etcd://a?namespace.prefix=p&count.x=1&timeout=2s",
         "namespace+etcd://a?namespace.prefix=p&timeout=2s"),
        ("cache+mirror:etcd://u:pw@a|memory://#cache.idle=5m", "mirror:etcd://u:***@a|memory://"),
        ("memory://x", "memory://x"),
    ],
)  # fmt: skip
def test_the_key_is_what_lies_inside_the_cache_without_secrets(url: str, key: str) -> None:
    assert key_of(RegistryURL.parse(url)) == key


# -- files that cannot be used -----------------------------------------------------------------------------


def spoiled(good: bytes) -> dict[str, bytes]:
    head, _, body = good.partition(b"\n")
    rubbish = b'{"a": 5}'
    return {
        "empty": b"",
        "foreign": b"[section]\nkey = value\n",
        "binary": bytes(range(256)),
        "truncated head": head[:30],
        "truncated": good[:-10],
        "one byte changed": good.replace(b"10.0.0.1", b"10.0.0.2"),
        "future": good.replace(b"cache 1 ", b"cache 2 ", 1),
        "other content": b"microreg cache 1 " + sha256(rubbish).hexdigest().encode() + b"\n" + rubbish,
        "no text": head + b"\n" + body + b"\xff\xfe",
    }


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    """What was warned of; after the colon, it says where and why."""
    found = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert all(": " in message for message in found)
    return [message.partition(":")[0] for message in found]


@pytest.mark.parametrize("kind", list(spoiled(b"\n")))
def test_a_file_that_is_no_snapshot_is_set_aside_with_one_warning(
    path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    run(remember(path, one()))
    content = spoiled(path.read_bytes())[kind]
    path.write_bytes(content)

    async def main() -> None:
        async with opened(down(), disk=str(path)) as (cache, store):
            with pytest.raises(RegistryUnavailable):
                await cache.get_service("greeter")
            assert warnings(caplog) == ["set a snapshot file aside"]
            assert caplog.records[-1].error.endswith("it is now snapshot.aside-1")  # type: ignore[attr-defined]
            store.answer.set()
            store.watches.set()
            await cache.register(one(81), ttl=86_400)
            await wait_until(lambda: ports(cache) == [81], timeout=11)
        assert kept(path) == {"greeter": 1} and len(warnings(caplog)) == 1

    run(main())
    assert path.with_name("snapshot.aside-1").read_bytes() == content


def test_a_file_that_is_spoiled_while_it_is_used_is_set_aside_and_written_anew(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    spoil = path.write_bytes

    async def main() -> None:
        async with opened(disk=str(path)) as (cache, _):
            await cache.register(one(), ttl=86_400)
            await hot(cache)
            for number in range(12):
                spoil(b"rubbish %d" % number)
                await cache.register(one(zone=str(number)), ttl=86_400)
                await asyncio.sleep(6)
                assert kept(path) == {"greeter": 1}
        assert warnings(caplog) == ["set a snapshot file aside"]

    run(main())
    assert len(list(path.parent.iterdir())) == 11, "the file, its lock, nine that were set aside"


def test_a_record_that_does_not_decode_harms_no_other(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    run(remember(path, several(80, 81)))
    _, _, body = path.read_bytes().partition(b"\n")
    body = body.replace(b'"id":"n80"', b'"id":"n\\u000080"')
    path.write_bytes(b"microreg cache 1 " + sha256(body).hexdigest().encode() + b"\n" + body)

    async def main() -> None:
        async with opened(down(), disk=str(path)) as (cache, _):
            assert await cache.get_service("greeter") == (one(81),)
        assert warnings(caplog) == ["skipped the record at 'greeter'"]

    run(main())


def unusable(kind: str, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if kind == "a directory":
        path.mkdir()
    elif kind == "a pipe":
        os.mkfifo(path)
    elif kind == "of another user":
        path.write_bytes(b"")
        monkeypatch.setattr(os, "geteuid", lambda: 4711)
        if os.getuid() == 0:
            os.chown(path, 4712, -1)
    elif kind == "full disk":
        monkeypatch.setattr(os, "fsync", full)
    elif kind == "read-only disk":
        monkeypatch.setattr(os, "open", read_only)


def full(_: int) -> None:
    raise OSError(28, "No space left on device")


def read_only(file: str, flags: int, mode: int = 0o777, real: Callable[..., int] = os.open) -> int:
    if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT):
        raise OSError(30, "Read-only file system")
    return real(file, flags, mode)


@pytest.mark.parametrize(
    "kind", ["a directory", "a pipe", "of another user", "full disk", "read-only disk", "no folder"]
)
def test_a_disk_that_does_not_work_is_one_warning(
    kind: str, path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    if kind == "no folder":
        path = path / "deeper"
    unusable(kind, path, monkeypatch)

    async def main() -> None:
        async with opened(disk=str(path)) as (cache, _):
            for number in range(5):
                await cache.register(one(zone=str(number)), ttl=86_400)
                assert (await cache.get_service("greeter"))[0].name == "greeter"
                await asyncio.sleep(6)
        assert len(warnings(caplog)) == 1 and "goes on without" in warnings(caplog)[0]

    run(main())
    assert not list(path.parent.glob("*.new"))


def test_a_disk_that_works_again_is_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def main() -> None:
        async with opened(disk=str(path)) as (cache, _):
            with monkeypatch.context() as broken:
                broken.setattr(os, "fsync", full)
                await cache.register(one(), ttl=86_400)
                await hot(cache)
                await asyncio.sleep(6)
                assert kept(path) == {}
            await asyncio.sleep(6)
            assert kept(path) == {"greeter": 1}

    run(main())


def test_a_leftover_of_a_process_that_was_killed_is_in_nobodys_way(path: Path) -> None:
    path.with_name("snapshot.new").write_bytes(b"half")
    SnapshotFile(path, "a://").save({"greeter": (one(),)}, NOW, 60)
    assert kept(path, "a://") == {"greeter": 1} and not path.with_name("snapshot.new").exists()


def test_a_snapshot_that_is_too_large_is_not_written(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("microreg.layers.cache.snapshot._LIMIT", 1000)
    file = SnapshotFile(path, "a://")
    file.save({"greeter": (one(),)}, NOW, 60)
    with pytest.raises(OSError, match="at most 1000"):
        file.save({f"name-{number}": (one(),) for number in range(20)}, NOW, 60)
    assert kept(path, "a://") == {"greeter": 1}


def test_somebody_who_holds_the_lock_is_waited_for_a_second(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pauses: list[float] = []
    monkeypatch.setattr("microreg.files.time.sleep", pauses.append)
    with locked(path), pytest.raises(BlockingIOError):
        SnapshotFile(path, "b://").save({"greeter": (one(),)}, NOW, 60)
    assert sum(pauses) == pytest.approx(0.95)


def test_the_loop_is_not_held_up_by_the_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With real threads: reading and writing happen in others than the loop's."""
    monkeypatch.undo()
    seen: set[bool] = set()
    real = SnapshotFile._read

    def read(self: SnapshotFile) -> object:
        seen.add(threading.current_thread() is threading.main_thread())
        return real(self)

    monkeypatch.setattr(SnapshotFile, "_read", read)

    async def main() -> None:
        async with opened(disk=str(path)) as (cache, _):
            await cache.register(one())
            await hot(cache)
        assert await asyncio.to_thread(kept, path) == {"greeter": 1} and seen == {False}

    support.run(main())


def test_opening_that_is_cancelled_leaves_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def never(*_: object) -> None:
        await asyncio.get_running_loop().create_future()

    monkeypatch.setattr(disk_room, "in_thread", never)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(1), opened(disk=str(path)):
                pass
        assert asyncio.all_tasks() == {asyncio.current_task()}
        async with opened(disk=str(path)) as (cache, _):
            assert asyncio.get_running_loop().time() == pytest.approx(3), "a disk that hangs is given two seconds"
            await cache.register(one())
            await hot(cache)
        assert asyncio.get_running_loop().time() == pytest.approx(5, abs=0.1)

    run(main())
