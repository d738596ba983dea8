"""Stage 2 on real CIFAR-10, by recipes that two cores can pay for: is what the search connects worth its price?

    python benchmarks/connections.py connections --cifar10 DIR [--seeds 3] [--first-seed 0] [--sites twelve]
        [--noise-free-latency] [--out DIR]

The studies `connections`, `lambda`, `random-stage2` and `fbnet-candidates` of `run-search study`, on a backbone of six
or twelve sites with a table of the computed device (mock). The block proposals are searched first, with a seed of their
own and the table of six sites, and MobileNetV2 gets its tables at other widths. All goes on where it was stopped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from bpnas.profiler import Block
from bpnas.search import Preset
from bpnas.search.commands.display import display
from bpnas.search.commands.options import given_proposals, wait_passively
from bpnas.search.studies.connections.arms import (
    ConnectionStudy,
    connections_study,
    fbnet_study,
    lambda_study,
    random_study,
)
from bpnas.search.studies.connections.study import run_connections_study
from bpnas.search.studies.connections.terms import StudyTerms
from bpnas.search.studies.study import StudyRequest
from bpnas.tables import LatencyTable

STEM, CHANNELS, HEAD = 8, (16, 32), 64
BLOCKS = {"six": 3, "twelve": 6}  # of each stage
LIMITS_MS = "1.5,2.1,2.8,3.5,4.2"
PROPOSALS = f"--stage proposals --bands --constraints {LIMITS_MS} --preset small --population 8 --sample 3 --cycles 16"
PROPOSAL_SEED = 100
TARGETS_MS = {"six": 1.4, "twelve": 2.5}  # 0.6 of the mean over candidates
RANDOM_NETWORKS = 3
WIDTHS = tuple(percent / 100 for percent in range(25, 155, 5))
RECIPE = {
    "connections.train.train_images": 4000,
    "connections.train.epochs": 12,
    "connections.k_best": 30,
    "retraining.train_images": 4000,
    "retraining.epochs": 6,
    "retraining.batch": 32,
    "test_images": None,
}


def make_table(folder: Path, sites: str, width: float = 1.0) -> Path:
    """The backbone at a width on the computed device, by the commands themselves; if not at 1, MobileNetV2's path."""
    stem, *channels, head = (scaled(count, width) for count in (STEM, *CHANNELS, HEAD))
    name = f"{sites}-{stem}-{'-'.join(map(str, channels))}-{head}"
    table = folder / f"{name}.parquet"
    if not table.exists():
        stages = [f"{{ channels = {count}, blocks = {BLOCKS[sites]}, stride = 2 }}" for count in channels]
        backbone, records = folder / f"{name}.toml", folder / f"{name}.sqlite"
        backbone.write_text(
            f'name = "{name}"\nstages = [{", ".join(stages)}]\n[stem]\nchannels = {stem}\nstride = 2\n'
            f"[head]\nchannels = {head}\n"
        )
        profile = ["--serial", "mock:s9", "--backbone", backbone, "--input-size", 32, "--sessions", 1]
        call("profile-device", *profile, *(["--paths", "K3E6G1"] * (width != 1)), "--records", records)
        call("build-table", records, "--out", table)
    return table


def scaled(channels: int, width: float) -> int:
    """As many channels as 8 groups need."""
    return max(8, round(channels * width / 8) * 8)


def call(command: str, *arguments: object) -> None:
    subprocess.run([Path(sys.executable).parent / command, *map(str, arguments)], check=True, stdout=subprocess.DEVNULL)


def design(
    name: str, proposals: tuple[Block, ...], folder: Path, sites: str, preset: Preset
) -> Callable[[StudyTerms], ConnectionStudy]:
    """The study of that name."""
    lambda_below = preset.connections.lambda_below
    if name == "connections":
        files = dict.fromkeys(make_table(folder, sites, width) for width in WIDTHS)
        widths = [LatencyTable.load(file) for file in files]
        return lambda terms: connections_study(terms, proposals, lambda_below, RANDOM_NETWORKS, widths)
    if name == "lambda":
        return lambda terms: lambda_study(proposals)
    if name == "random-stage2":
        return lambda terms: random_study(proposals, lambda_below, RANDOM_NETWORKS)
    return lambda terms: fbnet_study(proposals, lambda_below)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("study", choices=("connections", "lambda", "random-stage2", "fbnet-candidates"))
    parser.add_argument("--cifar10", required=True, help="folder of the public parquet edition")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--sites", choices=BLOCKS, default="six", help="of the backbone")
    parser.add_argument("--target", type=float, help="of every network, in ms")
    parser.add_argument("--noise-free-latency", action="store_true", help="as of run-search")
    parser.add_argument("--retrain", type=int, default=1, help="trainings of every network")
    parser.add_argument("--out", type=Path, default=Path("runs/connections"))
    arguments = parser.parse_args()
    folder, data, sites = arguments.out, f"cifar10:{arguments.cifar10}", arguments.sites
    target_ms = TARGETS_MS[sites] if arguments.target is None else arguments.target
    folder.mkdir(parents=True, exist_ok=True)
    found = folder / "proposals"
    six = make_table(folder, "six")
    where = ["--table", six, "--data", data, "--seed", PROPOSAL_SEED, "--threads", 1, "--out", found]
    call("run-search", *PROPOSALS.split(), *where)
    proposals = given_proposals(str(found))
    noise_free = arguments.noise_free_latency
    recipe = {**RECIPE, "connections.noise_free_latency": noise_free}
    preset = replace(Preset.load("small").override(recipe), name="two cores")
    table = LatencyTable.load(make_table(folder, sites))
    with display(table.meta.mock) as progress:
        request = StudyRequest(
            table,
            out=folder / f"{arguments.study}-{sites}-{target_ms:g}ms{'-noise-free' * noise_free}",
            seeds=range(arguments.first_seed, arguments.first_seed + arguments.seeds),
            preset=preset,
            data=data,
            retrain=arguments.retrain,
            progress=progress,
        )
        compared = design(arguments.study, proposals, folder, sites, preset)
        result = run_connections_study(compared, request, proposals=proposals, target_ms=target_ms)
    print("\n".join(result.found.lines))
    print(f"{result.directory}/study.csv, study.png; {result.found.trainings} trainings; latencies are a mock's")


if __name__ == "__main__":
    wait_passively()
    main()
