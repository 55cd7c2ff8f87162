"""httpx calls services by name: ``http://orders.microreg/…`` goes to a node of ``orders`` that answers.

::

    async with microreg.connect() as registry, microreg.Selector(registry) as selector:
        services = AsyncRegistryTransport(selector)
        async with httpx.AsyncClient(mounts={"all://*.microreg": services}) as client:
            await client.get("http://orders.microreg/items")

A request that could not be made, because nobody answers at the node's address, is made to another node; one whose
connection broke only where its method is idempotent (RFC 9110, section 9.2.2) and its body can be sent again. Both
within the selector's retry budget, and never after a timeout of the call. Outcome and latency (until the answer
begins) are reported to the selector; a call is outstanding until its response is closed. A cancelled one is nobody's
fault. Timeouts, streaming and everything else are httpx's; its ``connect`` timeout is also the time to wait for a node.

The registry takes the place of DNS: the Host header stays ``orders.microreg``, so that redirects and cookies come
back through it. A TLS certificate is checked against the host of the node, or the request's extension
``sni_hostname``. Extension ``microreg.name`` is the exact name of a service that has upper case in it, and
``microreg.key`` the key for strategies that have one. The same for the library httpx2 is
:mod:`microreg.integrations.httpx2`.
"""

from __future__ import annotations

from contextlib import ExitStack

import httpx

from microreg import Node, NoNodeAvailable, Selector, sync
from microreg.integrations.http import Answer, AsyncAnswer, AsyncBalanced, Balanced, Dialect

__all__ = ["AsyncRegistryTransport", "NoNode", "RegistryTransport"]

_DIALECT = Dialect(
    unsent=(httpx.ConnectError, httpx.ConnectTimeout),
    broken=(httpx.ReadError, httpx.WriteError, httpx.CloseError, httpx.RemoteProtocolError),
    slow=(httpx.ReadTimeout, httpx.WriteTimeout),
    replayable=httpx.ByteStream,
)


class NoNode(NoNodeAvailable, httpx.ConnectError):
    """The service has no node to be called now; for those who catch microreg's errors, and those who catch httpx's."""

    def __init__(self, message: str, request: httpx.Request) -> None:
        NoNodeAvailable.__init__(self, message)
        httpx.ConnectError.__init__(self, message, request=request)


class _Parts:
    """What the two transports do alike."""

    def _addressed(self, request: httpx.Request, node: Node) -> httpx.Request:
        there = httpx.URL(node.url(request.url.scheme))
        url = request.url.copy_with(host=there.host, port=there.port)
        return httpx.Request(
            request.method, url, headers=request.headers, stream=request.stream, extensions=request.extensions
        )

    def _absent(self, error: NoNodeAvailable, request: httpx.Request) -> Exception:
        return NoNode(str(error), request)


class AsyncRegistryTransport(_Parts, AsyncBalanced[httpx.Request, httpx.Response], httpx.AsyncBaseTransport):
    """For ``httpx.AsyncClient``: hosts that end in ``suffix`` are services, all others what they are.

    ``transport`` makes the requests (``httpx.AsyncHTTPTransport()``, to which also certificates, limits and HTTP/2
    are told), and is closed with this one; ``attempts`` bounds the nodes that one request is made to. Raises
    :class:`NoNode` where there is no node within the connect timeout.
    """

    dialect = _DIALECT

    def __init__(
        self,
        selector: Selector,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        attempts: int = 3,
        suffix: str = ".microreg",
    ) -> None:
        super().__init__(selector, transport or httpx.AsyncHTTPTransport(), attempts, suffix)

    def _following(self, response: httpx.Response, call: ExitStack) -> httpx.Response:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _AsyncAnswer(response.stream, call)
        return response


class RegistryTransport(_Parts, Balanced[httpx.Request, httpx.Response], httpx.BaseTransport):
    """The same for ``httpx.Client``, with a :class:`microreg.sync.Selector`."""

    dialect = _DIALECT

    def __init__(
        self,
        selector: sync.Selector,
        *,
        transport: httpx.BaseTransport | None = None,
        attempts: int = 3,
        suffix: str = ".microreg",
    ) -> None:
        super().__init__(selector, transport or httpx.HTTPTransport(), attempts, suffix)

    def _following(self, response: httpx.Response, call: ExitStack) -> httpx.Response:
        assert isinstance(response.stream, httpx.SyncByteStream)
        response.stream = _Answer(response.stream, call)
        return response


class _AsyncAnswer(AsyncAnswer, httpx.AsyncByteStream): ...


class _Answer(Answer, httpx.SyncByteStream): ...
