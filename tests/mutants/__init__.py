"""Registries with one bug each: what the conformance kit must find, and by which check.

Each is a memory registry, or a ``Checked`` around one, that breaks one sentence of the contract; many of the
bugs are real ones of systems in use. They run in virtual time, so that patience costs nothing.
"""

from mutants import calling, leaving, living, numbers, reading, refusing, sharing, watching, writing
from mutants.frame import MUTANTS, SEEN, FaultyMemory, harness_of

__all__ = [
    "MUTANTS",
    "SEEN",
    "FaultyMemory",
    "calling",
    "harness_of",
    "leaving",
    "living",
    "numbers",
    "reading",
    "refusing",
    "sharing",
    "watching",
    "writing",
]
