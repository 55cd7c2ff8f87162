"""The file of ``--state``.

The first line is ``microreg state 1 <lines> <boot>``. So many lines have what was registered when the file was made;
then comes one for each tenth of a second in which something happened. Each is the SHA-256 of its rest, and JSON. A
write that was cut off by a crash is a last line without an end. When the file has grown too long, a new one takes its
place. It is for its owner only, and for one server at a time.

Times are seconds since the machine was started, which nobody sets: a restart of the server does not depend on the time
of day. Only when the machine itself was started again meanwhile, the time of day says how long that took.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Mapping
from contextlib import ExitStack, suppress
from hashlib import sha256
from pathlib import Path

import msgspec

from microreg import Service, files
from microreg.codec import decode, encode
from microreg.errors import InvalidService

__all__ = ["Clock", "Kept", "Key", "StateFile"]

_MAGIC = b"microreg state "
_VERSION = b"1"
_LIMIT = 2**30
_GROWTH = 4 * 2**20
_AT_ONCE = 500
_OWN = 0o600
"""The mode of the file."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
_BOOT = Path("/proc/sys/kernel/random/boot_id")

Key = tuple[str, str]
"""Name and node id."""


class Clock:
    """How long the machine has been running, also while it slept. Where the system does not tell, the time of day.

    ``boot`` is different each time that the machine was started, and empty where that is not known.
    """

    def __init__(self) -> None:
        self.boot = ""
        self._clock = getattr(time, "CLOCK_BOOTTIME", None)
        if self._clock is not None:
            with suppress(OSError):
                self.boot = _BOOT.read_text().strip()

    def uptime(self) -> float:
        """Seconds since the machine was started."""
        return time.time() if self._clock is None else time.clock_gettime(self._clock)

    def began(self) -> float:
        """When the machine was started, in seconds since 1970, if the time of day is right now."""
        return time.time() - self.uptime()


class Kept(msgspec.Struct, frozen=True, gc=False):
    """A record, the uptime (seconds, see :class:`Clock`) until which it lives, and its ttl."""

    record: Service
    until: float
    ttl: float


class _Known(msgspec.Struct, frozen=True, gc=False):
    """The same as it is in the file."""

    kept: Kept
    data: bytes


class _Batch(msgspec.Struct, omit_defaults=True):
    """What happened since the line before: until and ttl of a record, of a renewal; and who is gone.

    ``began`` is when the machine was started, by the time of day at which this was written.
    """

    began: float
    put: list[tuple[float, float, msgspec.Raw]] = []
    renewed: list[tuple[str, str, float, float]] = []
    gone: list[tuple[str, str]] = []


_decode = msgspec.json.Decoder(_Batch).decode


class StateFile:
    """The file. Methods block and raise OSError; one at a time, they may be called in any thread."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.path = path
        self._clock = clock
        self._known: dict[Key, _Known] = {}
        self._held = ExitStack()
        self._fd = -1
        self._size = 0
        self._base = 0

    def open(self) -> tuple[list[Kept], str]:
        """Take the file, and read it: what it says, and what is wrong with it. One that is damaged is set aside.

        Of such a file, everything that is whole counts: the worst is a node that was withdrawn, for its last ttl.
        A disk that is full is no reason to raise: the next write tries again.
        """
        self._held.enter_context(files.locked(self.path))
        data = files.read_own(self.path, _LIMIT)
        problem = self._read(data) if data else ""
        if problem:
            problem += f"; it is now {files.set_aside(self.path).name}, and what is whole of it counts"
        self._forget_the_dead()
        try:
            if problem or not self._go_on(data or b""):
                self._rewrite()
        except OSError as error:
            if error.errno not in _FULL:
                raise
        return [known.kept for known in self._known.values()], problem

    def write(self, changed: Mapping[Key, Kept | None]) -> None:
        """Add what has changed (None: it is gone) to the file. What fails is written with the next call."""
        batch = _Batch(self._clock.began(), [], [], [])
        for key, kept in changed.items():
            self._note(batch, key, kept)
        if self._fd < 0 or self._is_long() or not os.fstat(self._fd).st_nlink:
            self._rewrite()
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

    def _note(self, batch: _Batch, key: Key, kept: Kept | None) -> None:
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

    def _forget_the_dead(self) -> None:
        now = self._clock.uptime()
        self._known = {key: known for key, known in self._known.items() if known.kept.until > now}

    def _is_long(self) -> bool:
        """Whether there is much in the file that does not count any more."""
        return self._size > 2 * self._base + _GROWTH

    def _go_on(self, data: bytes) -> bool:
        """Add to the file as it is, ``data``; False where that will not do.

        It has to end with a whole line, to be of this run of the machine, not too long, and for its owner only.
        """
        self._size, self._base = len(data), sum([len(known.data) for known in self._known.values()])
        boot = data.partition(b"\n")[0].split(b" ")[-1]
        if not data.endswith(b"\n") or boot != self._clock.boot.encode() or self._is_long():
            return False
        if stat.S_IMODE(os.stat(self.path).st_mode) != _OWN:
            return False
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        return True

    def _rewrite(self) -> None:
        """Put a file in place that has only what is alive."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        self._forget_the_dead()
        began = self._clock.began()
        put = [(each.kept.until, each.kept.ttl, msgspec.Raw(each.data)) for each in self._known.values()]
        lines = [_line(_Batch(began, put[start : start + _AT_ONCE])) for start in range(0, len(put), _AT_ONCE)]
        data = _MAGIC + _VERSION + b" %d %s\n" % (len(lines), self._clock.boot.encode()) + b"".join(lines)
        files.write_whole(self.path, data)
        self._fd = os.open(self.path, os.O_WRONLY | os.O_APPEND)
        self._size = self._base = len(data)

    def _read(self, data: bytes) -> str:
        """Apply every whole line; what is wrong with the others."""
        head, *lines, _ = data.split(b"\n") if b"\n" in data else (data, b"")
        if not head.startswith(_MAGIC):
            return "it is no state of a microreg server"
        version, count, boot = (*head.removeprefix(_MAGIC).split(b" "), b"", b"")[:3]
        if version != _VERSION:
            return f"it is of version {version[:20].decode('ascii', 'replace')!r}, which this microreg cannot read"
        same = bool(boot) and boot == self._clock.boot.encode()
        began = self._clock.began()
        damaged = 0
        for line in lines:
            checksum, _, body = line.partition(b" ")
            try:
                if checksum.decode("ascii", "replace") != sha256(body).hexdigest():
                    raise ValueError("its checksum is wrong")
                batch = _decode(body)
                self._apply(batch, 0.0 if same else batch.began - began)
            except (ValueError, msgspec.MsgspecError, RecursionError):
                damaged += 1
        if damaged:
            return f"it is damaged: {damaged} of {len(lines)} lines cannot be read"
        if not count.isdigit() or len(lines) < int(count[:9]):
            return "it is damaged: lines are missing at its end"
        return f"it has more than {_LIMIT} bytes" if len(data) > _LIMIT else ""

    def _apply(self, batch: _Batch, later: float) -> None:
        for until, ttl, raw in batch.put:
            data = bytes(raw)
            try:
                records = decode(data).records()
            except InvalidService:
                continue
            for record in records:
                self._known[record.name, record.nodes[0].id] = _Known(Kept(record, until + later, ttl), data)
        for name, id, until, ttl in batch.renewed:
            known = self._known.get((name, id))
            if known is not None:
                self._known[name, id] = _Known(Kept(known.kept.record, until + later, ttl), known.data)
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
