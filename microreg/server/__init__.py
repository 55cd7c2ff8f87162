"""The HTTP registry: any registry behind REST and server-sent events, for programs that have no client.

``microreg serve`` runs it. To put it into a server of your own, see :func:`microreg.server.app.application`.
"""

from microreg.server.app import Application, application
from microreg.server.settings import Settings

__all__ = ["Application", "Settings", "application"]
