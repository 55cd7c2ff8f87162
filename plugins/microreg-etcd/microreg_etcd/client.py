"""Calls to a cluster: which member is asked, with which token, how long, and what its errors mean."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

from microreg.errors import RegistryClosed, RegistryError, RegistryTimeout, RegistryUnavailable
from microreg.url import RegistryURL, TLSOptions
from microreg_etcd.endpoints import Endpoint, endpoints
from microreg_etcd.failures import NotConnected, StaleToken, Unreachable, failure
from microreg_etcd.renewals import Renewals
from microreg_etcd.stubs import rpc

__all__ = ["Client"]

Q = TypeVar("Q")
A = TypeVar("A")


class Client:
    """One client of a cluster, in the running loop. Connects when it is first used.

    A call that finds its member away is made again on the next one, so what is called must be right when it is
    done twice. Errors are those of the tree, never gRPC's.
    """

    def __init__(self, url: RegistryURL, tls: TLSOptions | None, timeout: float) -> None:
        self._url = url
        self._endpoints = endpoints(url, tls)
        self._current = 0
        # A member that stands still must leave time for the others.
        self._patience = timeout / len(self._endpoints) if len(self._endpoints) > 1 else None
        self._token: str | None = None
        self._login = asyncio.Lock()
        self._refusals = 0
        self._refusal: rpc.AioRpcError | None = None
        self._renewals: Renewals | None = None
        self.streams = 0
        """Counts the streams of renewals. While there is the same one, it is the same store that answers."""
        self._closed = False

    async def close(self) -> None:
        """End what is under way and close the connections."""
        self._closed = True
        if self._renewals is not None:
            await self._renewals.close()
        await asyncio.gather(*(endpoint.close() for endpoint in self._endpoints))

    @property
    def endpoint(self) -> Endpoint:
        """The member that is asked now."""
        return self._endpoints[self._current]

    @property
    def endpoints(self) -> Sequence[Endpoint]:
        """Every member that is known."""
        return self._endpoints

    @property
    def members(self) -> int:
        """How many members are known."""
        return len(self._endpoints)

    def learn(self, error: RegistryError, endpoint: Endpoint, connection: int, metadata: rpc.Metadata) -> bool:
        """Do what this failure of a call teaches: another token, connection or member. Whether to call again."""
        if isinstance(error, StaleToken):
            if ("token", self._token) in metadata:
                self._token = None
            return True
        if isinstance(error, Unreachable | NotConnected):
            endpoint.failed(connection)
        elif type(error) not in (RegistryUnavailable, RegistryTimeout):
            return False
        if endpoint is self.endpoint:
            self._current = (self._current + 1) % len(self._endpoints)
        return True

    async def call(self, method: Callable[[Endpoint], rpc.UnaryCall[Q, A]], request: Q) -> A:
        """The answer to one request."""

        async def ask(endpoint: Endpoint, metadata: rpc.Metadata) -> A:
            try:
                return await method(endpoint)(request, metadata=metadata)
            except asyncio.CancelledError as error:
                # Whoever keeps it, as the cause of a timeout, would keep its frames, these the call, and the call its
                # connection.
                error.__traceback__ = None
                raise

        return await self._attempt(ask)

    async def renew(self, lease: int) -> rpc.LeaseKeepAliveResponse:
        """Renew a lease on the stream that all renewals share; TTL 0 means that there is no such lease."""

        async def ask(endpoint: Endpoint, metadata: rpc.Metadata) -> rpc.LeaseKeepAliveResponse:
            return await (await self._stream(endpoint, metadata)).renew(lease)

        return await self._attempt(ask)

    async def _stream(self, endpoint: Endpoint, metadata: rpc.Metadata) -> Renewals:
        """The stream of renewals to this member; to the one that is asked now, where that has changed meanwhile."""
        before = self._renewals
        if before is not None and not before.over and before.endpoint in (endpoint, self.endpoint):
            return before
        self.streams += 1
        after = self._renewals = Renewals(endpoint, metadata)
        if before is not None:
            await before.close()
        return after

    async def metadata(self, endpoint: Endpoint) -> rpc.Metadata:
        """What a call to this member carries: the token, where the config string names a user.

        Who waits for a login shares its outcome: checking a password costs the server a twentieth of a second.
        """
        if not self._url.user:
            return ()
        before = self._refusals
        async with self._login:
            if self._token is None:
                if self._refusal is not None and self._refusals > before:
                    raise self._refusal
                request = rpc.AuthenticateRequest(name=self._url.user, password=self._url.password)
                try:
                    self._token = (await endpoint.auth.Authenticate(request)).token
                except rpc.AioRpcError as error:
                    self._refusal = error
                    self._refusals += 1
                    raise
            return (("token", self._token),)

    async def _attempt(self, ask: Callable[[Endpoint, rpc.Metadata], Awaitable[A]]) -> A:
        metadata: rpc.Metadata
        error: RegistryError | None = None
        for _ in range(max(2, len(self._endpoints))):
            if self._closed:
                raise RegistryClosed(f"{self._url} was closed")
            endpoint, metadata = self.endpoint, ()
            connection = endpoint.connection
            try:
                async with asyncio.timeout(self._patience):
                    connection = await endpoint.ready()
                    metadata = await self.metadata(endpoint)
                    return await ask(endpoint, metadata)
            except TimeoutError:
                error = RegistryTimeout(f"etcd at {endpoint.address} did not answer within {self._patience:.3g} s")
            except rpc.AioRpcError as caught:
                error = failure(caught, endpoint.address)
            except RegistryUnavailable as caught:  # of the stream of renewals
                error = caught
            if not self.learn(error, endpoint, connection, metadata):
                break
        assert error is not None
        raise error
