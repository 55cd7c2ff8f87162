"""The contract, sentence by sentence: every promise of a registry has an id here, and a check of the same id."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

__all__ = ["SENTENCES"]

SENTENCES: Mapping[str, str] = MappingProxyType(
    {
        # register
        "register.visible": "What one client registers, every other client finds and every watch hears of.",
        "register.all-nodes": "One register call writes every node of the service, not only the first.",
        "register.round-trip": "Every value comes back exactly as it was registered.",
        "register.limits": "A record within the rules is stored whole, or refused as RecordTooLarge with both sizes.",
        "register.identity": "Identity is name and id: one id under two names is two nodes.",
        "register.no-collision": "Name and id count to the last character and never run together.",
        "register.moves-version": "A node that changes its version is the same node, moved.",
        "register.versions": "Versions of one name live side by side.",
        "register.by-anyone": "In a store that knows, a node is nobody's own: every client's register counts.",
        "register.outlives-client": "In a store that knows, closing a client withdraws nothing: records live on.",
        "register.publishes-changes": "Any change of address, status, version, metadata or endpoints is published.",
        "register.renewal-is-no-event": "A renewal is not an event.",
        "register.never-blinks": "While a node is renewed and changed, whoever asks finds it, once.",
        "register.renews": "The same call again lets the record live for another ttl.",
        "register.renews-changed": "A record that is changed lives for another ttl as well, not for what was left.",
        "register.renews-at-expiry": "A register at the moment of expiry renews or restores; nothing hangs or is lost.",
        "register.expires": "Without another register a record is gone ttl seconds later, and watches hear of it.",
        "register.expires-unattended": "The record of a killed process is gone ttl seconds after its register.",
        "register.rounds-up": "A ttl that the store cannot do is rounded up, never down.",
        "register.default-ttl": "Without a ttl a record lives for 15 seconds.",
        "register.needs-no-clock": "A wrong clock at whoever registers makes no record live longer or shorter.",
        "register.only-register-renews": "Only register renews a node: no reading, and no call about another node.",
        "register.restores-expired": "A record that expired is restored by the same call.",
        "register.restores-deregistered": "A record that somebody else withdrew is restored by the same call.",
        "register.restores-forgotten": "A record that the store has forgotten is restored by the same call.",
        "register.rejects-invalid": "Bad input is InvalidService before anything is sent; nothing is half registered.",
        "register.rejects-ttl": "A ttl that is no number from 1 to 86,400 is InvalidService; nothing is sent.",
        # deregister
        "deregister.removes": "A withdrawn node is gone for every client, and watches hear of it.",
        "deregister.only-those": "Only the given nodes are withdrawn; all others stay.",
        "deregister.by-identity": "Name and node id say which node; its version, address and metadata do not matter.",
        "deregister.by-anyone": "In a store that knows, every client can withdraw a node, whoever registered it.",
        "deregister.idempotent": "Withdrawing a node twice, or one that never was, is fine.",
        "deregister.stays-gone": "A withdrawn node stays gone, whoever asks for it.",
        "deregister.fenced": "A write that timed out and is applied late does not bring a withdrawn node back.",
        "deregister.backstop": "What a late write brings back all the same is gone one ttl later.",
        # get_service
        "get.exact-name": "Names are exact and case-sensitive: no name leaks into another.",
        "get.sorted": "One Service per version; versions and nodes are sorted, in whatever order they arrived.",
        "get.smallest-node-speaks": "Metadata and endpoints of a version are those of its smallest node id.",
        "get.not-found": "An unknown name is ServiceNotFound, authoritative only where the store can know.",
        "get.complete": "The first answer that a client gets is complete, also when many ask at once.",
        "get.many-nodes": "A name may have hundreds of nodes: an answer has them all, and so has a Snapshot.",
        "get.prompt": "A store that knows answers at once, also that there is nothing.",
        "get.lenient": "What others wrote is read: any order, unknown keys, null for empty, any printable name and id.",
        "get.derives-id": "A record without an id gets one derived from its address.",
        "get.skips-garbage": "A record that does not decode is skipped, with one warning, and harms no other.",
        # list_services
        "list.sorted": "Names are listed sorted and once.",
        "list.complete": "Every name with a node is listed, whoever registered it.",
        "list.many-names": "There may be hundreds of names: a list has them all, and so has a Snapshot.",
        "list.no-empty-names": "A name without a node is not listed.",
        # watch
        "watch.snapshot-first": "A watch begins with one Snapshot of what is there, also when that is nothing.",
        "watch.no-gap": "Nothing is missed between the Snapshot and what follows.",
        "watch.one-name": "A watch of one name tells of that name only.",
        "watch.all-names": "A watch without a name tells of every name.",
        "watch.actions": "Changes are create, update and delete, each with the node's record and the one before.",
        "watch.reasons": "A delete says whether the node was deregistered or expired.",
        "watch.pushes": "A store that pushes is heard at once.",
        "watch.coalesces": "For a consumer that waits, the changes of a node fold into at most one.",
        "watch.drops-nothing": "However slow the consumer and however many the changes, no state is lost.",
        "watch.bounded": "What waits for a slow consumer is bounded by the number of nodes, not of changes.",
        "watch.independent": "Watches do not disturb each other.",
        "watch.many": "Two hundred watches that are open at once all hear of a change.",
        "watch.law": "Folding a watch into a Catalog ends in what get_service says.",
        "watch.closes": "Closing a watch ends its iteration; closing it twice is fine.",
        "watch.leaves-nothing": "Five hundred watches, opened and closed, leave no task, thread or file behind.",
        "watch.leaves-nothing-when-down": "Nor do five hundred that were opened and closed while the store is away.",
        "watch.ends-with-registry": "When its registry is closed, a watch ends with RegistryClosed.",
        "watch.resyncs": "A watch that lost its store says resyncing, comes back by itself, and tells the difference.",
        "watch.tells-what-was-lost": "What the store has forgotten, a watch tells as deleted.",
        "watch.notices-silence": "A source that falls silent without a word is noticed within 20 seconds.",
        # all verbs
        "general.not-open": "Before open and after close all is RegistryClosed; opening or closing twice is fine.",
        "general.wrong-loop": "From another event loop than its own, every verb is WrongLoop.",
        "general.concurrent": "Many calls at once on one client all take effect.",
        "general.cancellable": "Every call can be cancelled at any moment, and the registry stays usable.",
        "general.leaves-nothing": "A closed registry leaves no task, thread or file behind.",
        "general.examines": "examine() ends within the option timeout and raises nothing, open or not yet.",
        "general.open-needs-no-server": "open needs no server: the first call says RegistryUnavailable.",
        "general.unavailable": "While the store is away all is RegistryUnavailable; afterwards all is well again.",
        "general.own-errors": "No error of a client library gets out, not even when the store dies during a call.",
        "general.bounded": "While the store stands still, every call is RegistryTimeout within the option timeout.",
        "general.calling-again": "After a write that timed out, calling again is right: one record, as written last.",
    }
)
"""Sentence by id, in the order of a report."""
