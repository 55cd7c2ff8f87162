"""``etcd://`` and ``etcds://``: a microreg registry on etcd 3, alone or inside a go-micro fleet.

::

    etcd://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379
    etcds://orders:${ETCD_PASSWORD}@etcd.internal/production?ca=/etc/ca.pem
    etcd://127.0.0.1?layout=go-micro
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from microreg import Registry, Service, Watch, merge
from microreg.codec import encode
from microreg.errors import ConfigError, RegistryClosed
from microreg.events import Event, Snapshot
from microreg.findings import Finding
from microreg.rules import DEFAULT_TTL
from microreg.tls import check_tls
from microreg.url import Options, RegistryURL, TLSOptions, option
from microreg_etcd.layouts import GoMicro, Layout
from microreg_etcd.reading import Records, Standing

if TYPE_CHECKING:
    from microreg_etcd.store import Store

__all__ = ["EtcdOptions", "EtcdRegistry"]

DEFAULT_PORT = 2379


@dataclass(frozen=True, slots=True, kw_only=True)
class EtcdOptions(TLSOptions):
    """What may stand behind the ``?`` of the config string. The TLS options are for ``etcds://``."""

    layout: Literal["microreg", "go-micro"] = option(
        "microreg", "whose keys: with go-micro, its programs and ours find each other"
    )


class EtcdRegistry(Registry):
    """One key for each node, on a lease of its own, under ``/<prefix>/<service>/<node id>``.

    Deregistering revokes the lease, so that a write which was delayed brings nobody back. etcd does not say why
    a key is gone: the reason of a delete is ``removed``.
    """

    Options: ClassVar[type[Options]] = EtcdOptions
    capabilities = frozenset({"complete_list", "authoritative", "push", "fenced"})

    def __init__(self, url: RegistryURL, options: EtcdOptions) -> None:
        super().__init__(url, options)
        self._tls = _tls(url, options)
        self._hosts = url.hosts(DEFAULT_PORT)
        self.hosts = [host for host, _ in self._hosts]
        self._layout = (GoMicro if options.layout == "go-micro" else Layout)(url.path)
        self._records = Records(self._layout)
        self._opened: Store | None = None

    async def open(self) -> None:
        """Prepare the channels; they connect at the first call. Raises ConfigError where a certificate is no good."""
        from microreg_etcd.store import Store  # which loads gRPC

        self._opened = Store(self.url, self._tls, self.options.timeout)

    async def close(self) -> None:
        """Close the connections. What is registered stays until its lease ends."""
        store, self._opened = self._opened, None
        if store is not None:
            await store.close()

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        """Put the record on a lease, or renew the lease of a record that is in place."""
        node = service.nodes[0]
        if node.status in self._layout.hidden:
            await self.deregister(service)
        else:
            await self._store.held.write(self._layout.key(service.name, node.id), encode(service), ttl)

    async def deregister(self, service: Service) -> None:
        """Revoke the lease, and delete the key if somebody else wrote it."""
        key = self._layout.key(service.name, service.nodes[0].id)
        if self._layout.names_in_keys or not await self._is_of_others(key, service):
            await self._store.held.withdraw(key)

    async def get_service(self, name: str) -> tuple[Service, ...]:
        """What stands under the name's keys, all as of one revision."""
        return merge(record for record in await self._read(name) if record.name == name)

    async def list_services(self) -> tuple[str, ...]:
        """The names in the keys, or in the values where the keys do not tell them.

        Where keys tell, values are not read: a name all of whose records are malformed is listed too.
        """
        if not self._layout.names_in_keys:
            return tuple({record.name for record in await self._read(None)})
        names = set[str]()
        async for page in self._store.pages(self._layout.range(None), keys_only=True):
            names.update(told[0] for item in page if (told := self._layout.parse(item.key)))
        return tuple(names)

    def watch(self, name: str | None = None) -> Watch:
        """Everything as of one revision, then every event after it."""
        return Watch(lambda: self._changes(name))

    async def examine(self) -> tuple[Finding, ...]:
        """Each member's version and state, and what the cluster does to a ttl."""
        if self._opened is None:
            return ()
        from microreg_etcd.examination import examine

        return await examine(self._opened, self._tls, self.options.timeout)

    async def _read(self, name: str | None) -> list[Service]:
        return await self._read_range(self._layout.range(name))

    async def _read_range(self, span: tuple[bytes, bytes]) -> list[Service]:
        from microreg_etcd.failures import Compacted  # which loads gRPC

        while True:
            records: list[Service] = []
            with suppress(Compacted):  # between two pages: begin again, until the call's timeout
                async for page in self._store.pages(span):
                    for item in page:
                        records += self._records.read(item.key, item.value)
                return records

    async def _is_of_others(self, key: bytes, service: Service) -> bool:
        """Whether what stands at the key is of other nodes, whose names differ in a slash."""
        found = await self._read_range((key, key + b"\0"))
        return bool(found) and all(
            (record.name, record.nodes[0].id) != (service.name, service.nodes[0].id) for record in found
        )

    async def _changes(self, service: str | None) -> AsyncGenerator[Event, None]:
        from microreg_etcd.position import Position  # which loads gRPC

        store, span = self._store, self._layout.range(service)
        standing = Standing(self._layout)
        records: list[Service] = []
        position = Position()
        async for page in store.pages(span, position=position):
            for item in page:
                found = self._records.read(item.key, item.value)
                standing.load(item.key, found)
                records += found
        yield Snapshot.of(records)
        del records
        async with aclosing(store.events(span, position)) as changes:
            async for key, value in changes:
                for change in standing.put(key, () if value is None else self._records.read(key, value)):
                    yield change

    @property
    def _store(self) -> Store:
        if self._opened is None:
            raise RegistryClosed(f"{self.url} is not open")
        return self._opened


def _tls(url: RegistryURL, options: EtcdOptions) -> TLSOptions | None:
    """The TLS options of ``etcds://``, None for ``etcd://``. Raises ConfigError for what does not fit together."""
    if bool(url.user) != bool(url.password):
        raise ConfigError(
            f"{url}: user and password belong together, as in {url.scheme}://user:${{ETCD_PASSWORD}}@host"
        )
    return options if check_tls(url, options, "etcds") else None
