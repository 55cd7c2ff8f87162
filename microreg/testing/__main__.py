"""``python -m microreg.testing`` prints the sentences of the contract as a Markdown table."""

import sys

from microreg.testing.table import table

sys.stdout.write(table())
