"""microreg for programs without an event loop: the same verbs, blocking.

::

    with microreg.sync.connect() as registry:                       # mdns://, or $MICROREG_REGISTRY
        with microreg.sync.announce(registry, "greeter", port=8080):
            with microreg.sync.Selector(registry) as selector:
                print(selector.select("greeter", timeout=5).url("http"))

Each open registry has one thread with an event loop, in which everything of it happens: renewals go on
while the program is busy. Every call may come from any thread, except from that one (WrongLoop). Ctrl-C
cancels the call that it strikes. A forked child cannot use what its parent opened (RegistryClosed).
"""

from __future__ import annotations

from microreg.connect import connect as connect_async
from microreg.sync.announcement import Announcement, announce
from microreg.sync.registry import Registry, Watch
from microreg.sync.selector import Selector
from microreg.url import RegistryURL

__all__ = ["Announcement", "Registry", "Selector", "Watch", "announce", "connect"]


def connect(url: str | RegistryURL | None = None) -> Registry:
    """The registry that a config string describes, to be used with ``with``.

    Without an argument: ``$MICROREG_REGISTRY``, else ``mdns://``. Nothing is opened yet and no server is
    asked. Raises ConfigError for a string, option, scheme or layer that is wrong or not installed.
    """
    return Registry(connect_async(url))
