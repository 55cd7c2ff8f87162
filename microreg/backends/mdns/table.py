"""The nodes of our own, found by what packets say of them; every way there costs the same however many there are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from microreg.backends.mdns.names import Key, subtype
from microreg.backends.mdns.own import Own

__all__ = ["Table"]


class Table:
    """Our nodes by key, by instance, by the beginning of their TXT record and by subtype."""

    def __init__(self) -> None:
        self._keys: dict[Key, Own] = {}
        self._labels: dict[bytes, Own] = {}
        self._identities: dict[bytes, Own] = {}
        self._subtypes: dict[bytes, dict[Key, Own]] = {}

    def __iter__(self) -> Iterator[Own]:
        return iter(self._keys.values())

    def __len__(self) -> int:
        return len(self._keys)

    def __getitem__(self, key: Key) -> Own:
        return self._keys[key]

    def add(self, own: Own) -> None:
        """One more, of a key that is not there."""
        self._keys[own.key] = self._labels[own.label] = self._identities[own.identity] = own
        self._subtypes.setdefault(own.subtype, {})[own.key] = own

    def pop(self, key: Key) -> Own | None:
        """Take it out, if it is there."""
        own = self._keys.pop(key, None)
        if own is not None:
            del self._labels[own.label], self._identities[own.identity]
            del self._subtypes[own.subtype][key]
            if not self._subtypes[own.subtype]:
                del self._subtypes[own.subtype]
        return own

    def get(self, key: Key) -> Own | None:
        """Our node of this name and id."""
        return self._keys.get(key)

    def by_label(self, label: bytes) -> Own | None:
        """Our node of this instance."""
        return self._labels.get(label)

    def by_identity(self, identity: bytes) -> Own | None:
        """Our node whose TXT record begins like this."""
        return self._identities.get(identity)

    def by_subtype(self, name: bytes) -> Iterable[Own]:
        """Our nodes of this subtype: those of one service name, seldom of several."""
        return self._subtypes.get(name, {}).values()

    def named(self, name: str | None) -> Iterator[Own]:
        """Our nodes of one service name, or all."""
        nodes = self if name is None else self.by_subtype(subtype(name))
        return (own for own in nodes if name in (None, own.key[0]))
