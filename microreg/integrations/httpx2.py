"""httpx2 calls services by name. All that :mod:`microreg.integrations.httpx` says of httpx holds here of httpx2."""

from __future__ import annotations

from contextlib import ExitStack

import httpx2

from microreg import Node, NoNodeAvailable, Selector, sync
from microreg.integrations.http import Answer, AsyncAnswer, AsyncBalanced, Balanced, Dialect

__all__ = ["AsyncRegistryTransport", "NoNode", "RegistryTransport"]

_DIALECT = Dialect(
    unsent=(httpx2.ConnectError, httpx2.ConnectTimeout),
    broken=(httpx2.ReadError, httpx2.WriteError, httpx2.CloseError, httpx2.RemoteProtocolError),
    slow=(httpx2.ReadTimeout, httpx2.WriteTimeout),
    replayable=httpx2.ByteStream,
)


class NoNode(NoNodeAvailable, httpx2.ConnectError):
    """The service has no node to be called now; for those who catch microreg's errors, and those who catch httpx2's."""

    def __init__(self, message: str, request: httpx2.Request) -> None:
        NoNodeAvailable.__init__(self, message)
        httpx2.ConnectError.__init__(self, message, request=request)


class _Parts:
    """What the two transports do alike."""

    def _addressed(self, request: httpx2.Request, node: Node) -> httpx2.Request:
        there = httpx2.URL(node.url(request.url.scheme))
        url = request.url.copy_with(host=there.host, port=there.port)
        return httpx2.Request(
            request.method, url, headers=request.headers, stream=request.stream, extensions=request.extensions
        )

    def _absent(self, error: NoNodeAvailable, request: httpx2.Request) -> Exception:
        return NoNode(str(error), request)


class AsyncRegistryTransport(_Parts, AsyncBalanced[httpx2.Request, httpx2.Response], httpx2.AsyncBaseTransport):
    """For ``httpx2.AsyncClient``: hosts that end in ``suffix`` are services, all others what they are.

    ``transport`` makes the requests (``httpx2.AsyncHTTPTransport()``, to which also certificates, limits and HTTP/2
    are told), and is closed with this one; ``attempts`` bounds the nodes that one request is made to. Raises
    :class:`NoNode` where there is no node within the connect timeout.
    """

    dialect = _DIALECT

    def __init__(
        self,
        selector: Selector,
        *,
        transport: httpx2.AsyncBaseTransport | None = None,
        attempts: int = 3,
        suffix: str = ".microreg",
    ) -> None:
        super().__init__(selector, transport or httpx2.AsyncHTTPTransport(), attempts, suffix)

    def _following(self, response: httpx2.Response, call: ExitStack) -> httpx2.Response:
        assert isinstance(response.stream, httpx2.AsyncByteStream)
        response.stream = _AsyncAnswer(response.stream, call)
        return response


class RegistryTransport(_Parts, Balanced[httpx2.Request, httpx2.Response], httpx2.BaseTransport):
    """The same for ``httpx2.Client``, with a :class:`microreg.sync.Selector`."""

    dialect = _DIALECT

    def __init__(
        self,
        selector: sync.Selector,
        *,
        transport: httpx2.BaseTransport | None = None,
        attempts: int = 3,
        suffix: str = ".microreg",
    ) -> None:
        super().__init__(selector, transport or httpx2.HTTPTransport(), attempts, suffix)

    def _following(self, response: httpx2.Response, call: ExitStack) -> httpx2.Response:
        assert isinstance(response.stream, httpx2.SyncByteStream)
        response.stream = _Answer(response.stream, call)
        return response


class _AsyncAnswer(AsyncAnswer, httpx2.AsyncByteStream): ...


class _Answer(Answer, httpx2.SyncByteStream): ...
