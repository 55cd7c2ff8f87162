"""Where a reader stands in the history of a store, and how that history is told from another one."""

from __future__ import annotations

from microreg_etcd.stubs import rpc

__all__ = ["Position"]


class Position:
    """The revision up to which a range was read, and a witness: one write that only this history has.

    A store that was wiped or restored counts its revisions anew. When it has come as far as before, going on from
    there would miss everything that is different: the number is the same, what it stands for is not.
    """

    __slots__ = ("_deleted", "_key", "_lease", "_written", "revision")

    def __init__(self) -> None:
        self.revision = 0
        self._key = b""
        self._written = 0
        self._lease = 0
        self._deleted = False

    def read(self, answer: rpc.RangeResponse) -> None:
        """A page was read: the first one says as of which revision, the newest of its keys is the witness."""
        self.revision = self.revision or answer.header.revision
        newest = max(answer.kvs, key=lambda item: item.mod_revision, default=None)
        if newest is not None and newest.mod_revision > self._written:
            self._testify(newest)

    def heard(self, response: rpc.WatchResponse) -> None:
        """A response of the watch was read to its end.

        What counts is the revision of its last event: while old events are read, the header's is far ahead of them.
        """
        for event in response.events:
            if event.type == rpc.Event.PUT:
                self._testify(event.kv)
            elif event.kv.key == self._key:
                self._deleted = True
        last = response.events[-1].kv.mod_revision if response.events else response.header.revision
        self.revision = max(self.revision, last)

    def question(self) -> rpc.RangeRequest | None:
        """What to ask a store, to see whether it is the one that was read; None where nothing was seen in it."""
        if not self._written:
            return None
        at = self._written if self._deleted else self.revision
        return rpc.RangeRequest(key=self._key, revision=at, keys_only=True)

    def confirmed(self, answer: rpc.RangeResponse) -> bool:
        """Whether this answer to the question is that of the store that was read."""
        found = [(item.mod_revision, item.lease) for item in answer.kvs]
        return found == [(self._written, self._lease)]

    def _testify(self, item: rpc.KeyValue) -> None:
        self._key, self._written, self._lease, self._deleted = item.key, item.mod_revision, item.lease, False
