"""The types of the ASGI specification, as far as a wrapper of applications needs them.

They fit those of Starlette and FastAPI, which are not imported.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping

__all__ = ["ASGIApp", "Message", "Receive", "Scope", "Send"]

Scope = MutableMapping[str, object]
"""What an application is called for: a connection, or the ``lifespan`` of the server's process."""

Message = MutableMapping[str, object]
"""One event, in either direction."""

Receive = Callable[[], Awaitable[Message]]
"""Waits for the server's next event."""

Send = Callable[[Message], Awaitable[None]]
"""Hands an event to the server."""

ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
"""An application of ASGI 3."""
