"""microreg: programs find each other. One Registry over many stores; mDNS by default, others by plugin.

Everything a program needs is here; names are imported when first used, so that importing microreg is light.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from microreg.announce import announce
from microreg.connect import connect

if TYPE_CHECKING:
    from microreg import sync as sync
    from microreg.announce.announcement import Announcement, State
    from microreg.catalog import Catalog
    from microreg.errors import (
        ConfigError,
        InvalidService,
        NoNodeAvailable,
        PermissionDenied,
        RecordTooLarge,
        RegistryClosed,
        RegistryError,
        RegistryTimeout,
        RegistryUnavailable,
        ServiceNotFound,
        Unsupported,
        WrongLoop,
    )
    from microreg.events import Action, Change, Event, Reason, Snapshot
    from microreg.model import Endpoint, FrozenDict, Node, Service, Status, Value, merge
    from microreg.registry import Layer, Registry
    from microreg.selector import Selector
    from microreg.watch import Watch

    __version__: str

_HOME = {
    "announce.announcement": ("Announcement", "State"),
    "catalog": ("Catalog",),
    "errors": (
        "ConfigError",
        "InvalidService",
        "NoNodeAvailable",
        "PermissionDenied",
        "RecordTooLarge",
        "RegistryClosed",
        "RegistryError",
        "RegistryTimeout",
        "RegistryUnavailable",
        "ServiceNotFound",
        "Unsupported",
        "WrongLoop",
    ),
    "events": ("Action", "Change", "Event", "Reason", "Snapshot"),
    "model": ("Endpoint", "FrozenDict", "Node", "Service", "Status", "Value", "merge"),
    "registry": ("Layer", "Registry"),
    "selector": ("Selector",),
    "watch": ("Watch",),
}
_WHERE = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "Action",
    "Announcement",
    "Catalog",
    "Change",
    "ConfigError",
    "Endpoint",
    "Event",
    "FrozenDict",
    "InvalidService",
    "Layer",
    "NoNodeAvailable",
    "Node",
    "PermissionDenied",
    "Reason",
    "RecordTooLarge",
    "Registry",
    "RegistryClosed",
    "RegistryError",
    "RegistryTimeout",
    "RegistryUnavailable",
    "Selector",
    "Service",
    "ServiceNotFound",
    "Snapshot",
    "State",
    "Status",
    "Unsupported",
    "Value",
    "Watch",
    "WrongLoop",
    "announce",
    "connect",
    "merge",
]


if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name == "__version__":
            from importlib.metadata import version

            return version("microreg")
        from importlib import import_module

        if name == "sync":
            return import_module("microreg.sync")
        module = _WHERE.get(name)
        if module is None:
            raise AttributeError(f"module 'microreg' has no attribute {name!r}")
        value: object = getattr(import_module(f"microreg.{module}"), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__, "__version__"})
