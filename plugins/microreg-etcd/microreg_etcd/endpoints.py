"""The members of a cluster: their channels, which one is asked, and what a channel is like."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path

from grpc import ChannelCredentials, ssl_channel_credentials

from microreg.errors import ConfigError
from microreg.net import join_address
from microreg.url import RegistryURL, TLSOptions
from microreg_etcd.stubs import rpc

__all__ = ["DEFAULT_PORT", "Endpoint", "endpoints"]

DEFAULT_PORT = 2379

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


class Endpoint:
    """One member of the cluster: a channel, which connects when it is first used, and its stubs."""

    kv: rpc.KVStub
    lease: rpc.LeaseStub
    watch: rpc.WatchStub
    auth: rpc.AuthStub

    def __init__(self, address: str, connect: Callable[[], rpc.Channel]) -> None:
        self.address = address
        self._connect = connect
        self.connection = 0
        """Counts the channels that there were."""
        self.reconnect(0)

    def reconnect(self, failed: int) -> None:
        """Connect anew with the next call, if this connection is still the one in use.

        A channel that has failed to connect says so again for a while, without having looked whether that is still
        true. What is under way on the one before goes on.
        """
        if self.connection != failed:
            return
        self.connection += 1
        channel = self._channel = self._connect()
        self.kv, self.lease = rpc.KVStub(channel), rpc.LeaseStub(channel)
        self.watch, self.auth = rpc.WatchStub(channel), rpc.AuthStub(channel)

    async def close(self) -> None:
        """Close the connection."""
        await self._channel.close()


def endpoints(url: RegistryURL, tls: TLSOptions | None) -> list[Endpoint]:
    """The members that the config string names. Raises ConfigError where a certificate file is no good."""
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
        target = f"ipv6:{address.replace('%', '%25')}" if ":" in host else address
        found.append(Endpoint(address, partial(connect, target)))
    return found


def _credentials(tls: TLSOptions) -> ChannelCredentials:
    if (tls.cert is None) != (tls.key is None):
        raise ConfigError("options cert and key belong together: give both files, or neither")
    context = ssl.create_default_context()
    try:
        if tls.ca is not None:
            context.load_verify_locations(tls.ca)
        if tls.cert is not None:
            context.load_cert_chain(tls.cert, tls.key)
    except (OSError, ssl.SSLError) as error:
        files = ", ".join(str(path) for path in (tls.ca, tls.cert, tls.key) if path is not None)
        raise ConfigError(f"TLS: {files}: {error}; expected PEM files that belong together") from None
    return ssl_channel_credentials(*(_bytes(path) for path in (tls.ca, tls.key, tls.cert)))


def _bytes(path: Path | None) -> bytes | None:
    return None if path is None else path.read_bytes()
