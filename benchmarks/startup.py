"""How long people wait before anything happens.

    python benchmarks/startup.py

Whole processes of `--help` (goal: at most 0.25 s), loading the shipped table (goal: at most 50 ms), and the latency of
all 563,600 distinct blocks over 22 sites (goal: at most 100 ms). Medians and ranges.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from time import perf_counter

from bpnas.search import BlockSpace
from bpnas.tables import LatencyTable


def main() -> None:
    for command in ("profile-device", "build-table", "run-search"):
        executable = shutil.which(command, path=str(Path(sys.executable).parent)) or command
        show(f"{command} --help", lambda e=executable: subprocess.run([e, "--help"], check=True, capture_output=True))
    show("LatencyTable.load of the shipped table", LatencyTable.mock_s9)
    table = LatencyTable.mock_s9()
    show("latency of all distinct blocks, from the table", lambda: BlockSpace(table, input_size=32).latencies())


def show(what: str, call: Callable[[], object]) -> None:
    call()
    times_ms = []
    for _ in range(10):
        start = perf_counter()
        call()
        times_ms.append((perf_counter() - start) * 1e3)
    print(f"{what}: median {statistics.median(times_ms):.1f} ms, {min(times_ms):.1f} to {max(times_ms):.1f} ms")


if __name__ == "__main__":
    main()
