"""``otel+``: the OpenTelemetry integration in the config string. Its own module, since the library may be missing.

::

    otel+cache+etcd://10.0.0.1
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from microreg import ConfigError, Layer, Registry
from microreg.url import Options, RegistryURL

if TYPE_CHECKING:
    from microreg.integrations.opentelemetry import Instrumentation

__all__ = ["TelemetryLayer"]


class TelemetryLayer(Layer):
    """Instruments what is inside while it is open, with OpenTelemetry's global providers.

    See :mod:`microreg.integrations.opentelemetry`. Raises ConfigError where OpenTelemetry is not installed.
    """

    transparent = True

    def __init__(self, inner: Registry, url: RegistryURL, options: Options) -> None:
        super().__init__(inner, url, options)
        try:
            from microreg.integrations.opentelemetry import instrument
        except ImportError as error:
            raise ConfigError(f"otel+ needs OpenTelemetry: pip install 'microreg[otel]' ({error})") from error
        self._instrument = instrument
        self._instrumentation: Instrumentation | None = None

    async def open(self) -> None:
        """Open what is inside, and begin to measure."""
        await self.inner.open()
        if self._instrumentation is None:
            self._instrumentation = self._instrument(self.inner)

    async def close(self) -> None:
        """Close what is inside, and measure no more. Closing twice is fine."""
        try:
            await self.inner.close()
        finally:
            if self._instrumentation is not None:
                self._instrumentation.close()
