"""Fit the constants of the computed Galaxy S9 (`android_bench/mock.py`).

    python benchmarks/calibrate_mock.py --lut pixel3_fbnet_lut.csv

Two sources, both of the Snapdragon 845. Published latencies of six known networks on a Galaxy S9 give the constants
that only whole networks show. Block latencies of FBNet's search space on a Pixel 3 (HW-NAS-Bench, as kept by
HayeonLee/HELP: one line per block, minus the Skip of its layer) give what small parts show: packing, grouping, copies,
weights. They are of another runtime, which has its own constants for the rest; those are fitted and thrown away.

Fitted are the logarithms of all constants, to relative errors, each with a prior: what the hardware and the software of
that time make likely, and how sure that is. With six networks the priors decide what the data leave open. Printed are
the constants, the error on every row, and the error on every network when it is left out.
"""

from __future__ import annotations

import argparse
import csv
import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import numpy.typing as npt
from scipy.optimize import least_squares

from bpnas.android_bench.mock import Costs
from bpnas.android_bench.operators import Operator, OperatorKind, read_operators
from bpnas.profiler.models.tflite_export import write_tflite
from bpnas.profiler.models.zoo import ZooPart, zoo_network
from bpnas.profiler.models.zoo_graph import zoo_graph

PUBLISHED_MS = {
    "mobilenetv1": 70.9,
    "mobilenetv2": 52.7,
    "mobilenetv2-1.2": 70.6,
    "mobilenetv2-1.4": 91.0,
    "mnasnet-a1": 82.6,
    "fbnet-a": 58.7,
}
"""Galaxy S9, Snapdragon 845, float32, batch 1, 224x224."""

# Standard deviations of relative errors. Which MnasNet was published is a guess, so it weighs less; a block of the
# Pixel 3 weighs little, for there are many and they are of other software.
NETWORK_SPREAD, BLOCK_SPREAD = 0.04, 0.25
SPREADS = {"mnasnet-a1": 0.08}

# The most likely value, and the standard deviation of its logarithm.
PRIORS = {
    "macs_per_ns": (8.0, 0.3),  # of the 22 that one Cortex-A75 core can do at 2.8 GHz
    "packing": (4.0, 0.5),
    "group_ns": (1.5, 0.7),
    "depthwise_ns": (0.8, 0.4),
    "large_kernel": (1.0, 0.12),  # a larger kernel loads less for each multiply-add, but code for 3x3 is better
    "weight_bytes_per_ns": (5.0, 0.4),
    "copy_ns": (2.0, 0.5),
    "gate_ns": (3.0, 1.2),
    "operator_ns": (70_000.0, 0.4),  # dispatch, and the first touch of a cold output
}
# What the runtime on the Pixel 3 has for itself.
PIXEL_PRIORS = {
    "macs_per_ns": (8.0, 0.5),
    "depthwise_ns": (0.8, 0.4),
    "large_kernel": (1.0, 0.15),
    "operator_ns": (10_000.0, 0.8),
}


@dataclass(frozen=True, slots=True)
class Block:
    """One row of the Pixel 3's table: its operators, those of the Skip that was subtracted, and the difference."""

    operators: tuple[Operator, ...]
    skip: tuple[Operator, ...]
    latency_ms: float


@dataclass(frozen=True, slots=True)
class Fit:
    """The constants of both runtimes."""

    s9: Costs
    pixel3: Costs
    logarithms: npt.NDArray[np.float64]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--lut", type=Path, required=True, help="pixel3_fbnet_lut.csv")
    blocks = read_blocks(parser.parse_args().lut)
    networks = {name: network_operators(name) for name in PUBLISHED_MS}
    fit = calibrate(networks, PUBLISHED_MS, blocks)
    for field in fields(Costs):
        print(f"{field.name:20} {getattr(fit.s9, field.name):12.5g}   Pixel 3 {getattr(fit.pixel3, field.name):12.5g}")
    errors = [abs(_block_error(fit.pixel3, block)) for block in blocks]
    print(f"{len(blocks)} distinct blocks on the Pixel 3: mean relative error {statistics.fmean(errors):.1%}")
    left_out = leave_one_out(networks, PUBLISHED_MS, blocks, fit)
    fitted = {name: fit.s9.latency_ns(operators) / 1e6 for name, operators in networks.items()}
    print("Galaxy S9, ms         published   fitted           left out")
    for name, ms in PUBLISHED_MS.items():
        columns = (f"{predicted[name]:8.1f} {predicted[name] / ms - 1:+7.1%}" for predicted in (fitted, left_out))
        print(f"{name:20} {ms:10.1f} {' '.join(columns)}")
    for what, predicted in (("fitted", fitted), ("left out", left_out)):
        errors = [abs(predicted[name] / ms - 1) for name, ms in PUBLISHED_MS.items()]
        print(f"mean absolute relative error, {what}: {statistics.fmean(errors):.1%}")


def network_operators(name: str, input_size: int = 224) -> tuple[Operator, ...]:
    return read_operators(write_tflite(zoo_graph(ZooPart(zoo_network(name), input_size)).graph))


def read_blocks(path: Path) -> list[Block]:
    """The distinct blocks of the table; what does not belong to one block is left out."""
    distinct = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            if row["op"]:
                geometry = tuple(int(row[name]) for name in ("h_in", "c_in", "c_out", "stride"))
                distinct[geometry, row["op"]] = float(row["pixel3_ms_minus_skip"])
    return [_block(*geometry, op, ms) for (geometry, op), ms in distinct.items()]


def _block(size: int, c_in: int, c_out: int, stride: int, op: str, latency_ms: float) -> Block:
    """FBNet's block, with shuffled groups; its Skip is nothing where the shape stays, else a 1x1 convolution."""
    kernel, expansion, *group = (int(text[1:]) for text in op.split("_"))
    groups, inside, out_size = group[0] if group else 1, c_in * expansion, size // stride
    operators = [
        _conv(c_in, inside, 1, groups, size, size),
        *([_plain("move", inside, size)] if groups > 1 else []),
        _conv(inside, inside, kernel, inside, size, out_size),
        _conv(inside, c_out, 1, groups, out_size, out_size),
    ]
    if stride == 1 and c_in == c_out:
        return Block((*operators, _plain("add", c_out, size)), (), latency_ms)
    return Block(tuple(operators), (_conv(c_in, c_out, 1, 1, out_size, out_size),), latency_ms)


def _conv(c_in: int, c_out: int, kernel: int, groups: int, size: int, out_size: int) -> Operator:
    kind: OperatorKind = "depthwise" if groups == c_in else "conv"
    weights = c_out * (c_in // groups) * kernel**2
    in_bytes, out_bytes = 4 * c_in * size**2, 4 * c_out * out_size**2
    return Operator(
        kind, weights * out_size**2, kernel, groups, c_in, c_out, in_bytes, out_bytes, 4 * (weights + c_out)
    )


def _plain(kind: OperatorKind, channels: int, size: int) -> Operator:
    values = channels * size**2
    return Operator(kind, 0, 1, 1, channels, channels, 4 * values, 4 * values, 0)


def _block_error(costs: Costs, block: Block) -> float:
    measured_ms = block.latency_ms + costs.latency_ns(block.skip) / 1e6
    return costs.latency_ns(block.operators) / 1e6 / measured_ms - 1


def calibrate(
    networks: Mapping[str, Iterable[Operator]],
    published_ms: Mapping[str, float],
    blocks: Iterable[Block],
    start: npt.NDArray[np.float64] | None = None,
) -> Fit:
    """The most likely constants, given these rows."""
    priors = [*PRIORS.values(), *PIXEL_PRIORS.values()]
    means = np.log([value for value, _ in priors])
    spreads = np.array([spread for _, spread in priors])
    blocks = list(blocks)

    def costs(logarithms: npt.NDArray[np.float64]) -> tuple[Costs, Costs]:
        values = [float(value) for value in np.exp(logarithms)]
        s9 = dict(zip(PRIORS, values, strict=False))
        return Costs(**s9), Costs(**{**s9, **dict(zip(PIXEL_PRIORS, values[len(PRIORS) :], strict=True))})

    def residuals(logarithms: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
        s9, pixel3 = costs(logarithms)
        of_networks = [
            np.log(s9.latency_ns(networks[name]) / 1e6 / ms) / SPREADS.get(name, NETWORK_SPREAD)
            for name, ms in published_ms.items()
        ]
        of_blocks = [np.log1p(_block_error(pixel3, block)) / BLOCK_SPREAD for block in blocks]
        return np.concatenate([of_networks, of_blocks, (logarithms - means) / spreads])

    found = least_squares(residuals, means if start is None else start)
    if not found.success:
        raise SystemExit(f"no fit: {found.message}")
    return Fit(*costs(found.x), found.x)


def leave_one_out(
    networks: Mapping[str, tuple[Operator, ...]], published_ms: Mapping[str, float], blocks: list[Block], fit: Fit
) -> dict[str, float]:
    """Of every network the latency in ms that a fit to all the others gives it."""
    predicted = {}
    for name in published_ms:
        others = {other: ms for other, ms in published_ms.items() if other != name}
        costs = calibrate(networks, others, blocks, fit.logarithms).s9
        predicted[name] = costs.latency_ns(networks[name]) / 1e6
    return predicted


if __name__ == "__main__":
    main()
