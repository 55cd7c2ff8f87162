"""The hooks that a plugin may implement (entry-point group ``microreg``). None of them sits on a hot path."""

from __future__ import annotations

from typing import Protocol

import pluggy

from microreg.registry import Registry
from microreg.url import RegistryURL

__all__ = ["App", "hookimpl", "microreg_announced", "microreg_cli", "microreg_wrap"]

hookspec = pluggy.HookspecMarker("microreg")
hookimpl = pluggy.HookimplMarker("microreg")
"""Marks a function of a plugin as the implementation of the hook of its name."""


class App(Protocol):
    """The command line's application, as far as a plugin may rely on it: typer's ``Typer``."""

    def add_typer(self, app: object, *, name: str) -> None:
        """Add a group of commands."""


@hookspec
def microreg_wrap(registry: Registry, url: RegistryURL) -> Registry | None:
    """Called by ``connect()`` with the registry it is about to return; a returned registry takes its place."""


@hookspec
def microreg_announced(announcement: object) -> None:
    """Called once for each announcement, when it is first live."""


@hookspec
def microreg_cli(app: App) -> None:
    """Called when the command line starts, to add commands to its typer application."""
