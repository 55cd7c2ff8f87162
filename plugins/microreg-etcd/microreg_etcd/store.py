"""Reading the cluster: ranges in pages, and every event of a range."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from microreg.errors import RegistryError, RegistryTimeout, RegistryUnavailable
from microreg.url import RegistryURL, TLSOptions
from microreg_etcd.client import Client
from microreg_etcd.failures import Compacted, denial, failure
from microreg_etcd.holding import Holdings
from microreg_etcd.stubs import answers, rpc

__all__ = ["Store"]

_PAGE = 1000
_STABLE = 5.0

Token = Sequence[tuple[str, str]]

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

    async def pages(
        self, span: Range, *, keys_only: bool = False
    ) -> AsyncGenerator[tuple[int, Sequence[rpc.KeyValue]], None]:
        """The keys of a range in order, a thousand at a time, all as of one revision, which comes with each page."""
        start, end = span
        revision = 0
        while True:
            request = rpc.RangeRequest(key=start, range_end=end, limit=_PAGE, revision=revision, keys_only=keys_only)
            answer = await self._client.call(lambda endpoint: endpoint.kv.Range, request)
            revision = revision or answer.header.revision
            yield revision, answer.kvs
            if not answer.more:
                return
            start = answer.kvs[-1].key + b"\0"

    async def events(self, span: Range, revision: int) -> AsyncGenerator[tuple[bytes, bytes | None], None]:
        """Every key of a range that changes after ``revision``, in order, with its value; None: it was deleted.

        A stream that breaks is resumed at once after the last event, on the next member; when that does not work
        either, or the store has forgotten what came after, the error is raised.
        """
        loop = asyncio.get_running_loop()
        attempts = 0
        while True:
            opened = loop.time()
            endpoint = self._client.endpoint
            connection = endpoint.connection
            metadata: Token = ()
            error: RegistryError = RegistryUnavailable(f"etcd at {endpoint.address} ended the watch")
            try:
                metadata = await self._client.metadata(endpoint)
                stream = endpoint.watch.Watch(metadata=metadata)
                async with aclosing(_responses(stream, endpoint.address, span, revision, self._timeout)) as responses:
                    async for response in responses:
                        for event in response.events:
                            yield event.kv.key, event.kv.value if event.type == rpc.Event.PUT else None
                        # An event's own revision: while old events are read, the header's is far ahead of them.
                        last = response.events[-1].kv.mod_revision if response.events else response.header.revision
                        revision = max(revision, last)
            except rpc.AioRpcError as caught:
                error = failure(caught, endpoint.address)
            except RegistryError as caught:
                error = caught
            attempts = 1 if loop.time() - opened > _STABLE else attempts + 1
            if not self._client.learn(error, endpoint, connection, metadata) or attempts > self._client.members:
                raise error


async def _responses(
    stream: rpc.StreamCall[rpc.WatchRequest, rpc.WatchResponse],
    where: str,
    span: Range,
    revision: int,
    timeout: float,
) -> AsyncGenerator[rpc.WatchResponse, None]:
    """What a stream says once it is open. Leaving it ends the watch on the server too."""
    create = rpc.WatchCreateRequest(key=span[0], range_end=span[1], start_revision=revision + 1, progress_notify=True)
    async with aclosing(answers(stream)) as responses:
        try:
            try:
                async with asyncio.timeout(timeout):
                    await stream.write(rpc.WatchRequest(create_request=create))
                    first = await anext(responses)
            except TimeoutError:
                raise RegistryTimeout(f"etcd at {where} opened no watch within {timeout:g} s") from None
            except StopAsyncIteration:
                return
            _check(first, where, revision)
            async for response in responses:
                _check(response, where, revision)
                yield response
        finally:
            stream.cancel()


def _check(response: rpc.WatchResponse, where: str, revision: int) -> None:
    """Raise what this response means, if it is the last one."""
    if response.compact_revision:
        raise Compacted(
            f"etcd at {where} was compacted up to revision {response.compact_revision}, "
            f"beyond {revision}, the last one seen"
        )
    if response.canceled:
        raise denial(response.cancel_reason, where)
    if response.header.revision < revision:
        raise Compacted(f"etcd at {where} has lost revisions: it was restored or emptied")
