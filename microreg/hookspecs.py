"""The hooks that a plugin may implement (entry-point group ``microreg``). None of them sits on a hot path."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pluggy

from microreg.registry import Registry
from microreg.url import RegistryURL

if TYPE_CHECKING:
    from microreg.plugins import App

__all__ = ["hookimpl", "microreg_announced", "microreg_cli", "microreg_wrap"]

hookspec = pluggy.HookspecMarker("microreg")
hookimpl = pluggy.HookimplMarker("microreg")
"""Marks a function of a plugin as the implementation of the hook of its name."""


@hookspec
def microreg_wrap(registry: Registry, url: RegistryURL) -> Registry | None:
    """Called by ``connect()`` with the registry it is about to return; a returned registry takes its place."""


@hookspec
def microreg_announced(announcement: object) -> None:
    """Called once for each announcement, when it is first live."""


@hookspec
def microreg_cli(app: App) -> None:
    """Called when the command line starts, to add commands to its typer application."""
