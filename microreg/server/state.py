"""``--state FILE``: what is registered survives a restart of the server, with what is left of each ttl."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from microreg import Registry, Service
from microreg.checked import Checked
from microreg.errors import ConfigError, InvalidService
from microreg.registry import Layer
from microreg.rules import DEFAULT_TTL, MIN_TTL
from microreg.server.statefile import Clock, Kept, Key, StateFile
from microreg.toolkit import Serial, end

__all__ = ["State"]

log = logging.getLogger("microreg.server")

_PAUSE = 0.1
_RETRY = 1.0


class State(Layer):
    """Writes down what is registered, and registers it again when it is opened. For ``memory://`` alone.

    A write that was acknowledged is on the disk within a second. A file that cannot be written is one warning, and
    tried again every second. Raises ConfigError for other registries; ``open()`` does for a file that is no good.
    """

    def __init__(self, inner: Registry, path: Path, *, clock: Clock | None = None) -> None:
        if inner.url.scheme != "memory":
            raise ConfigError(
                f"--state is for memory://, which would forget everything with the server; {inner.url.scheme}:// "
                "keeps what is registered by itself: leave --state out"
            )
        super().__init__(inner, inner.url, inner.options)
        self.prompt = inner.prompt
        self._clock = clock or Clock()
        self._file = StateFile(path.absolute(), self._clock)
        self._changed: dict[Key, Kept | None] = {}
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
        self._wake.set()  # the file could not be written yet where the disk is full
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
        until = self._clock.uptime() + ttl
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
        now = self._clock.uptime()
        # What is in the file was checked when it was registered.
        registry = self.inner.inner if isinstance(self.inner, Checked) else self.inner
        for kept in entries:
            left = min(kept.until - now, kept.ttl)  # a time of day that was set back makes nobody immortal
            if left > 0:
                try:
                    await registry.register(kept.record, ttl=max(MIN_TTL, left))
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
            await self._writing(self._file.write, changed)
        except OSError as error:
            if not self._failed:
                text = "cannot write the state file, and tries again: %s: %s"
                log.warning(text, self._file.path, error, extra={"error": str(error)})
            self._failed = True
            asyncio.get_running_loop().call_later(_RETRY, self._wake.set)
        else:
            self._failed = False


def _why(error: OSError) -> str:
    if isinstance(error, BlockingIOError):
        return "another server uses this file"
    return error.strerror or str(error)
