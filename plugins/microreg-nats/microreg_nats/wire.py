"""nats-py's client, kept from what it does on its own: reconnecting, buffering, upgrading to TLS or not."""

from __future__ import annotations

import asyncio
from typing import Any

from nats import errors
from nats.aio.client import Client
from nats.aio.transport import TcpTransport

from microreg.toolkit import end

__all__ = ["NatsClient"]

# What nats-py does not offer is done to its private parts, and nowhere but in this class.
# nats-py leaves some of its types open.
# pyright: reportPrivateUsage=false, reportUnknownMemberType=false


class NatsClient(Client):
    """One connection, which is over when it breaks. Nothing that was written for it is ever sent on another."""

    def __init__(self, *, tls: bool) -> None:
        super().__init__()
        self._wants_tls = tls

    async def roundtrip(self) -> None:
        """Wait until the server has everything that was handed over before, and all that it said before is here.

        nats-py's own flush may overtake what was published just before it, and may overlook a cancellation. Raises
        ConnectionClosedError where nobody would hear the answer.
        """
        if self.is_closed or self._reading_task is None or self._reading_task.done():
            raise errors.ConnectionClosedError
        if self._pending:
            assert self._transport is not None
            self._transport.writelines(self._pending[:])
            self._pending.clear()
            self._pending_data_size = 0
        pong = asyncio.get_running_loop().create_future()
        await self._send_ping(pong)
        await pong

    def info(self, key: str) -> object:
        """What the server has said about itself under this key."""
        return self._server_info.get(key)

    @property
    def is_unanswered(self) -> bool:
        """Whether somebody has taken the connection, and not yet said INFO, as a NATS server does at once."""
        connected = isinstance(self._transport, TcpTransport) and self._transport._bare_io_writer is not None
        return connected and not self._server_info

    def abort(self) -> None:
        """End the connection at once, whatever is still on its way; closing may wait for a peer that is gone."""
        self._pending.clear()
        self._pending_data_size = 0
        if isinstance(self._transport, TcpTransport):
            for writer in (self._transport._io_writer, self._transport._bare_io_writer):
                if writer is not None:
                    writer.transport.abort()

    async def join(self) -> None:
        """End and join the tasks of a client that was closed."""
        mine: list[asyncio.Task[None] | None] = [self._reading_task, self._ping_interval_task, self._flusher_task]
        mine += [subscription._wait_for_msgs_task for subscription in self._subs.values()]
        await end(*(task for task in mine if task is not None))
        await asyncio.sleep(0)  # what close() itself has cancelled ends in the next round

    async def _process_info(self, info: dict[str, Any], initial_connection: bool = False) -> None:
        # Before anything is sent: nats-py would send a password in the clear where the server asks for no TLS.
        if initial_connection:
            offered = bool(info.get("tls_required") or info.get("tls_available"))
            if self._wants_tls and not offered:
                raise errors.SecureConnWantedError
            if not self._wants_tls and info.get("tls_required"):
                raise errors.SecureConnRequiredError
            info["tls_required"] = self._wants_tls
            info.pop("connect_urls", None)
        await super()._process_info(info, initial_connection)

    async def _process_pong(self) -> None:
        # Whoever waits for an answer to a ping may have been cancelled; nats-py would stop reading for ever.
        if self._pongs and self._pongs[0].done():
            self._pongs[0] = asyncio.get_running_loop().create_future()
        await super()._process_pong()
