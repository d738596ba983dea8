"""How long a table of a million rows takes to build, and a search of 100,000 trials to resume; and in how much memory.

    python benchmarks/large_files.py [--rows 1000000] [--trials 100000] [--folder DIR]

Makes a records file of so many rows, with the sessions of a whole backbone and its sentinel, and runs `build-table` on
it; and run directories with so many trials under one and under five limits, whose search of proposals it calls again
until the first new trial.
Prints seconds of processor and of wall clock, and the largest resident size. Nothing is measured or trained: the
numbers in both are drawn at random. In --folder the files are kept, and found again.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections import deque
from contextlib import nullcontext, suppress
from pathlib import Path
from typing import Any

# Only in this process, which never imports what would take the folder `tables` for its own.
sys.path.append(str(Path(__file__).parents[1]))

import numpy as np

from bpnas.android_bench.measurement import Measurement, RunSettings
from bpnas.profiler import Backbone, Block, Plan, Records, Setup
from bpnas.profiler.campaign.run import plan_parts
from bpnas.profiler.campaign.sentinel import EVERY, sentinel_model
from bpnas.search import Preset
from bpnas.search.execution.evaluation import Evaluation
from bpnas.search.progress import Silent
from bpnas.search.proposals.run import ProposalSearch, run_proposals
from bpnas.search.proposals.space import BlockSpace
from bpnas.search.run_directory import RunDirectory
from bpnas.tables import LatencyTable
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


class _FirstNewTrialError(Exception):
    """The search is about to train a candidate that it has not trained before."""


class _Answers:
    """An executor that trains nothing, and gives up when it is asked once more than it may be."""

    workers = 1

    def __init__(self, most: int) -> None:
        self._left, self._queue = most, deque[tuple[int, Block]]()

    def submit(self, number: int, block: Block, **options: Any) -> None:
        if not self._left:
            raise _FirstNewTrialError
        self._left -= 1
        self._queue.append((number, block))

    def next(self) -> tuple[int, Evaluation]:
        number, block = self._queue.popleft()
        return number, Evaluation(random.Random(str(block)).randrange(500) / 500, 100, 0.1, 2, (), 50)

    def close(self) -> None:
        pass


def search(folder: Path, trials: int, limits: int, most: int) -> float:
    """Stage 1 of so many trials, until `most` candidates were evaluated; how many seconds of processor that took."""
    began, table = time.process_time(), LatencyTable.mock_s9()
    space = BlockSpace(table, 32)
    shares = [(number + 1) / (limits + 1) for number in range(limits)]
    limits_ms = tuple(np.quantile(space.latencies(), shares).tolist())
    settings = Preset.load("tiny").override({"proposals.cycles": trials // limits + 1}).proposals
    wanted, directory = ProposalSearch(space, limits_ms, "digits", settings, 0), RunDirectory(folder)
    with suppress(_FirstNewTrialError):
        run_proposals(wanted, directory, Silent(), _Answers(most))
    return time.process_time() - began


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
    print(done.stdout, end="")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--trials", type=int, default=100_000)
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--resume", nargs=2, metavar=("RUN", "LIMITS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.resume:
        took = search(Path(given.resume[0]), given.trials, int(given.resume[1]), 0)
        print(f"  without what is loaded once: {took:.1f} s of processor")
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = given.folder or Path(scratch)
        folder.mkdir(parents=True, exist_ok=True)
        records = folder / f"records-{given.rows}.sqlite"
        if not records.exists():
            began = time.monotonic()
            write_records(records, given.rows)
            print(f"{records.name}: {records.stat().st_size / 1e6:.0f} MB, written in {time.monotonic() - began:.0f} s")
        build_table = Path(sys.executable).with_name("build-table")
        measured(f"build-table of {given.rows} rows", [build_table, records, "--out", folder / "table.parquet"])
        for limits in (1, 5):
            run = folder / f"run-{given.trials}-{limits}"
            if not run.exists():
                os.fsync = lambda descriptor: None  # these files may be lost with the machine
                search(run, given.trials, limits, given.trials)
            words = [sys.executable, "-P", __file__, "--trials", str(given.trials), "--resume", run, str(limits)]
            measured(f"{given.trials} trials under {limits} limits, to the first new one", words)


if __name__ == "__main__":
    main()
