"""The members of a cluster: their channels, which one is asked, and what a channel is like."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

from grpc import ChannelCredentials, ssl_channel_credentials

from microreg.errors import ConfigError, Unsupported
from microreg.net import join_address
from microreg.toolkit import in_child
from microreg.url import RegistryURL, TLSOptions
from microreg_etcd import DEFAULT_PORT
from microreg_etcd.stubs import rpc

__all__ = ["Endpoint", "endpoints"]

_PAUSE = 0.25

_CHANNEL: list[tuple[str, object]] = [
    # A black hole is noticed after about 13 s. Without the last of these three it takes more than a minute.
    # Pings every few seconds make etcd hang up (GOAWAY, too_many_pings).
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 3_000),
    ("grpc.http2.ping_timeout_ms", 3_000),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.min_reconnect_backoff_ms", 2_000),  # how long an attempt to connect may take
    ("grpc.max_receive_message_length", -1),
    # Two registries in one process share no connection, and no proxy of the environment is asked.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    ("grpc.enable_retries", 0),
]

_inherited: list[rpc.Channel] = []
"""In a forked child: what the parent had open. It is kept, since to let go of a channel is to use it."""


class Endpoint:
    """One member of the cluster: a channel, which connects when it is first used, and its stubs."""

    kv: rpc.KVStub
    lease: rpc.LeaseStub
    watch: rpc.WatchStub
    auth: rpc.AuthStub
    maintenance: rpc.MaintenanceStub

    def __init__(self, address: str, connect: Callable[[], rpc.Channel]) -> None:
        self.address = address
        self._connect = connect
        self.connection = 0
        """Counts the channels that there were."""
        self._failed = False
        self._again = 0.0
        self._open()
        in_child(self, Endpoint._after_fork)

    def failed(self, connection: int) -> None:
        """Say that this connection does not work; if it is the one in use, another is made for the next call."""
        self._failed = self._failed or connection == self.connection

    async def ready(self) -> int:
        """The connection to use, a new one where the last has failed; not more often than four times a second.

        A channel that has failed to connect says so again for a while, without having looked whether that is still
        true. What is under way on the one before goes on.
        """
        loop = asyncio.get_running_loop()
        if self._failed:
            await asyncio.sleep(self._again - loop.time())
        if self._failed:  # nobody else was faster
            self._again = loop.time() + _PAUSE
            self._open()
        return self.connection

    def _open(self) -> None:
        self._failed = False
        self.connection += 1
        channel = self._channel = self._connect()
        self.kv, self.lease = rpc.KVStub(channel), rpc.LeaseStub(channel)
        self.watch, self.auth = rpc.WatchStub(channel), rpc.AuthStub(channel)
        self.maintenance = rpc.MaintenanceStub(channel)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()

    def _after_fork(self) -> None:
        _inherited.append(self._channel)


def endpoints(url: RegistryURL, tls: TLSOptions | None) -> list[Endpoint]:
    """The members that the config string names.

    Raises ConfigError where a certificate file is no good, Unsupported in a child of a process that had connections.
    """
    if _inherited:
        raise Unsupported(
            f"{url}: this process was forked from one with an open etcd registry, and gRPC does not work in it: "
            "fork before the registry is opened or after it is closed, or start processes with spawn or forkserver"
        )
    options = [*_CHANNEL]
    credentials = None
    if tls is not None:
        credentials = _credentials(tls)
        if tls.server_name:
            options.append(("grpc.ssl_target_name_override", tls.server_name))

    def connect(target: str) -> rpc.Channel:
        if credentials is None:
            return rpc.insecure_channel(target, options)
        return rpc.secure_channel(target, credentials, options)

    found: list[Endpoint] = []
    for host, port in url.hosts(DEFAULT_PORT):
        address = join_address(host, port)
        # With its scheme: a host may be named as a scheme of gRPC's is ("unix", "dns").
        target = f"ipv6:{address.replace('%', '%25')}" if ":" in host else f"dns:///{address}"
        found.append(Endpoint(address, partial(connect, target)))
    return found


def _credentials(tls: TLSOptions) -> ChannelCredentials:
    """What gRPC is given, checked before: it says of a bad file only that every connection fails."""
    ca = _system_authorities() if tls.ca is None else _checked(_load_authorities, tls.ca)[0]
    if tls.cert is None or tls.key is None:
        return ssl_channel_credentials(ca)
    cert, key = _checked(_load_pair, tls.cert, tls.key)
    return ssl_channel_credentials(ca, key, cert)


def _checked(load: Callable[..., None], *paths: Path) -> list[bytes]:
    """What is in these PEM files. Raises ConfigError where ``load`` does not take them."""
    try:
        load(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), *paths)
        return [path.read_bytes() for path in paths]
    except (OSError, ssl.SSLError) as error:
        files = " and ".join(map(str, paths))
        raise ConfigError(f"TLS: {files}: {error}; expected {load.__doc__}") from None


def _load_authorities(context: ssl.SSLContext, ca: Path) -> None:
    """certificates in PEM"""
    context.load_verify_locations(ca)


def _load_pair(context: ssl.SSLContext, cert: Path, key: Path) -> None:
    """a certificate and its private key in PEM, without a pass phrase"""
    context.load_cert_chain(cert, key, password="")  # or else it would ask at the terminal


def _system_authorities() -> bytes | None:
    """Whom this machine trusts. gRPC would trust a list that it brings."""
    context = ssl.create_default_context()
    found = [ssl.DER_cert_to_PEM_cert(each).encode() for each in context.get_ca_certs(binary_form=True)]
    if not found and (folder := ssl.get_default_verify_paths().capath):
        found = [path.read_bytes() for path in sorted(Path(folder).glob("*.[0-9]"))]
    return b"".join(found) or None
