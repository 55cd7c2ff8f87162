"""The HTTP registry as an ASGI application."""

from __future__ import annotations

from types import TracebackType
from typing import Self

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route, Router
from starlette.types import Receive, Scope, Send

from microreg import Registry
from microreg.server import api, openapi, page, prometheus, registro, srsr
from microreg.server.access import Access
from microreg.server.direct import Direct
from microreg.server.hub import Hub
from microreg.server.problems import JSON, Problem
from microreg.server.records import Records
from microreg.server.settings import Settings
from microreg.server.views import Endpoint, Server
from microreg.server.watching import Watching

__all__ = ["Application", "application"]


def application(registry: Registry, settings: Settings | None = None) -> Application:
    """The server for a registry, as an ASGI application. The registry must be open while it serves.

    Use it with ``async with``, or let the server that runs it do so (ASGI's lifespan). It does not close the registry.
    """
    return Application(registry, settings or Settings())


class Application:
    """See :func:`application`."""

    def __init__(self, registry: Registry, settings: Settings) -> None:
        self.hub = Hub(registry)
        self.records = Records(registry, self.hub, settings)
        self.hub.told = self.records.gone
        self._api = api.API(registry, self.records, Watching(self.hub, settings), settings.max_body)
        self.access = Access(self._dispatch, settings, api.READING | srsr.READING)
        server = Server(registry, self.hub, self.records, settings, self.access.answered)
        routes = _routes(server)
        exact = [route for route in routes if isinstance(route.endpoint, Endpoint) and not route.param_convertors]
        self._plain = {route.path: route.app for route in exact}
        self._router = Router(routes, default=_nothing_here)
        posts = {path: route for path, route in self._plain.items() if isinstance(route, Endpoint)}
        self.direct = Direct(registry, self._api, posts, self.access, settings.max_body)
        """Answers the hot requests, for a server that lets it."""

    async def open(self) -> None:
        """Begin to watch the registry."""
        await self.hub.open()

    def drain(self) -> None:
        """End the streams of all clients, so that they go elsewhere; everything else goes on."""
        self.hub.drain()

    async def close(self) -> None:
        """End the streams and the watch of the registry. Closing twice is fine."""
        await self.hub.close()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request (ASGI 3)."""
        await self.access(scope, receive, send)

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            path: str = scope["path"]
            if path.startswith("/v1/"):
                await self._api(scope, receive, send)
            elif path in self._plain:
                await self._plain[path](scope, receive, send)
            else:
                await self._others(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await send({"type": "websocket.close", "code": 1008})

    async def _others(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await self._router({**scope, "app": self}, receive, send)
        except HTTPException as error:  # of methods, which Starlette looks at
            raise _as_problem(error) from None

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        await self.open()
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.close()
        await send({"type": "lifespan.shutdown.complete"})


def _routes(server: Server) -> list[Route]:
    """Everything but the native API: views on the same services."""
    views = [*srsr.routes(server), *registro.routes(server), *prometheus.routes(server)]
    return [*views, *page.routes(server), Route("/openapi.json", _openapi)]


def _as_problem(error: HTTPException) -> Problem:
    headers = {key.lower().encode(): value.encode() for key, value in (error.headers or {}).items()}
    code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
    return Problem(error.status_code, code, str(error.detail), headers=headers)


async def _nothing_here(scope: Scope, receive: Receive, send: Send) -> None:
    raise Problem(404, "not_found", "there is nothing at this path; see /openapi.json")


async def _openapi(_: Request) -> Response:
    return Response(openapi.document(), media_type=JSON.decode())
