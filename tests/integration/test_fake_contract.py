"""fake:// keeps the contract, though its store is on another event loop; its faults are in tests/test_fake.py."""

from __future__ import annotations

from microreg import connect
from microreg.testing import CHECKS, FakeStore, Harness, contract

STORE = FakeStore()
PLAIN = [check for check in CHECKS if check.requires <= connect(STORE.url).capabilities and not check.alone]

TestFake = contract(Harness(factory=lambda: connect(STORE.url), concurrency=len(PLAIN)), PLAIN, around=lambda: STORE)
