"""``consul://`` and ``consuls://``: a microreg registry on a Consul agent, alone or inside a go-micro fleet.

::

    consul://127.0.0.1:8500
    consuls://consul.internal:8501?ca=/etc/ca.pem&token=${CONSUL_HTTP_TOKEN}
    consul://127.0.0.1?layout=go-micro
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from microreg import Registry, Service, Watch, merge
from microreg.errors import ConfigError, RegistryClosed
from microreg.findings import Finding
from microreg.rules import DEFAULT_TTL
from microreg.tls import check_tls, client_context
from microreg.url import Options, RegistryURL, TLSOptions, option
from microreg_consul.layouts import GoMicro, Layout
from microreg_consul.records import Records

if TYPE_CHECKING:
    from microreg_consul.store import Store

__all__ = ["ConsulOptions", "ConsulRegistry"]

_PORTS = {"consul": 8500, "consuls": 8501}


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsulOptions(TLSOptions):
    """What may stand behind the ``?`` of the config string. The TLS options are for ``consuls://``."""

    token: str = option("", "ACL token, better from the environment: token=${CONSUL_HTTP_TOKEN}", secret=True)
    dc: str = option("", "datacenter that is read; not given: the agent's own, where it registers in any case")
    layout: Literal["microreg", "go-micro"] = option(
        "microreg", "whose ids and tags: with go-micro, its programs and ours find each other"
    )


class ConsulRegistry(Registry):
    """One service of the agent for each node, ``<name>:<id>``, with a TTL check that only ``register`` renews.

    A node whose check is critical has expired, one that is gone was deregistered. What is registered lives in the
    agent that it was registered at, and is withdrawn there.
    """

    Options: ClassVar[type[Options]] = ConsulOptions
    capabilities = frozenset({"complete_list", "authoritative", "push", "reasons"})

    def __init__(self, url: RegistryURL, options: ConsulOptions) -> None:
        super().__init__(url, options)
        _check(url, options)
        self._settings = options
        ((self._host, self._port),) = url.hosts(_PORTS.get(url.scheme, 8500))
        self.hosts = [self._host]
        self._layout = GoMicro() if options.layout == "go-micro" else Layout()
        self._records = Records()
        self._opened: Store | None = None

    async def open(self) -> None:
        """Prepare the connections, made at the first call. Raises ConfigError where a certificate is no good."""
        from microreg_consul.client import Agent  # which loads aiohttp and py-consul
        from microreg_consul.store import Store

        options = self._settings
        agent = Agent(
            self._host,
            self._port,
            token=options.token,
            dc=options.dc,
            tls=client_context(options) if self.url.scheme == "consuls" else None,
            server_name=options.server_name,
            timeout=options.timeout,
        )
        self._opened = Store(agent, self._layout, self._records)

    async def close(self) -> None:
        """Close the connections. What is registered stays until its ttl ends."""
        store, self._opened = self._opened, None
        if store is not None:
            await store.close()

    async def register(self, service: Service, *, ttl: float = DEFAULT_TTL) -> None:
        """Register the node with its check, or pass the check of a node that is in place."""
        await self._store.held.write(service, ttl)

    async def deregister(self, service: Service) -> None:
        """Deregister the node at the agent, whoever registered it there."""
        await self._store.held.withdraw(service)

    async def get_service(self, name: str) -> tuple[Service, ...]:
        """The nodes that have not expired, of all agents."""
        return merge((await self._store.standing(name)).records.values())

    async def list_services(self) -> tuple[str, ...]:
        """The names of which some node has not expired, as far as the token may read them."""
        return await self._store.names()

    def watch(self, name: str | None = None) -> Watch:
        """What the agent has, and every difference after it; watches share their queries."""
        return Watch(lambda: self._store.feeds.follow(name))

    async def examine(self) -> tuple[Finding, ...]:
        """The agent's version, leader and clock, where it is, and what it cannot tell."""
        if self._opened is None:
            return ()
        from microreg_consul.examination import examine

        return await examine(self._opened.client, self._host, has_token=bool(self._settings.token))

    @property
    def _store(self) -> Store:
        if self._opened is None:
            raise RegistryClosed(f"{self.url} is not open")
        return self._opened


def _check(url: RegistryURL, options: ConsulOptions) -> None:
    """Raise ConfigError for what does not fit together."""
    if url.user or url.password:
        raise ConfigError(f"{url}: Consul knows tokens, no users: write ?token=${{CONSUL_HTTP_TOKEN}}")
    if url.path:
        raise ConfigError(f"{url}: expected no path; the datacenter is the option dc")
    if "," in url.location:
        raise ConfigError(
            f"{url}: expected one agent, best the one on this machine: what is registered lives in the agent that it "
            "was registered at; fallback: reads from several"
        )
    check_tls(url, options, "consuls")
