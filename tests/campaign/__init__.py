"""Faults done to costsim on purpose, and what must hold after each.

`make reliability` runs them all and prints the table of docs/reliability.md; the slow suite runs
fewer of each. A fault is a file here with a tuple `EXPERIMENTS`.
"""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parents[1] / "support"))
