"""``dir:///var/lib/services``: a registry in a directory, a JSON file for each node."""

import os
import time
from collections.abc import Iterator
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
    """A file's modification time is the moment at which its node expires. The directory must exist."""

    Options = DirOptions
    capabilities = frozenset({"complete_list", "authoritative", "fenced"})

    def __init__(self, url: RegistryURL, options: DirOptions) -> None:
        super().__init__(url, options)
        self._folder, self._interval = local_path(url), options.interval
        self._serial, self._warned = Serial(), set[str]()

    async def register(self, service: Service, *, ttl: float = 15.0) -> None:
        await self._serial(self._write, self._path(service), encode(service), time.time() + ttl)

    async def deregister(self, service: Service) -> None:
        await self._serial(self._remove, self._path(service))

    async def get_service(self, name: str) -> tuple[Service, ...]:
        return merge(await self._serial(self._read, name))

    async def list_services(self) -> tuple[str, ...]:
        return tuple(service.name for service in merge(await self._serial(self._read, None)))

    def watch(self, name: str | None = None) -> Watch:
        return Watch(lambda: poll(lambda: self._serial(self._read, name), self._interval))

    def _path(self, service: Service) -> Path:
        digest = sha256(f"{service.name}\n{service.nodes[0].id}".encode()).hexdigest()
        return self._folder / f"{_stem(service.name)}@{digest[:32]}.node.json"

    def _write(self, path: Path, record: bytes, until: float) -> None:
        draft = path.with_name(f"{path.name}.{os.urandom(6).hex()}")
        try:
            draft.write_bytes(record)
            os.utime(draft, (until, until))
            draft.replace(path)  # at once: nobody ever reads half a record
        finally:
            draft.unlink(missing_ok=True)

    def _remove(self, path: Path) -> None:
        self._folder.stat()  # a directory that is away is an error, a file that is away is none
        path.unlink(missing_ok=True)

    def _read(self, name: str | None) -> list[Service]:
        return decode_all(self._files("*" if name is None else _stem(name)), self._warned)

    def _files(self, stem: str) -> Iterator[tuple[str, bytes]]:
        now = time.time()
        for path in map(self._folder.joinpath, matching(os.listdir(self._folder), f"{stem}@*.node.json*")):
            with suppress(FileNotFoundError, PermissionError):  # withdrawn meanwhile, or not ours to read
                until = path.stat().st_mtime
                if until > now and path.suffix == ".json":
                    yield path.name, path.read_bytes()
                elif until < now - 3600:
                    path.unlink()


def _stem(name: str) -> str:
    """Short and safe, whatever the name: the digest makes a file unique, also where the system folds case."""
    return quote(name, safe="")[:63]
