"""``--state FILE``: what is registered survives a restart of the server, with what is left of each ttl by wall clock.

The first line is ``microreg state 1 <lines>``. So many lines have what was registered when the file was made; then
comes one for each tenth of a second in which something happened. Each is the SHA-256 of its rest, and JSON. A write
that was cut off by a crash is a last line without an end. When the file has grown too long, a new one takes its place.
It is for its owner only, and for one server at a time.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path

import msgspec

from microreg import Registry, Service, files
from microreg.codec import decode, encode
from microreg.errors import ConfigError, InvalidService
from microreg.registry import Layer
from microreg.rules import DEFAULT_TTL, MIN_TTL
from microreg.toolkit import Serial, end

__all__ = ["Kept", "State", "StateFile"]

log = logging.getLogger("microreg.server")

_MAGIC = b"microreg state "
_VERSION = b"1"
_LIMIT = 2**30
_PAUSE = 0.1
_RETRY = 1.0
_GROWTH = 4 * 2**20
_AT_ONCE = 500

_Key = tuple[str, str]


class Kept(msgspec.Struct, frozen=True, gc=False):
    """A record, the wall clock time (seconds since 1970) until which it lives, and its ttl."""

    record: Service
    until: float
    ttl: float


class _Known(msgspec.Struct, frozen=True, gc=False):
    """The same as it is in the file."""

    kept: Kept
    data: bytes


class _Batch(msgspec.Struct, omit_defaults=True):
    """What happened since the line before: until and ttl of a record, of a renewal; and who is gone."""

    put: list[tuple[float, float, msgspec.Raw]] = []
    renewed: list[tuple[str, str, float, float]] = []
    gone: list[tuple[str, str]] = []


_decode = msgspec.json.Decoder(_Batch).decode


class State(Layer):
    """Writes down what is registered, and registers it again when it is opened. For ``memory://`` alone.

    A write that was acknowledged is on the disk within a second. A file that cannot be written is one warning, and
    tried again every second. Raises ConfigError for other registries; ``open()`` does for a file that is no good.
    """

    def __init__(self, inner: Registry, path: Path, *, clock: Callable[[], float] = time.time) -> None:
        if inner.url.scheme != "memory":
            raise ConfigError(
                f"--state is for memory://, which would forget everything with the server; {inner.url.scheme}:// "
                "keeps what is registered by itself: leave --state out"
            )
        super().__init__(inner, inner.url, inner.options)
        self._file = StateFile(path.absolute())
        self._clock = clock
        self._changed: dict[_Key, Kept | None] = {}
        self._wake = asyncio.Event()
        self._closing = False
        self._writing = Serial()
        self._task: asyncio.Task[None] | None = None
        self._failed = False

    async def open(self) -> None:
        """Open the registry, and register what the file says is still alive."""
        if self._task is not None:
            return
        await super().open()
        try:
            await self._restore(await self._writing(self._file.open))
        except BaseException as error:
            self._file.release()
            await super().close()
            if isinstance(error, OSError):
                raise ConfigError(f"--state {self._file.path}: {_why(error)}") from error
            raise
        self._task = asyncio.create_task(self._run(), name="microreg server state")

    async def close(self) -> None:
        """Write for the last time, and close the registry. Closing twice is fine."""
        task, self._task = self._task, None
        if task is not None:
            self._closing = True
            self._wake.set()
            try:
                await asyncio.wait([task])
            finally:
                await end(task)
                self._file.release()
        await super().close()

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        """See :meth:`microreg.Registry.register`."""
        await self.inner.register(service, ttl=ttl)
        until = self._clock() + ttl
        for record in service.records():
            self._changed[record.name, record.nodes[0].id] = Kept(record, until, ttl)
        self._wake.set()

    async def deregister(self, service: Service) -> None:
        """See :meth:`microreg.Registry.deregister`."""
        await self.inner.deregister(service)
        for node in service.nodes:
            self._changed[service.name, node.id] = None
        self._wake.set()

    async def _restore(self, found: tuple[list[Kept], str]) -> None:
        entries, problem = found
        if problem:
            log.warning("set a state file aside: %s: %s", self._file.path, problem, extra={"error": problem})
        now = self._clock()
        for kept in entries:
            left = min(kept.until - now, kept.ttl)  # a clock that was set back makes nobody immortal
            if left > 0:
                try:
                    await self.inner.register(kept.record, ttl=max(MIN_TTL, left))
                except InvalidService as error:
                    log.warning("left a record out of the state: %s", error, extra={"error": str(error)})

    async def _run(self) -> None:
        while not self._closing:
            await self._wake.wait()
            if not self._closing:
                await asyncio.sleep(_PAUSE)
            self._wake.clear()
            await self._write()
        await self._write()

    async def _write(self) -> None:
        changed, self._changed = self._changed, {}
        try:
            await self._writing(self._file.write, changed, self._clock())
        except OSError as error:
            if not self._failed:
                text = "cannot write the state file, and tries again: %s: %s"
                log.warning(text, self._file.path, error, extra={"error": str(error)})
            self._failed = True
            asyncio.get_running_loop().call_later(_RETRY, self._wake.set)
        else:
            self._failed = False


class StateFile:
    """The file. Methods block and raise OSError; one at a time, they may be called in any thread."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._known: dict[_Key, _Known] = {}
        self._held = ExitStack()
        self._fd = -1
        self._size = 0
        self._base = 0

    def open(self) -> tuple[list[Kept], str]:
        """Take the file, and read it: what it says, and what is wrong with it. One that is damaged is set aside.

        Of such a file, everything that is whole counts: the worst is a node that was withdrawn, for its last ttl.
        """
        self._held.enter_context(files.locked(self.path))
        data = files.read_own(self.path, _LIMIT)
        problem = self._read(data) if data else ""
        if problem:
            problem += f"; it is now {files.set_aside(self.path).name}, and what is whole of it counts"
        self._rewrite(0.0)
        return [known.kept for known in self._known.values()], problem

    def write(self, changed: Mapping[_Key, Kept | None], now: float) -> None:
        """Add what has changed (None: it is gone) to the file. What fails is written with the next call."""
        batch = _Batch([], [], [])
        for key, kept in changed.items():
            self._note(batch, key, kept)
        if self._fd < 0 or self._size > 2 * self._base + _GROWTH or not os.fstat(self._fd).st_nlink:
            self._rewrite(now)
            return
        if not changed:
            return
        fd, self._fd = self._fd, -1
        line = _line(batch)
        try:
            self._size += _write_all(fd, line)
        except BaseException:
            os.close(fd)
            raise
        self._fd = fd

    def release(self) -> None:
        """Let go of the file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._held.close()

    def _note(self, batch: _Batch, key: _Key, kept: Kept | None) -> None:
        if kept is None:
            self._known.pop(key, None)
            batch.gone.append(key)
            return
        known = self._known.get(key)
        if known is not None and (known.kept.record is kept.record or known.kept.record == kept.record):
            data = known.data
            batch.renewed.append((*key, kept.until, kept.ttl))
        else:
            data = encode(kept.record)
            batch.put.append((kept.until, kept.ttl, msgspec.Raw(data)))
        self._known[key] = _Known(kept, data)

    def _rewrite(self, now: float) -> None:
        """Put a file in place that has only what is alive."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._known = {key: known for key, known in self._known.items() if known.kept.until > now}
        put = [(each.kept.until, each.kept.ttl, msgspec.Raw(each.data)) for each in self._known.values()]
        lines = [_line(_Batch(put=put[start : start + _AT_ONCE])) for start in range(0, len(put), _AT_ONCE)]
        data = _MAGIC + _VERSION + b" %d\n" % len(lines) + b"".join(lines)
        files.write_whole(self.path, data)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        self._size = self._base = len(data)

    def _read(self, data: bytes) -> str:
        """Apply every whole line; what is wrong with the others."""
        head, *lines, _ = data.split(b"\n") if b"\n" in data else (data, b"")
        if not head.startswith(_MAGIC):
            return "it is no state of a microreg server"
        version, _, count = head.removeprefix(_MAGIC).partition(b" ")
        if version != _VERSION:
            return f"it is of version {version[:20].decode('ascii', 'replace')!r}, which this microreg cannot read"
        damaged = 0
        for line in lines:
            checksum, _, body = line.partition(b" ")
            try:
                if checksum.decode("ascii", "replace") != sha256(body).hexdigest():
                    raise ValueError("its checksum is wrong")
                self._apply(_decode(body))
            except (ValueError, msgspec.MsgspecError, RecursionError):
                damaged += 1
        if damaged:
            return f"it is damaged: {damaged} of {len(lines)} lines cannot be read"
        if not count.isdigit() or len(lines) < int(count[:9]):
            return "it is damaged: lines are missing at its end"
        return f"it has more than {_LIMIT} bytes" if len(data) > _LIMIT else ""

    def _apply(self, batch: _Batch) -> None:
        for until, ttl, raw in batch.put:
            with suppress(InvalidService):
                data = bytes(raw)
                record = decode(data)
                for each in record.records():
                    self._known[record.name, each.nodes[0].id] = _Known(Kept(each, until, ttl), data)
        for name, id, until, ttl in batch.renewed:
            known = self._known.get((name, id))
            if known is not None:
                self._known[name, id] = _Known(Kept(known.kept.record, until, ttl), known.data)
        for key in batch.gone:
            self._known.pop(key, None)


def _line(batch: _Batch) -> bytes:
    body = msgspec.json.encode(batch)
    return sha256(body).hexdigest().encode() + b" " + body + b"\n"


def _write_all(fd: int, data: bytes) -> int:
    left = memoryview(data)
    while left:
        left = left[os.write(fd, left) :]
    os.fsync(fd)
    return len(data)


def _why(error: OSError) -> str:
    if isinstance(error, BlockingIOError):
        return "another server uses this file"
    return error.strerror or str(error)
