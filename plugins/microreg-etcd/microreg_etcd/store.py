"""Reading the cluster: ranges in pages, and every event of a range."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing, suppress

from microreg.errors import RegistryError, RegistryTimeout, RegistryUnavailable
from microreg.url import RegistryURL, TLSOptions
from microreg_etcd.client import Client
from microreg_etcd.endpoints import Endpoint
from microreg_etcd.failures import Compacted, denial, failure
from microreg_etcd.holding import Holdings
from microreg_etcd.position import Position
from microreg_etcd.stubs import answers, rpc

__all__ = ["Store"]

_PAGE = 1000
_STABLE = 5.0
_RESUME = 3.0
"""Seconds for all members together: a black hole, noticed after 13, is told within 20."""

Range = tuple[bytes, bytes]
"""The first key, and the first one after the last."""


class Store:
    """What a registry does with a cluster, in the running loop: ``held`` writes, ``pages`` and ``events`` read."""

    def __init__(self, url: RegistryURL, tls: TLSOptions | None, timeout: float) -> None:
        self._client = Client(url, tls, timeout)
        self._timeout = timeout
        self.held = Holdings(self._client)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    @property
    def client(self) -> Client:
        """The calls to the cluster."""
        return self._client

    async def pages(
        self, span: Range, *, position: Position | None = None, keys_only: bool = False
    ) -> AsyncGenerator[Sequence[rpc.KeyValue], None]:
        """The keys of a range in order, a thousand at a time, all as of one revision, which ``position`` notes."""
        start, end = span
        revision = 0
        while True:
            request = rpc.RangeRequest(key=start, range_end=end, limit=_PAGE, revision=revision, keys_only=keys_only)
            answer = await self._client.call(lambda endpoint: endpoint.kv.Range, request)
            revision = revision or answer.header.revision
            if position is not None:
                position.read(answer)
            yield answer.kvs
            if not answer.more:
                return
            start = answer.kvs[-1].key + b"\0"

    async def events(self, span: Range, position: Position) -> AsyncGenerator[tuple[bytes, bytes | None], None]:
        """Every key of a range that changes after ``position``, in order, with its value; None: it was deleted.

        A stream that breaks is resumed at once after the last event, on the next member; when that does not work
        either, or the store has forgotten what came after, or is another one now, the error is raised.
        """
        loop = asyncio.get_running_loop()
        attempts = 0
        while True:
            opened, before = loop.time(), position.revision
            endpoint = self._client.endpoint
            connection = endpoint.connection
            metadata: rpc.Metadata = ()
            resumed = attempts > 0
            error: RegistryError = RegistryUnavailable(f"etcd at {endpoint.address} ended the watch")
            try:
                async with asyncio.timeout(self._patience(resumed)):
                    connection = await endpoint.ready()
                    metadata = await self._client.metadata(endpoint)
                responses = self._responses(endpoint, metadata, span, position, resumed=resumed)
                async with aclosing(responses):
                    async for response in responses:
                        for event in response.events:
                            yield event.kv.key, event.kv.value if event.type == rpc.Event.PUT else None
                        position.heard(response)
            except TimeoutError:
                seconds = self._patience(resumed)
                error = RegistryTimeout(f"etcd at {endpoint.address} opened no watch within {seconds:.3g} s")
            except rpc.AioRpcError as caught:
                error = failure(caught, endpoint.address)
            except RegistryError as caught:
                # Whoever keeps it would keep its frames, these the stream, and the stream its connection.
                error = caught.with_traceback(None)
            went_on = position.revision > before or loop.time() - opened > _STABLE
            attempts = 1 if went_on else attempts + 1
            if not self._client.learn(error, endpoint, connection, metadata) or attempts > self._client.members:
                raise error

    def _patience(self, resumed: bool) -> float:
        return min(self._timeout, _RESUME / self._client.members) if resumed else self._timeout

    async def _responses(
        self, endpoint: Endpoint, metadata: rpc.Metadata, span: Range, position: Position, *, resumed: bool
    ) -> AsyncGenerator[rpc.WatchResponse, None]:
        """What a stream says once it is open. Leaving it ends the watch on the server too."""
        create = rpc.WatchCreateRequest(
            key=span[0], range_end=span[1], start_revision=position.revision + 1, progress_notify=True
        )
        stream = endpoint.watch.Watch(metadata=metadata)
        async with aclosing(answers(stream)) as responses:
            try:
                async with asyncio.timeout(self._patience(resumed)):
                    with suppress(asyncio.InvalidStateError):  # it is over already; reading it tells why
                        await stream.write(rpc.WatchRequest(create_request=create))
                    first = await anext(responses, None)
                    if first is None:
                        return
                    _check(first, endpoint.address, position.revision)
                    if resumed or first.header.revision < position.revision:
                        await _confirm(endpoint, metadata, position)
                async for response in responses:
                    _check(response, endpoint.address, position.revision)
                    yield response
            finally:
                stream.cancel()


async def _confirm(endpoint: Endpoint, metadata: rpc.Metadata, position: Position) -> None:
    """Raise Compacted unless this member, which may lag behind, has the history in which ``position`` is."""
    question = position.question()
    if question is None or not position.confirmed(await endpoint.kv.Range(question, metadata=metadata)):
        raise Compacted(f"etcd at {endpoint.address} is not known to be the store that was read: it may be restored")


def _check(response: rpc.WatchResponse, where: str, revision: int) -> None:
    """Raise what this response means, if it is the last one."""
    if response.compact_revision:
        raise Compacted(
            f"etcd at {where} was compacted up to revision {response.compact_revision}, "
            f"beyond {revision}, the last one seen"
        )
    if response.canceled:
        raise denial(response.cancel_reason, where)
