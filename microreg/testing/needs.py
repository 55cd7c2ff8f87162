"""What a check may need beyond the five verbs: capabilities, faults, and seams."""

from __future__ import annotations

__all__ = ["CAPABILITIES", "FAULTS", "SEAMS"]

CAPABILITIES = frozenset({"reasons", "complete_list", "authoritative", "push", "fenced"})
"""What a registry may say of itself in ``capabilities``; each widens what is asked of it."""
FAULTS = frozenset({"kill", "wipe", "freeze", "black_hole", "slow", "skew", "write_raw"})
"""What :class:`microreg.testing.Faults` may be able to do to a store."""
SEAMS = frozenset({"process"})
"""What a :class:`microreg.testing.Harness` may have besides: clients in processes of their own."""
