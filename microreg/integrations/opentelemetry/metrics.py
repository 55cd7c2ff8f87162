"""The metrics: observable instruments that read :mod:`microreg.measures` whenever somebody collects."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from weakref import WeakKeyDictionary, ref

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, MeterProvider, Observation, get_meter_provider

from microreg import __version__, process
from microreg.checked import Checked
from microreg.measures import MEASURES, Labels, Measure, Reading

__all__ = ["DURATION", "Meters", "meters"]

DURATION = "microreg.client.operation.duration"
"""The one histogram: how long calls of a registry take, in seconds."""

_BOUNDARIES = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
"""As the semantic conventions have them for ``db.client.operation.duration``."""


class Meters:
    """The instruments of one provider, and which registries they tell of. Held weakly: what is gone is told no more."""

    def __init__(self, meter: Meter) -> None:
        self._observed: dict[object, tuple[ref[Checked], ...]] = {}
        self._begin()
        process.in_child(self, Meters._begin)
        self.duration: Histogram = meter.create_histogram(
            DURATION,
            unit="s",
            description="How long calls of a registry take, renewals included.",
            explicit_bucket_boundaries_advisory=_BOUNDARIES,
        )
        make = {
            "counter": meter.create_observable_counter,
            "sum": meter.create_observable_up_down_counter,
            "gauge": meter.create_observable_gauge,
        }
        for measure in MEASURES:
            callback = partial(self._observations, measure)
            make[measure.kind](measure.name, [callback], unit=measure.unit, description=measure.about)

    def _begin(self) -> None:
        """Here, and anew in a forked child: it may have been forked while another thread held a lock."""
        self._steady = {measure: _Steady(measure) for measure in MEASURES}

    def add(self, who: object, registries: tuple[Checked, ...]) -> None:
        """Tell of these registries, and all that works on them, until ``who`` is discarded."""
        for before, references in tuple(self._observed.items()):
            if not any(each() for each in references):
                self.discard(before)
        self._observed[who] = tuple(map(ref, registries))

    def discard(self, who: object) -> None:
        """Tell no more of what was added for ``who``, unless somebody else added it too."""
        self._observed.pop(who, None)

    def _things(self) -> dict[int, object]:
        """What there is to tell of now, once each, by identity."""
        found: dict[int, object] = {}
        for each in (each for references in tuple(self._observed.values()) for each in references):
            if (registry := each()) is not None:
                found |= {id(thing): thing for thing in (registry, *registry.users)}
        return found

    def _observations(self, measure: Measure, _: CallbackOptions) -> Iterator[Observation]:
        things = self._things()
        readings = {ref(thing): measure.read(thing) for thing in things.values()}
        for labels, value in self._steady[measure](readings).items():
            yield Observation(value, _attributes(measure, labels))


class _Steady:
    """Adds up what several objects say of one measure. A counter does not fall when one of them goes.

    What was last heard of that one stays in the sum, while another tells of the same labels.
    """

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self._last: Mapping[ref[object], Reading] = {}
        self._past: dict[Labels, float] = {}
        self._lock = threading.Lock()  # each reader of the provider may have a thread

    def __call__(self, readings: Mapping[ref[object], Reading]) -> dict[Labels, float]:
        """The sums for what the objects say now."""
        total = self._measure.total(readings.values())
        if self._measure.kind != "counter":
            return total
        with self._lock:
            for thing, before in self._last.items():
                now = readings.get(thing, {})
                for labels, value in before.items():
                    if now.get(labels, 0) < value:
                        self._past[labels] = self._past.get(labels, 0) + value
            self._last = readings
            self._past = {labels: value for labels, value in self._past.items() if labels in total}
            return {labels: value + self._past.get(labels, 0) for labels, value in total.items()}


def meters(provider: MeterProvider | None) -> Meters:
    """The one Meters of a provider; that of the global one, which may be set later, where none is given."""
    if provider is None or provider is get_meter_provider():
        return _global()
    if provider not in _by_provider:
        _by_provider[provider] = Meters(provider.get_meter("microreg", __version__))
    return _by_provider[provider]


@functools.cache
def _global() -> Meters:
    return Meters(get_meter_provider().get_meter("microreg", __version__))


_by_provider: WeakKeyDictionary[MeterProvider, Meters] = WeakKeyDictionary()


def _attributes(measure: Measure, labels: Labels) -> dict[str, str]:
    return {name: value for name, value in zip(measure.attributes, labels, strict=True) if value}
