"""What a test needs and a machine may not have: a visible skip, or a failure where ``MICROREG_REQUIRE`` names it."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest

__all__ = ["REQUIRED", "need"]

REQUIRED = frozenset(name.strip() for name in os.environ.get("MICROREG_REQUIRE", "").split(",") if name.strip())
"""What must not be missing here, as ``MICROREG_REQUIRE=etcd,avahi`` says; read before tests clean the environment."""


def need(name: str, reason: str) -> NoReturn:
    """Skip the test because ``name`` is not to be had, or fail where it is required."""
    if name in REQUIRED:
        pytest.fail(f"{name} is required by MICROREG_REQUIRE, but {reason}", pytrace=False)
    pytest.skip(f"{name}: {reason}")
