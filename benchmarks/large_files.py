"""How long a table of a million rows takes to build, and in how much memory.

    python benchmarks/large_files.py [--rows 1000000] [--folder DIR]

Makes a records file of so many rows, with the sessions of a whole backbone and its sentinel, and runs `build-table` on
it. Prints seconds of processor and of wall clock, and the largest resident size. Nothing is measured: the numbers are
drawn at random. In --folder the file is kept, and found again.
"""

from __future__ import annotations

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

# Only in this process, which never imports what would take the folder `tables` for its own.
sys.path.append(str(Path(__file__).parents[1]))

import numpy as np

from bpnas.android_bench.measurement import Measurement, RunSettings
from bpnas.profiler import Backbone, Plan, Records, Setup
from bpnas.profiler.campaign.run import plan_parts
from bpnas.profiler.campaign.sentinel import EVERY, sentinel_model
from tests.records_factory import TOOLS, device_info

SAMPLES = 25


def write_records(path: Path, rows: int) -> None:
    """A campaign of all parts of mobilenetv2 at 224, of as many sessions as make so many rows."""
    backbone = Backbone.load("mobilenetv2", 224)
    setup = Setup(device_info(os="Android 10 (QP1A.190711.020)"), RunSettings(), 1)
    parts = plan_parts(Plan(setup, (backbone,), None, 1))
    sessions = max(1, round(rows / len(parts) * EVERY / (EVERY + 1)))
    rng, noise, written = random.Random(0), np.random.default_rng(0), 0
    sentinel = sentinel_model(backbone)[0]
    truth = {part.key: rng.uniform(0.1e6, 20e6) for part in parts} | {sentinel: 1e6}
    with Records.write(path) as records:
        records.add_plan(Plan(setup, (backbone,), None, sessions))
        # One transaction for all: this file may be lost with the machine.
        records._connection.execute("BEGIN IMMEDIATE")
        records._transaction = nullcontext  # type: ignore[method-assign]
        order = [part.key for part in parts]
        for session in range(sessions):
            rng.shuffle(order)
            for number, key in enumerate(order):
                tasks = [(key, session)]
                if number % EVERY == 0:
                    tasks.append((sentinel, written))
                for name, count in tasks:
                    written += 1
                    center = truth[name] * (1 + 0.05 * written / rows) * rng.gauss(1.0, 0.004)
                    samples = tuple((center * noise.normal(1.0, 0.008, SAMPLES)).astype(int).tolist())
                    state = {"serial": "A", "temperature_c": 31.5, "governor": "performance", "cpu4_mhz": 2803.2}
                    conditions: dict[str, dict[str, float | str]] = {"before": dict(state), "after": dict(state)}
                    records.add(
                        setup,
                        TOOLS,
                        Measurement(name, count, "cd" * 32, samples, 1, 10, 10**8, 10**6, 1.7e9 + written, conditions),
                    )
        records._connection.execute("COMMIT")


def measured(name: str, command: list[str | Path]) -> None:
    """Run a command, and print what it took."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    print(
        f"{name}: {cpu:.1f} s of processor, {time.monotonic() - began:.1f} s, {after.ru_maxrss / 1024:.0f} MB",
        flush=True,
    )
    if done.returncode:
        sys.exit(f"{done.stdout}{done.stderr}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--folder", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        records = folder / f"records-{given.rows}.sqlite"
        if not records.exists():
            began = time.monotonic()
            write_records(records, given.rows)
            print(f"{records.name}: {records.stat().st_size / 1e6:.0f} MB, written in {time.monotonic() - began:.0f} s")
        measured(
            "build-table", [Path(sys.executable).with_name("build-table"), records, "--out", folder / "table.parquet"]
        )


if __name__ == "__main__":
    main()
