"""What `run-search` says of a plan and of a result, for machines and for people."""

from __future__ import annotations

import shlex
import textwrap
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpnas.base.columns import cut_inside
from bpnas.search.data.evaluation_images import on_images
from bpnas.tables.heads import head_text

if TYPE_CHECKING:
    from bpnas.search.connections.run import NetworkResult
    from bpnas.search.plan_cost import StageCost
    from bpnas.search.run import SearchResult
    from bpnas.search.search_plan import SearchPlan


def plan_values(plan: SearchPlan, costs: Sequence[StageCost]) -> dict[str, Any]:
    """A plan for machines."""
    meta = plan.table.meta
    return {
        "mock": meta.mock,
        "device": meta.device_name,
        "runtime": meta.runtime,
        "additivity": plan.table.additivity,
        "preset": plan.request.preset.name,
        "stage": plan.request.stage,
        "classes": plan.backbone.classes,
        "deploy_classes": plan.deploy_classes,
        "interpolated_heads": list(plan.head_notes),
        "proposals": [str(block) for block in plan.request.proposals],
        "limits_ms": list(plan.limits_ms),
        "limits_from": plan.limits_from,
        "targets_ms": list(plan.targets_ms),
        "forced_skips": [plan.forced_skips(target_ms) for target_ms in plan.targets_ms],
        "skippable_sites": plan.skippable_sites,
        "stages": [asdict(cost) for cost in costs],
        "cost_hours": sum(cost.cost_hours for cost in costs),
    }


def plan_text(plan: SearchPlan, costs: Sequence[StageCost], width: int | None = None) -> str:
    """The same for people; `width` of the terminal, in characters, which its table does not exceed."""
    meta = plan.table.meta
    origin = _origin(meta.mock, meta.imported is not None)
    lines = [
        f"Device: {meta.device_name}, {meta.runtime}{origin}; networks are predicted by {plan.table.additivity!r}",
        head_line(plan),
        f"Limits of the block proposals: {_all_ms(plan.limits_ms) or 'none, the blocks are given'}",
    ]
    if plan.limits_from:
        lines += textwrap.wrap(plan.limits_from, 98, initial_indent="  ", subsequent_indent="  ")
    if plan.request.stage != "proposals":
        if plan.target_ms is None:
            lines.append("Target of the network: the latency of the middle proposal, known only when that is found")
        for target_ms in plan.targets_ms:
            skips = f"{plan.forced_skips(target_ms)} of {plan.skippable_sites}"
            lines.append(f"Target {target_ms:.4g} ms: {skips} skippable sites must be Skip")
    lines.append(f"{'stage':12} {'images':>9} {'epochs':>6} {'trainings':>9} {'time here':>11}  of")
    for cost in costs:
        counts = f"{cost.images:9,} {cost.epochs:6} {cost.trainings:9,}"
        time = f"{_duration(cost.cost_hours * 3600):>11}"
        row, of = f"{cost.stage:12} {counts} {time}  ", f"{cost.data} at {cost.input_size} px"
        if width is not None and len(row) + len(of) > width:
            lines += [row.rstrip(), f"  {cut_inside(of, max(width - 2, 0))}"]
        else:
            lines.append(row + of)
    lines.append(f"{'all':39} {_duration(sum(cost.cost_hours for cost in costs) * 3600):>11}")
    lines.append("Times are extrapolated from a few steps of training on this machine.")
    lines.append("Nothing was written.")
    return "\n".join(lines)


def head_line(plan: SearchPlan) -> str:
    """With which heads the latencies of a plan, and of what comes of it, are."""
    return f"{plan.heads[0].upper()}{plan.heads[1:]}"


def _origin(mock: bool, imported: bool) -> str:
    """Behind latencies that were not measured here."""
    return " (mock: computed, not measured)" if mock else " (imported, not measured here)" if imported else ""


def _all_ms(values: Sequence[float]) -> str:
    return f"{', '.join(f'{value:.4g}' for value in values)} ms" if values else ""


def result_values(result: SearchResult) -> dict[str, Any]:
    """A search's result for machines."""
    from bpnas.search.spent import cost_values

    network = result.network
    return {
        "out": str(result.directory),
        "mock": result.mock,
        "device": result.device,
        "runtime": result.runtime,
        "additivity": result.additivity,
        "proposals": [proposal.values() for proposal in result.proposals],
        "network": None if network is None else _network_as_dict(network),
        "networks": [_network_as_dict(each) for each in result.networks],
        "cost": cost_values(result.cost),
    }


def _network_as_dict(network: NetworkResult) -> dict[str, Any]:
    from bpnas.search.networks.network_file import limit_facts

    return {
        "blocks": ["skip" if block is None else str(block) for block in network.blocks],
        "classes": network.backbone.classes,
        "predicted_latency_ms": network.predicted_latency_ms,
        "deploy_classes": network.deploy_classes,
        "deployed_latency_ms": network.deployed_latency_ms,
        "target_ms": network.target_ms,
        "accuracy": network.accuracy,
        "accuracy_on": None if network.accuracy_on is None else asdict(network.accuracy_on),
        **limit_facts(network.limited_ms, network.target_ms),
        "argmax_latency_ms": network.argmax_latency_ms,
    }


def result_text(result: SearchResult, imported: bool, following: Sequence[str], heads: str) -> str:
    """The same for people; `following` are lines on what comes next, `heads` what `head_line` says."""
    from bpnas.search.spent import cost_lines

    mock = _origin(result.mock, imported)
    lines = [
        f"Device: {result.device}, {result.runtime}{mock}; networks are predicted by {result.additivity!r}",
        heads,
        "Block proposals:",
    ]
    for p in result.proposals:
        found = "given"
        if p.limit_ms:
            found = f"limit {p.limit_ms:g} ms, {p.latency_ms:.4g} ms, accuracy {p.score:.3f} {on_images(p.score_on)}"
            if p.runner_up_to is not None:
                found += f"\n    (the best is {p.runner_up_to}, proposed above: this is the next one)"
        lines.append(f"  {p.block}  {found}")
    network = result.network
    if network is None:
        lines.append(f"Files: {result.directory}/proposals.json")
    else:
        lines.append(
            f"Network: {_latency_text(network, mock)}, target {network.target_ms:g} ms, "
            f"accuracy {network.accuracy * 100:.1f}% {on_images(network.accuracy_on)}"
        )
        lines += [f"  site {n:2d}  {'skip' if block is None else block}" for n, block in enumerate(network.blocks)]
        lines.append(f"Files: {result.directory}/network.json, network.onnx, network.tflite")
        lines += [
            f"Further network: {_latency_text(each, mock)}, target {each.target_ms:g} ms, "
            f"accuracy {each.accuracy * 100:.1f}% {on_images(each.accuracy_on)}; files: {network_folder(result, each)}"
            for each in result.networks
            if each != network
        ]
    lines += cost_lines(result.cost)
    return "\n".join([*lines, *following])


def _latency_text(network: NetworkResult, mock: str) -> str:
    """The latency that its limit is for, and with which head that is."""
    own = head_text(network.backbone.classes)
    if network.deploy_classes is None:
        return f"{network.predicted_latency_ms:.4g} ms by table{mock} {own}"
    deployed = f"{network.limited_ms:.4g} ms by table{mock} {head_text(network.deploy_classes)}, which will be deployed"
    return f"{deployed} ({network.predicted_latency_ms:.4g} ms {own}, as it is now)"


def following_lines(
    table: str,
    result: SearchResult,
    again: Sequence[str],
    data: Sequence[str],
    sizes: Sequence[int],
    recipe: Sequence[str] = (),
) -> list[str]:
    """Commands that can be typed next.

    Args:
        table: its file.
        again: the words of the same command without its stage.
        data: those that name the images of the second stage.
        sizes: input sizes of the table.
        recipe: the words about the training of the network.
    """
    if result.network is None:
        return [f"Next: {shlex.join([*again, '--stage', 'connections'])}"]
    out = str(result.directory)
    study = ["run-search", "study", "connections", "--table", table, "--proposals", out, *data]
    lines, timed = [], out
    if result.network.deploy_classes is not None:
        classes = result.network.deploy_classes
        kind, _, place = data[1].partition(":")
        images = f"imagenet:{place}" if kind.startswith("imagenet100") and classes == 1000 else "folder:IMAGES"
        retrain = shlex.join(["run-search", "retrain", out, "--data", images, *recipe])
        whose = ", from a folder of yours for IMAGES" * images.endswith("IMAGES")
        lines.append(f"Next, train it with the {classes:,} classes that it will be deployed with{whose}: {retrain}")
        timed = f"{out}-retrained"
    lines += [
        f"{'Then' if lines else 'Next'}, time it on the device: {shlex.join(['run-search', 'measure', timed])}",
        f"or hold it against simpler networks: {shlex.join(study)}",
    ]
    if {32, 224} <= set(sizes):
        paper = shlex.join(["run-search", "--table", table, "--preset", "paper"])
        deployed = "--deploy-classes 1000 --target 55"
        lines += [
            "The paper's flow, with folders of yours for CIFAR10 and IMAGENET (T = 55 ms is for its Galaxy S9):",
            f"  {paper} --data cifar10:CIFAR10 --connections-data imagenet100:IMAGENET {deployed} --out runs/paper",
            "  run-search retrain runs/paper --data imagenet:IMAGENET --preset paper",
            "  run-search measure runs/paper-retrained",
        ]
    return lines


def _duration(seconds: float) -> str:
    for unit, length in (("years", 365.25 * 86400), ("days", 86400.0), ("hours", 3600.0), ("minutes", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} seconds"


def network_folder(result: SearchResult, network: NetworkResult) -> Path:
    """The directory of a network's files."""
    from bpnas.search.run_directory import limit_name

    return (
        result.directory if network == result.network else result.directory / "networks" / limit_name(network.target_ms)
    )
