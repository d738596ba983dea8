"""The strategies of stage 1 on real CIFAR-10, by a recipe that two cores can pay for.

    python benchmarks/stage1_strategies.py --cifar10 DIR [--seeds 5] [--first-seed 0] [--out DIR]

`run-search study strategies` on a backbone of three sites with a table of the computed device (mock), under three
limits that admit about 100, 500 and 3600 blocks. A candidate sees 2000 images three times and is evaluated on 2000
others, which takes 1 to 5 seconds; two trainings of a block rank it about alike (Spearman 0.76). P, S and C are the
paper's 100 and 25 and our 300, all divided by about 13. Two at a time, of one thread each. It resumes where it was
stopped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

from bpnas.search import Preset
from bpnas.search.commands.display import display
from bpnas.search.commands.options import wait_passively
from bpnas.search.execution.executor import open_executor
from bpnas.search.studies.proposals.arms import load_study
from bpnas.search.studies.proposals.study import run_proposals_study
from bpnas.search.studies.study import StudyRequest
from bpnas.tables import LatencyTable

BACKBONE = """
name = "narrow"
stages = [{ channels = 16, blocks = 1, stride = 2 }, { channels = 32, blocks = 2, stride = 2 }]
[stem]
channels = 8
stride = 2
[head]
channels = 64
"""
LIMITS_MS = (1.3, 1.5, 2.0)
RECIPE = {
    "proposals.population": 8,
    "proposals.sample": 2,
    "proposals.cycles": 20,
    "proposals.validation_share": 0.5,
    "proposals.train.train_images": 4000,
    "proposals.train.epochs": 3,
    "proposals.train.batch": 32,
    "proposals.train.learning_rate": 0.1,
    "test_images": None,
}


def make_table(folder: Path) -> Path:
    """The backbone on the computed device, by the commands themselves."""
    table = folder / "narrow.parquet"
    if not table.exists():
        (folder / "narrow.toml").write_text(BACKBONE)
        records = folder / "narrow.sqlite"
        profile = ["--serial", "mock:s9", "--backbone", folder / "narrow.toml", "--input-size", 32, "--sessions", 1]
        call("profile-device", *profile, "--records", records)
        call("build-table", records, "--out", table)
    return table


def call(command: str, *arguments: object) -> None:
    subprocess.run([Path(sys.executable).parent / command, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar10", required=True, help="folder of the public parquet edition")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("runs/stage1-strategies"))
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    table = LatencyTable.load(make_table(arguments.out))
    with display(table.meta.mock) as progress:
        request = StudyRequest(
            table,
            out=arguments.out / "study",
            seeds=range(arguments.first_seed, arguments.first_seed + arguments.seeds),
            preset=replace(Preset.load("tiny").override(RECIPE), name="two cores"),
            data=f"cifar10:{arguments.cifar10}",
            progress=progress,
        )
        executor = partial(open_executor, "processes", workers=2)
        result = run_proposals_study(load_study("strategies"), request, constraints=LIMITS_MS, executor=executor)
    print("\n".join(result.found.lines))
    print(f"{result.directory}/study.csv, study.png; {result.found.trainings} trainings; latencies are a mock's")


if __name__ == "__main__":
    wait_passively()
    main()
