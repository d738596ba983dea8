"""What a step of the supernet costs: ours and its options, against the plain loop over candidates.

    python benchmarks/supernet_step.py --threads 1 --processor-time

The plain loop is Eq. 2 as it reads: every candidate a module of its own, contiguous NCHW, `p * module(x)` added up. A
weight step draws P, and is forward, cross-entropy, backward and SGD; an alpha step multiplies by L_lat, computes no
gradients of weights, and steps Adam. The backbones are the default one at 32 pixels and `examples/small.toml`; the five
proposals are blocks that use the limits of the preset `paper` on the shipped table, drawn from those that
use at least nine tenths of one.

Each variant has a process of its own, all with the same allocator settings, which run in random order, round by round;
ratios are those of neighbours in time. Memory is what the process's peak (`ru_maxrss`) grew by from before the supernet
was built, and on a GPU the peak of torch's allocator. Images are random: nothing here depends on what is in them.

Then the gradients: of the whole supernet in float64, where nothing but the method could differ, and of each distinct
super block alone in float32. In float32 two orders of the same sums put a pre-activation on the other side of a ReLU
now and then; through 22 sites that grows to percents, in the plain loop beside itself in another memory format, too.
"""

from __future__ import annotations

import argparse
import copy
import multiprocessing
import random
import resource
import statistics
from collections.abc import Callable
from contextlib import nullcontext
from multiprocessing.connection import Connection
from time import perf_counter, process_time

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from bpnas.profiler import Backbone, Block
from bpnas.search import BlockSpace, LatencyLoss, Preset, Supernet
from bpnas.search.connections.latency_loss import SupernetLatency
from bpnas.search.connections.super_block import SuperBlock
from bpnas.search.data.batches import pick_device
from bpnas.search.proposals.limits import default_limits
from bpnas.search.training.malloc import keep_freed_memory
from bpnas.search.training.train import make_sgd
from bpnas.tables import LatencyTable

BACKBONES = {
    "mobilenetv2": lambda: Backbone.load("mobilenetv2", input_size=32),
    "small": lambda: Backbone.load("examples/small.toml", input_size=32),
}
VARIANTS = ("plain", "ours", "checkpoint", "bfloat16", "two paths", "one path", "compile")
TAU = 5.0


def plain(net: Supernet, x: Tensor, gates: list[Tensor]) -> Tensor:
    x = net.stem(x)
    for block, gate in zip(net.sites, gates, strict=True):
        x = plain_block(block, x, gate)
    return net.head(x)


def plain_block(block: SuperBlock, x: Tensor, gates: Tensor) -> Tensor:
    terms = [gate * module(x) for gate, module in zip(gates, block.modules_by_candidate, strict=True)]
    total = terms[0]
    for term in terms[1:]:
        total = total + term
    return total


def serve(variant: str, backbone: str, proposals: list[Block], batch: int, threads: int, cpu: bool, pipe: Connection):
    """Answer "weight", "alpha" and "latency" with the seconds of such a step, and "memory" with the peak in MB."""
    torch.set_num_threads(threads)
    keep_freed_memory()
    device, clock = pick_device(), process_time if cpu else perf_counter
    images, labels = torch.randn(batch, 3, 32, 32, device=device), torch.randint(0, 10, (batch,), device=device)
    chosen = BACKBONES[backbone]()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    torch.manual_seed(0)
    net = Supernet(chosen, proposals, checkpoint_activations=variant == "checkpoint").to(device)
    if variant != "plain":
        net.to(memory_format=torch.channels_last)
    if variant == "compile":
        for block in net.sites:
            block.compile(dynamic=False)
    forward = plain if variant == "plain" else Supernet.__call__
    paths = {"one path": 1, "two paths": 2}.get(variant)
    rows = [np.linspace(0, 1, len(options)) for options in net.candidates]  # any, since only their number matters
    latency_loss = LatencyLoss(30.0, 0.01, SupernetLatency(rows))
    generator = torch.Generator().manual_seed(0)
    weights = make_sgd(net.weights, Preset.load("paper").connections.train)
    alphas = torch.optim.Adam(net.alphas, 0.02, weight_decay=5e-4)

    def step(kind: str) -> float:
        if kind == "latency":
            probabilities = [p.detach().requires_grad_() for p in net.draw(TAU, generator)]
            start = clock()
            latency_loss(probabilities).backward()
            return clock() - start
        optimizer = weights if kind == "weight" else alphas
        for weight in net.weights:
            weight.requires_grad_(kind == "weight")
        start = clock()
        optimizer.zero_grad(set_to_none=True)
        with torch.set_grad_enabled(kind == "alpha"):
            gates, probabilities = net.draw_sampled(TAU, generator, paths)
        with torch.autocast(device.type, torch.bfloat16) if variant == "bfloat16" else nullcontext():
            loss = F.cross_entropy(forward(net, images, gates), labels)
        if kind == "alpha":
            loss = loss * latency_loss(probabilities)
        loss.backward()
        optimizer.step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    start = perf_counter()
    step("weight"), step("alpha")
    pipe.send(perf_counter() - start)
    while (kind := pipe.recv()) is not None:
        if kind == "memory":
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
            pipe.send(torch.cuda.max_memory_allocated() / 1e6 if device.type == "cuda" else peak / 1024)
        else:
            pipe.send(step(kind))


def measure(backbone: str, proposals: list[Block], arguments: argparse.Namespace) -> None:
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Connection] = {}
    for variant in arguments.variants:
        pipes[variant], theirs = context.Pipe()
        given = (variant, backbone, proposals, arguments.batch, arguments.threads, arguments.processor_time, theirs)
        context.Process(target=serve, args=given, daemon=variant != "compile").start()
        theirs.close()
        first = pipes[variant].recv()
        if variant == "compile":
            print(f"{backbone}: the first two steps of compile took {first:.0f} s", flush=True)

    def ask(variant: str, kind: str) -> float:
        pipes[variant].send(kind)
        return float(pipes[variant].recv())

    seconds: dict[tuple[str, str], list[float]] = {}
    for number in range(arguments.rounds):
        for kind in ("weight", "alpha"):
            order = list(arguments.variants)
            random.Random(f"{number} {kind}").shuffle(order)
            for variant in order:
                seconds.setdefault((variant, kind), []).append(ask(variant, kind))
    for variant in arguments.variants:
        parts = []
        for kind in ("weight", "alpha"):
            own, reference = seconds[variant, kind], seconds[arguments.variants[0], kind]
            ratios = [r / o for r, o in zip(reference, own, strict=True)]
            spread = f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
            parts.append(f"{kind} {statistics.median(own) * 1e3:7.1f} ms, {spread:21}")
        print(f"{backbone:12} {variant:10} {'  '.join(parts)} {ask(variant, 'memory'):7.0f} MB", flush=True)
    latency = statistics.median(ask("ours", "latency") for _ in range(50))
    share = latency / statistics.median(seconds["ours", "alpha"])
    print(f"{backbone:12} LatencyLoss, both ways: {latency * 1e3:.3f} ms, {share:.2%} of an alpha step", flush=True)
    for pipe in pipes.values():
        pipe.send(None)


def gradients(net: nn.Module, forward: Callable[..., Tensor], x: Tensor, gates: list[Tensor], dtype: torch.dtype):
    """Of all parameters, gates and the input, in float64."""
    net, x = copy.deepcopy(net).to(dtype), x.detach().clone().to(dtype).requires_grad_()
    gates = [gate.clone().to(dtype).requires_grad_() for gate in gates]
    output = forward(net, x, gates)
    output.backward(torch.randn(output.shape, generator=torch.Generator().manual_seed(1)).to(dtype))
    found = {name: p.grad for name, p in net.named_parameters() if p.grad is not None}
    # The part of a gate's gradient that all share is lost in the softmax.
    found |= {f"P {i}": gate.grad - gate.grad.mean() for i, gate in enumerate(gates)} | {"x": x.grad}
    return {name: gradient.double() for name, gradient in found.items()}


def differences(found: dict[str, Tensor], expected: dict[str, Tensor]) -> list[float]:
    """Per tensor, the greatest difference, relative to its greatest value, or 1 % of that of all if that is more."""
    floor = 0.01 * max(float(value.abs().max()) for value in expected.values())
    pairs = [(found[name] - value, value) for name, value in expected.items()]
    return sorted(float(d.abs().max()) / max(float(value.abs().max()), floor) for d, value in pairs)


def compare_gradients(backbone: str, proposals: list[Block]) -> None:
    torch.manual_seed(0)
    net = Supernet(BACKBONES[backbone](), proposals)
    for module in net.modules():
        # As after some training: at the start the gradient of many a weight is 0 but for rounding.
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.5)
    gates = [p.detach() for p in net.draw(TAU, torch.Generator().manual_seed(0))]
    x = torch.randn(4, 3, 32, 32)
    double = [gradients(net, f, x, gates, torch.float64) for f in (Supernet.__call__, plain)]
    print(f"{backbone:12} float64, whole supernet: greatest difference {differences(*double)[-1]:.1e}", flush=True)
    ours, theirs = [], []
    distinct = dict(zip(BACKBONES[backbone]().sites, zip(net.sites, gates, strict=True), strict=True))
    for site, (block, gate) in distinct.items():
        x = torch.randn(4, site.c_in, site.input_size, site.input_size)

        def fast(b: SuperBlock, x: Tensor, gates: list[Tensor]) -> Tensor:
            return b(x.contiguous(memory_format=torch.channels_last), gates[0])

        def loop(b: SuperBlock, x: Tensor, gates: list[Tensor]) -> Tensor:
            return plain_block(b, x, gates[0])

        def loop_last(b: SuperBlock, x: Tensor, gates: list[Tensor]) -> Tensor:
            return plain_block(b, x.contiguous(memory_format=torch.channels_last), gates[0])

        single = gradients(block, loop, x, [gate], torch.float32)
        ours += differences(gradients(block, fast, x, [gate], torch.float32), single)
        theirs += differences(gradients(block, loop_last, x, [gate], torch.float32), single)
    for name, values in (("ours", sorted(ours)), ("the loop, channels last,", sorted(theirs))):
        near = sum(value <= 1e-4 for value in values) / len(values)
        print(
            f"{backbone:12} float32, single super blocks: {name} and the loop, contiguous: median "
            f"{statistics.median(values):.1e}, greatest {values[-1]:.1e}, {near:.2%} of tensors within 1e-4",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, default=list(BACKBONES))
    parser.add_argument(
        "--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS[:-1]), help="plain comes first"
    )
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--processor-time", action="store_true", help="count it, on a machine that has other work")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    space = BlockSpace(LatencyTable.mock_s9(), input_size=32)
    limits = default_limits(space).limits_ms
    proposals = [typical(space, limit) for limit in limits]
    print(f"{pick_device()}, {arguments.threads} threads, batch {arguments.batch}; {', '.join(map(str, proposals))}")
    print(
        f"medians by {'processor' if arguments.processor_time else 'elapsed'} time; ratios to {arguments.variants[0]}"
    )
    for backbone in arguments.backbones:
        measure(backbone, proposals, arguments)
    # Afterwards, for a process begins with the peak of the one that started it.
    for backbone in arguments.backbones:
        compare_gradients(backbone, proposals)


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
