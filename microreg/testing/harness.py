"""How the kit gets at a registry: several clients of one store, how patient to be, and what can be done to it."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial

from microreg.backends.memory import MemoryRegistry
from microreg.checked import Checked
from microreg.connect import connect
from microreg.errors import ConfigError
from microreg.layers.namespace import NamespaceLayer
from microreg.registry import Registry
from microreg.rules import LONGEST_NAME
from microreg.testing.faults import Faults, MemoryFaults
from microreg.testing.needs import SEAMS
from microreg.testing.process import COMMAND
from microreg.url import RegistryURL

__all__ = ["Harness"]


class Harness:
    """Where and how to run the checks. Give a config string, or a factory of registries that are not open yet.

    Every registry that the factory returns is one more client of the same store; what is not yet inside
    :class:`microreg.checked.Checked` is put there. All times are seconds:

    - ``ttl``: the shortest time to live that the store honours.
    - ``grace``: how much later than its ttl a record may go. The default has room for a store that makes two seconds
      of one (etcd), looks for what has expired now and then, and is busy.
    - ``patience``: within which a change must have been seen by everybody; and within which a check's clients have
      withdrawn everything and closed, though for that five at least.
    - ``settle``: after which what has not been heard is not coming. Longer is stricter and slower.
    - ``deadline``: that one check may take in all.

    ``faults`` says what can be done to the store (``memory://`` brings its own), ``seed`` makes random choices
    repeatable, ``concurrency`` is how many checks may run at once. ``longest_name`` is how many characters a name may
    have, of the 63 that every store takes, where a layer of yours needs some; ``namespace+`` says so itself.
    ``command`` starts a client in a process of its own, as :mod:`microreg.testing.client` describes it, which is what
    a config string brings. The kit uses names of its own, never touches those of others, and withdraws what it
    registered.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        factory: Callable[[], Registry] | None = None,
        faults: Faults | None = None,
        ttl: float = 1.0,
        grace: float = 4.0,
        patience: float = 5.0,
        settle: float = 0.2,
        deadline: float = 60.0,
        concurrency: int = 8,
        seed: int | None = None,
        longest_name: int | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        if (url is None) == (factory is None):
            raise ConfigError(
                "a Harness needs either a config string or a factory, for example Harness('memory://kit')"
            )
        self.url = url or ""
        self._factory = factory or partial(connect, _shared(RegistryURL.parse(self.url)))
        self.ttl = ttl
        self.grace = grace
        self.patience = patience
        self.settle = settle
        self.deadline = deadline
        self.concurrency = max(1, concurrency)
        self.seed = int.from_bytes(os.urandom(4)) if seed is None else seed
        first = self.connect()
        self.title = str(first.url)
        self.capabilities = first.capabilities
        namespace = first.unwrap(NamespaceLayer)
        self.longest_name = longest_name or (namespace.longest_name if namespace is not None else LONGEST_NAME)
        in_memory = first.unwrap(MemoryRegistry) is not None
        self.command = COMMAND if command is None and self.url and not in_memory else command
        alone = in_memory and not first.url.parts  # one part that is down is not the store that is down
        self.faults = faults or (MemoryFaults(self.connect) if alone else Faults())

    def connect(self) -> Registry:
        """One more client, not open yet."""
        registry = self._factory()
        return registry if registry.unwrap(Checked) is not None else Checked(registry)

    @property
    def offers(self) -> frozenset[str]:
        """The capabilities of the registry, and the faults and seams of the harness."""
        seams = SEAMS if self.command is not None else frozenset[str]()
        return self.capabilities | self.faults.offered | seams

    def __repr__(self) -> str:
        return f"Harness({self.title!r})"


def _shared(url: RegistryURL) -> RegistryURL:
    """``memory://`` is a store for each client; the checks need one that clients share."""
    return replace(url, location="kit") if url.scheme == "memory" and not url.location else url
