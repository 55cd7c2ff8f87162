"""The command line, run in the process of the test, in a pipe."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from microreg.cli import main

__all__ = ["Cli", "Result", "run_command"]


@dataclass
class Result:
    """How a command ended, and what it said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """What it said with ``--json``."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[list[str]]:
        """The cells of each line."""
        return [line.split("\t") for line in self.out.splitlines()]


Cli = Callable[..., Result]
"""Runs a command with these arguments."""


def run_command(capsys: pytest.CaptureFixture[str], *arguments: str) -> Result:
    """Run ``microreg`` with these arguments, without a traceback."""
    code = main(arguments)
    captured = capsys.readouterr()
    assert "Traceback" not in captured.err + captured.out
    return Result(code, captured.out, captured.err)
