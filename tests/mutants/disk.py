"""A store that processes share, a directory of files, and a mutant that cleans up only when it is closed."""

from __future__ import annotations

import functools
import json
import shutil
import sys
import tempfile
import time
import weakref
from pathlib import Path

from microreg import codec
from microreg.model import Service, merge
from microreg.registry import Registry
from microreg.rules import DEFAULT_TTL
from microreg.testing import Harness
from microreg.toolkit import poll
from microreg.url import Options, RegistryURL
from microreg.watch import Watch
from support import ROOT

__all__ = ["OnDisk", "client", "harness_on_disk"]

PROGRAM = """
import sys
sys.path[:0] = {0!r}
import asyncio
from {1.__module__} import {1.__name__} as kind
from microreg.testing.client import obey
from mutants.disk import client
asyncio.run(obey(lambda _: client(kind, {2!r})))
"""


class OnDisk(Registry):
    """A file per node: until when it lives, and its record."""

    capabilities = frozenset({"complete_list", "authoritative"})

    def __init__(self, url: RegistryURL, options: Options) -> None:
        super().__init__(url, options)
        self.folder = Path(f"/{url.path}")

    def path(self, service: Service) -> Path:
        return self.folder / f"{service.name}~{service.nodes[0].id}"

    def until(self, ttl: float) -> float:
        return time.time() + ttl

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        text = json.dumps([self.until(ttl), codec.encode(service).decode()])
        new = self.folder / f".{service.nodes[0].id}"
        new.write_text(text)
        new.replace(self.path(service))

    async def deregister(self, service: Service) -> None:
        self.path(service).unlink(missing_ok=True)

    async def get_service(self, name: str) -> tuple[Service, ...]:
        return merge(self.records(name))

    async def list_services(self) -> tuple[str, ...]:
        return tuple(record.name for record in self.records("*"))

    def watch(self, name: str | None = None) -> Watch:
        async def read() -> list[Service]:
            return self.records(name or "*")

        return Watch(lambda: poll(read, 0.05))

    def records(self, name: str) -> list[Service]:
        found = [json.loads(path.read_text()) for path in self.folder.glob(f"{name}~*")]
        return [codec.decode(record) for until, record in found if until > time.time()]


def client(kind: type[OnDisk], url: str) -> Registry:
    """One more client, in this process or another."""
    return kind(RegistryURL.parse(url), Options())


def harness_on_disk(kind: type[OnDisk]) -> Harness:
    """A harness with a folder of its own, and with client processes."""
    folder = tempfile.mkdtemp(prefix="microreg-")
    url = f"disk://{folder}"
    command = sys.executable, "-c", PROGRAM.format([str(ROOT), str(ROOT / "tests")], kind, url)
    harness = Harness(factory=functools.partial(client, kind, url), patience=2.0, grace=0.5, command=command)
    weakref.finalize(harness, shutil.rmtree, folder)
    return harness
