"""``python -m microreg``: the same as the ``microreg`` script."""

from __future__ import annotations

import sys

from microreg.cli import main

if __name__ == "__main__":
    sys.exit(main())
