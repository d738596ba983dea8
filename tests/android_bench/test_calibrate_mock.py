"""The program that fits the computed phone's constants."""

from __future__ import annotations

import dataclasses
import runpy
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from bpnas.android_bench.mock import PROFILES
from tests.root import ROOT

COSTS = PROFILES["s9"].costs


@pytest.fixture(scope="module")
def program() -> SimpleNamespace:
    path = ROOT / "benchmarks/calibrate_mock.py"
    return SimpleNamespace(**runpy.run_path(str(path), run_name="calibrate_mock"))


@pytest.fixture(scope="module")
def networks(program):
    return {name: program.network_operators(name) for name in program.PUBLISHED_MS}


@pytest.fixture(scope="module")
def blocks(program, shared_data: Path):
    return program.read_blocks(shared_data / "pixel3_fbnet_lut.csv")


@pytest.fixture(scope="module")
def fit(program, networks, blocks):
    return program.calibrate(networks, program.PUBLISHED_MS, blocks)


def test_the_tables_distinct_blocks_are_read(blocks) -> None:
    assert len(blocks) == 12 * 8
    first = blocks[0]  # 16 channels at 32x32, 3x3, expansion 1; Skip is nothing there
    assert first.latency_ms == 0.239281
    assert first.skip == ()
    assert [operator.kind for operator in first.operators] == ["conv", "depthwise", "conv", "add"]
    assert [operator.macs for operator in first.operators] == [2**18, 9 * 2**14, 2**18, 0]
    strided = next(block for block in blocks if len(block.skip) == 1 and block.operators[0].c_out == 24 * 6)
    assert strided.skip[0].macs * 2 == strided.operators[-1].macs * 2 * 24 / 144
    assert sum(any(o.kind == "move" for o in block.operators) for block in blocks) == 12 * 2


def test_the_constants_in_the_code_are_the_fitted_ones(fit) -> None:
    for field in dataclasses.fields(COSTS):
        assert getattr(COSTS, field.name) == pytest.approx(getattr(fit.s9, field.name), rel=0.01), field.name


def test_constants_are_found_again_from_what_they_give(program, networks, blocks) -> None:
    """Latencies computed from other constants lead there, as far as the priors let them."""
    true = dataclasses.replace(COSTS, macs_per_ns=9.0, depthwise_ns=1.3, gate_ns=8.0)
    published_ms = {name: true.latency_ns(operators) / 1e6 for name, operators in networks.items()}
    found = program.calibrate(networks, published_ms, blocks).s9
    for name, operators in networks.items():
        assert found.latency_ns(operators) / 1e6 == pytest.approx(published_ms[name], rel=0.05)
    assert found.macs_per_ns == pytest.approx(9.0, rel=0.12)
    assert found.depthwise_ns == pytest.approx(1.3, rel=0.2)
    assert found.gate_ns < 10


def test_what_is_left_out_has_no_part_in_its_prediction(program, networks, blocks, fit) -> None:
    few = {"mobilenetv1": 70.9, "mobilenetv2": 52.7}
    predicted = program.leave_one_out(networks, few, blocks, fit)
    other = program.leave_one_out(networks, {**few, "mobilenetv1": 200.0}, blocks, fit)
    assert other["mobilenetv1"] == pytest.approx(predicted["mobilenetv1"])
    assert other["mobilenetv2"] > 1.2 * predicted["mobilenetv2"]


def test_errors_are_those_that_the_documentation_tells(program, networks, blocks, fit) -> None:
    left_out = program.leave_one_out(networks, program.PUBLISHED_MS, blocks, fit)
    errors = {name: left_out[name] / ms - 1 for name, ms in program.PUBLISHED_MS.items()}
    assert np.mean(np.abs(list(errors.values()))) == pytest.approx(0.086, abs=0.003)
    text = (ROOT / "docs/mock.md").read_text(encoding="utf-8")
    for name, error in errors.items():
        assert f"| {name} |" in text and f"{error:+.1%}".replace("%", " %") in text, (name, error)
