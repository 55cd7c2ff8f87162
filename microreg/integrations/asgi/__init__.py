"""ASGI applications announce themselves: Starlette, FastAPI and every other, under uvicorn, Hypercorn and Granian.

One line, the last one of the module of the application::

    app = Announced(app, "orders")

It is announced when its server accepts connections, and when the server is told to stop, it is drained first: other
programs have heard that it leaves before the first connection is refused. See ``docs/howto/asgi.md``.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import TYPE_CHECKING, TypeVar, Unpack, overload

from microreg import Registry, RegistryError
from microreg.integrations.asgi.announcer import Announcer, Options
from microreg.integrations.asgi.protocol import ASGIApp, Message, Receive, Scope, Send
from microreg.process import running_loop

if TYPE_CHECKING:
    from microreg import Announcement

__all__ = ["ASGIApp", "Announced", "Message", "Options", "Receive", "Scope", "Send", "lifespan"]

log = logging.getLogger("microreg.integrations.asgi")

A = TypeVar("A")
S = TypeVar("S")

_ENDS = {"lifespan.startup.failed", "lifespan.shutdown"}
"""After one of these the server expects nothing more of a lifespan."""


class Announced:
    """An ASGI application that is announced as ``service`` while its server accepts connections.

    ``registry`` is a config string (None: ``$MICROREG_REGISTRY``, else mDNS), or a registry that the application
    opens before it has started, and closes after it has shut down. The other options are in :class:`Options`.
    The application's own lifespan goes on as before, with its errors, and so does an application without one.
    Also a middleware: ``app.add_middleware(Announced, service="orders")``. It has to be around the whole
    application, since only that is given a lifespan.

    What is wrong with the arguments stops the server when it starts. What shows only later is logged, and the server
    goes on without being announced: ``microreg.integrations.asgi`` is the logger.
    """

    def __init__(
        self, app: ASGIApp, service: str, *, registry: Registry | str | None = None, **options: Unpack[Options]
    ) -> None:
        self._problem = _unknown(options)
        if self._problem is not None and running_loop() is None:
            raise self._problem  # where a server runs already, it would take it for an application without lifespan
        self.app = app
        self._service = service
        self._registry = registry
        self._options = options
        self._announcer: Announcer | None = None
        self._warned = False

    @property
    def announcement(self) -> Announcement | None:
        """The announcement of this process, to update it for example; None until connections are accepted."""
        return None if self._announcer is None else self._announcer.announcement

    async def drain(self) -> None:
        """Leave, without an end of the server: before ``server.should_exit = True``, for example.

        Deregistered when it returns, and watchers have heard it. Nothing where nothing is announced.
        """
        if self._announcer is not None:
            await self._announcer.drain()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan" and _from_server(scope):
            await self._lifespan(scope, receive, send)
            return
        if self._announcer is None and not self._warned and _from_server(scope):
            self._warned = True
            log.warning(
                "%s is not announced: the server does not run the lifespan of applications "
                "(uvicorn without --lifespan off, Granian with --interface asgi)",
                self._service,
            )
        await self.app(scope, receive, send)

    async def _lifespan(self, scope: Scope, receive: Receive, send: Send) -> None:
        announcer = Announcer(self._service, self._registry, self._options)
        try:
            if self._problem is not None:
                raise self._problem
            await announcer.check()
        except Exception as error:  # raised, it would mean that the application knows no lifespan
            why = str(error) if isinstance(error, RegistryError) else f"{type(error).__name__}: {error}"
            await receive()
            await send({"type": "lifespan.startup.failed", "message": f"{self._service} cannot be announced: {why}"})
            return
        self._announcer = announcer
        announcer.start()
        told = set[object]()

        async def drained_first() -> Message:
            message = await receive()
            told.add(message["type"])
            if message["type"] == "lifespan.shutdown":
                await announcer.drain()
            return message

        async def then_announced(message: Message) -> None:
            told.add(message["type"])
            await send(message)
            if message["type"] == "lifespan.startup.complete":
                announcer.ready()

        try:
            await self.app(scope, drained_first, then_announced)
        except asyncio.CancelledError:
            told.add("lifespan.shutdown")
            raise
        finally:
            if told & _ENDS:
                await announcer.close()
            else:  # without support for lifespans, of which the server learns now as ever
                announcer.detach()


@overload
def lifespan(
    service: str, inner: None = None, *, registry: Registry | str | None = None, **options: Unpack[Options]
) -> Callable[[object], AbstractAsyncContextManager[None]]: ...


@overload
def lifespan(
    service: str,
    inner: Callable[[A], AbstractAsyncContextManager[S]],
    *,
    registry: Registry | str | None = None,
    **options: Unpack[Options],
) -> Callable[[A], AbstractAsyncContextManager[S]]: ...


def lifespan(
    service: str,
    inner: Callable[[A], AbstractAsyncContextManager[S]] | None = None,
    *,
    registry: Registry | str | None = None,
    **options: Unpack[Options],
) -> Callable[[A], AbstractAsyncContextManager[S | None]]:
    """A lifespan for frameworks that take one as a context manager, around the application's own, ``inner``::

        app = FastAPI(lifespan=lifespan("orders", open_database))

    It does what :class:`Announced` does, except that it does not know a test client from a server.
    """
    problem = _unknown(options)
    if problem is not None:
        raise problem

    @asynccontextmanager
    async def combined(app: A) -> AsyncGenerator[S | None]:
        announcer = Announcer(service, registry, options)
        await announcer.check()
        async with nullcontext() if inner is None else inner(app) as state:
            announcer.start()
            announcer.ready()
            try:
                yield state
            finally:
                await announcer.close()

    return combined


def _unknown(options: Options) -> TypeError | None:
    unknown = options.keys() - Options.__annotations__.keys()
    if unknown:
        known = ", ".join(["registry", *Options.__annotations__])
        return TypeError(f"unexpected option {min(unknown)!r}; known are {known}")
    return None


def _from_server(scope: Scope) -> bool:
    """Whether a server calls, and no test client: those leave out what the specification asks for."""
    return "asgi" in scope
