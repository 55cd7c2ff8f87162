"""One program on the subjects: its connection, what it tells and what it hears."""

from __future__ import annotations

from time import time
from typing import TYPE_CHECKING

from microreg.url import RegistryURL
from microreg_nats.connection import Connection
from microreg_nats.pubsub.listening import Listeners
from microreg_nats.pubsub.responder import Responder
from microreg_nats.pubsub.subjects import Subjects

if TYPE_CHECKING:
    from microreg_nats.pubsub import PubSubOptions

__all__ = ["Station"]


class Station:
    """Belongs to the running loop. Raises ConfigError where a file with credentials is no good."""

    def __init__(self, url: RegistryURL, options: PubSubOptions, subjects: Subjects) -> None:
        self._connection = Connection(url, options)
        self.responder = Responder(self._connection, subjects, time)
        self.listeners = Listeners(self._connection, subjects, options.settle)

    @property
    def connection(self) -> Connection:
        """The way to the server."""
        return self._connection

    async def close(self) -> None:
        """Take back what is registered, stop listening, and hang up."""
        try:
            await self.responder.close()
        finally:  # whoever cancels this has no patience for the last words, and yet leaves nothing open
            try:
                await self.listeners.close()
            finally:
                await self._connection.close()
