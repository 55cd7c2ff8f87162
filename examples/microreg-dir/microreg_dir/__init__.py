"""``dir:///var/lib/services``: a registry in a directory, with a JSON file for each node."""

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from fnmatch import filter as matching
from hashlib import sha256
from pathlib import Path
from urllib.parse import quote

from microreg import Registry, Service, Watch, merge
from microreg.codec import encode
from microreg.toolkit import Serial, decode_all, local_path, poll
from microreg.url import Duration, Options, RegistryURL, option


@dataclass(frozen=True, slots=True, kw_only=True)
class DirOptions(Options):
    """What may stand behind the ``?`` of the config string."""

    interval: Duration = option(Duration(0.5), "seconds between two readings of a watch")


class DirRegistry(Registry):
    """The directory must exist. A file's modification time is the moment at which its node expires."""

    Options = DirOptions
    capabilities = frozenset({"complete_list", "authoritative", "fenced"})

    def __init__(self, url: RegistryURL, options: DirOptions) -> None:
        super().__init__(url, options)
        self._folder, self._interval = local_path(url), options.interval
        self._writing, self._reading, self._warned = Serial(), Serial(), set[str]()

    async def register(self, service: Service, *, ttl: float = 15.0) -> None:
        await self._writing(self._write, self._folder / file_name(service), encode(service), ttl)

    async def deregister(self, service: Service) -> None:
        await self._writing(self._folder.stat)  # a missing directory is an error, a missing file is none
        await self._writing(self._folder.joinpath(file_name(service)).unlink, missing_ok=True)

    async def get_service(self, name: str) -> tuple[Service, ...]:
        return merge(await self._reading(self._read, _stem(name)))

    async def list_services(self) -> tuple[str, ...]:
        return tuple(service.name for service in merge(await self._reading(self._read, "*")))

    def watch(self, name: str | None = None) -> Watch:
        stem = "*" if name is None else _stem(name)
        return Watch(lambda: poll(lambda: self._reading(self._read, stem), self._interval))

    def _write(self, path: Path, record: bytes, ttl: float) -> None:
        draft = path.with_name(f"{path.name}.{os.urandom(6).hex()}")
        try:
            draft.write_bytes(record)
            os.utime(draft, (0, draft.stat().st_mtime + ttl))  # by the file system's clock, which all share
            draft.replace(path)  # at once: nobody ever reads half a record
        finally:
            draft.unlink(missing_ok=True)

    def _read(self, stem: str) -> list[Service]:
        now, found = time.time(), dict[str, bytes]()
        for path in map(self._folder.joinpath, matching(os.listdir(self._folder), f"{stem}@*.node.json*")):
            with suppress(FileNotFoundError, IsADirectoryError, PermissionError):  # gone meanwhile, or not ours
                if (until := path.stat().st_mtime) > now and path.suffix == ".json":
                    found[path.name] = path.read_bytes()
                elif until < now - 3600 and os.access(self._folder, os.W_OK):
                    path.unlink()
        return decode_all(found.items(), self._warned)


def file_name(service: Service) -> str:
    """Safe and short, whatever the names are, and unique also where the file system folds case."""
    digest = sha256(f"{service.name}\n{service.nodes[0].id}".encode()).hexdigest()
    return f"{_stem(service.name)}@{digest[:32]}.node.json"


def _stem(name: str) -> str:
    return quote(name, safe="")[:63]
