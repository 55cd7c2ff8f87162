"""``nats://`` and ``natss://``: a microreg registry in a key-value bucket of JetStream.

::

    nats://10.0.0.1:4222,10.0.0.2:4222,10.0.0.3:4222?replicas=3
    natss://orders:${NATS_PASSWORD}@nats.internal?ca=/etc/ca.pem&bucket=production
"""

from __future__ import annotations

import re
from collections.abc import AsyncGenerator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from microreg import Registry, Service, Watch, merge
from microreg.codec import encode
from microreg.errors import ConfigError, RegistryClosed
from microreg.events import Event, Snapshot
from microreg.findings import Finding
from microreg.rules import DEFAULT_TTL
from microreg.url import Options, RegistryURL, option
from microreg_nats.bucket.keys import Keys
from microreg_nats.bucket.records import Records, Standing, counting
from microreg_nats.options import DEFAULT_PORT, NatsOptions, check_url

if TYPE_CHECKING:
    from microreg_nats.bucket.store import Store

__all__ = ["BucketOptions", "NatsRegistry"]

_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_REPLICAS = range(1, 6)


@dataclass(frozen=True, slots=True, kw_only=True)
class BucketOptions(NatsOptions):
    """What may stand behind the ``?`` of the config string. The TLS options are for ``natss://``."""

    bucket: str = option("microreg", "name of the key-value bucket; registries of different buckets share nothing")
    replicas: int = option(1, "how many servers of a cluster keep the bucket, where it is made")
    storage: Literal["file", "memory"] = option("file", "where the bucket is kept, where it is made")

    def __post_init__(self) -> None:
        NatsOptions.__post_init__(self)
        if not _NAME.fullmatch(self.bucket):
            raise ConfigError("option bucket: expected up to 64 letters, digits, - and _, for example bucket=orders")
        if self.replicas not in _REPLICAS:
            raise ConfigError(f"replicas={self.replicas}: expected 1 to 5, and 3 in a cluster of three servers")


class NatsRegistry(Registry):
    """One key for each node, ``<service>.<node id>``, with a time to live of its own.

    Every write is conditional on what was last seen at the key, so that one which was delayed brings nobody back.
    """

    Options: ClassVar[type[Options]] = BucketOptions
    capabilities = frozenset({"reasons", "complete_list", "authoritative", "push", "fenced"})

    def __init__(self, url: RegistryURL, options: BucketOptions) -> None:
        super().__init__(url, options)
        check_url(url, options)
        if url.path:
            raise ConfigError(f"{url}: nats:// takes no path; name the bucket as an option: bucket=orders")
        self._settings = options
        self.hosts = [host for host, _ in url.hosts(DEFAULT_PORT)]
        self._keys = Keys(options.bucket)
        self._records = Records(self._keys)
        self._opened: Store | None = None

    async def open(self) -> None:
        """Get ready; it connects at the first call. Raises ConfigError where a certificate or key is no good."""
        from microreg_nats.bucket.store import Store  # which loads nats-py

        self._opened = Store(self.url, self._settings)

    async def close(self) -> None:
        """Close the connection. What is registered stays until its ttl ends."""
        store, self._opened = self._opened, None
        if store is not None:
            await store.close()

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        """Put the record with a time to live; a renewal writes the same again, which is no event."""
        await self._store.held.write(self._subject(service), encode(service), ttl)

    async def deregister(self, service: Service) -> None:
        """Put a marker in the record's place, whoever wrote it."""
        await self._store.held.withdraw(self._subject(service))

    async def get_service(self, name: str) -> tuple[Service, ...]:
        """What stands under the name's keys."""
        found = await self._store.bucket.read(self._keys.filter(name))
        return merge(counting(self._read(found.values)))

    async def list_services(self) -> tuple[str, ...]:
        """The names in the keys; a name all of whose records are malformed is listed too."""
        found = await self._store.bucket.read(self._keys.filter(None))
        names = {self._keys.name(subject) for subject in found.values}
        return tuple(name for name in names if name is not None)

    def watch(self, name: str | None = None) -> Watch:
        """Everything in the bucket, then every message that comes after it in the stream."""
        return Watch(lambda: self._changes(name))

    async def examine(self) -> tuple[Finding, ...]:
        """The server's version and limits, and how the bucket is kept."""
        if self._opened is None:
            return ()
        from microreg_nats.examination import of_bucket

        return await of_bucket(self._opened.connection, self._opened.bucket)

    def _read(self, found: Mapping[str, bytes]) -> list[tuple[str, Service]]:
        records = ((subject, self._records.read(subject, value)) for subject, value in found.items())
        return [(subject, record) for subject, record in records if record is not None]

    async def _changes(self, name: str | None) -> AsyncGenerator[Event, None]:
        standing = Standing(self._keys)
        async with self._store.following(self._keys.filter(name)) as (values, changes):
            for subject, data in values.items():
                standing.is_new(subject, data)
            found = self._read(values)
            for subject, known in found:
                standing.put(subject, known)
            yield Snapshot.of(counting(found))
            del values, found
            async with aclosing(changes):
                async for subject, value, reason in changes:
                    if standing.is_new(subject, value):
                        record = None if value is None else self._records.read(subject, value)
                        for change in standing.put(subject, record, reason):
                            yield change

    def _subject(self, service: Service) -> str:
        return self._keys.subject(service.name, service.nodes[0].id)

    @property
    def _store(self) -> Store:
        if self._opened is None:
            raise RegistryClosed(f"{self.url} is not open")
        return self._opened
