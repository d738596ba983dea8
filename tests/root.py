"""Where the repository is."""

from pathlib import Path

ROOT = Path(__file__).parents[1]

FIND_TESTS = f"import sys; sys.path.append({str(ROOT)!r})\n"
"""The beginning of a program that imports `tests`: last on the path, so that `bpnas` is the one that is installed."""
