"""What the paper's recipe costs on this machine, extrapolated from its first steps.

    python benchmarks/candidate_cost.py --data shared/data/cifar10

`--preset paper` on real CIFAR-10: the default backbone at 32 pixels, batches of 400 out of 45,000 images, one block per
default limit of the shipped mock table, drawn from those that use at least nine tenths of the limit. Each network is
really trained for `--steps` steps, after one that does not count; a step costs the same in any epoch. With
`--processor-time`, and one thread, it can be run beside other work.
"""

from __future__ import annotations

import argparse
import random
import statistics
from dataclasses import replace
from time import perf_counter, process_time

import torch

from bpnas.profiler import Block, build_module
from bpnas.search import BlockSpace, load_data
from bpnas.search.data.batches import pick_device
from bpnas.search.paper_cost import PAPER_GPU_HOURS, candidate_images, estimate_from_candidates
from bpnas.search.presets import Preset
from bpnas.search.proposals.limits import default_limits
from bpnas.search.training.train import train
from bpnas.tables import LatencyTable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="the folder of CIFAR-10's parquet files")
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--processor-time", action="store_true", help="count it, on a machine that has other work")
    parser.add_argument("--precision", default="float32", choices=("float32", "bfloat16"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    clock = process_time if arguments.processor_time else perf_counter
    preset = Preset.load("paper").override({"proposals.train.precision": arguments.precision})
    recipe = preset.proposals.train
    space = BlockSpace(LatencyTable.mock_s9(), input_size=32)
    dataset = load_data(f"cifar10:{arguments.data}")
    print(f"{pick_device()}, {arguments.threads} threads, {arguments.precision}, batch {recipe.batch}; table: mock")
    rates = []
    for limit in default_limits(space, preset.proposals.limit_quantiles):
        block = typical(space, limit)
        model = build_module([block] * len(space.backbone.sites), space.backbone)
        one_epoch = replace(recipe, epochs=1)
        train(model, dataset, dataset.train.first(recipe.batch), one_epoch, seed=0)
        part = dataset.train.first(arguments.steps * recipe.batch)
        start = clock()
        train(model, dataset, part, one_epoch, seed=0)
        rates.append(len(part) / (clock() - start))
        print(
            f"limit {limit:6.4g} ms  {block!s:24} {recipe.batch / rates[-1]:6.2f} s a step, {rates[-1]:5.0f} images/s, "
            f"one candidate of {recipe.epochs} epochs {candidate_images(preset) / rates[-1] / 3600:6.1f} h",
            flush=True,
        )
    cost = estimate_from_candidates(preset, rates)
    mean = statistics.mean(candidate_images(preset) / rate for rate in rates)
    print(f"one candidate, mean over the limits: {mean / 3600:.1f} h")
    trials = preset.proposals.cycles
    for stage, seconds in cost.seconds.items():
        print(
            f"{stage:12} {seconds / 3600:10.0f} h"
            + (f" ({len(rates)} x {trials} trials)" if stage == "proposals" else "")
        )
    hours = cost.total_seconds / 3600
    print(f"whole search {hours:10.0f} h, {hours / PAPER_GPU_HOURS:.1f} times the paper's {PAPER_GPU_HOURS} GPU hours")
    print("(stages 2 and 3 on CIFAR-10, not ImageNet; no duplicate saved a training)")


def typical(space: BlockSpace, limit_ms: float) -> Block:
    """A random block that makes use of its limit, as the blocks of a search do."""
    rng, feasible = random.Random(0), space.feasible(limit_ms)
    for _ in range(1000):
        code = feasible.sample(rng)
        if space.latency(code) >= 0.9 * limit_ms:
            return space.block(code)
    raise SystemExit(f"no block between 0.9 and 1 times {limit_ms} ms was drawn")


if __name__ == "__main__":
    main()
