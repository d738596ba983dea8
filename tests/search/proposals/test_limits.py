"""Latency limits where none are given: around the targets, or in units of MobileNetV2's block stacked."""

import itertools

import pytest

pytest.importorskip("torch")

from bpnas.profiler import Block
from bpnas.search.presets import PRESETS
from bpnas.search.proposals.limits import SHARES, default_limits, reference_block
from bpnas.search.proposals.space import BlockSpace
from bpnas.search.search_plan import SearchRequest, plan_search
from bpnas.tables import LatencyTable
from tests.search_helpers import FormulaTable

FEW = "K1G1,K3G1,K3G4,K3E1G1,K3E3G2,K5E2G1"


@pytest.fixture(scope="module")
def imagenet(tmp_path_factory):
    """The folders of its classes."""
    root = tmp_path_factory.mktemp("imagenet")
    for number in range(1000):
        (root / f"train/n{number:04d}").mkdir(parents=True)
    (root / "val").mkdir()
    return f"imagenet:{root}"


@pytest.fixture(scope="module")
def shipped():
    return LatencyTable.mock_s9()


def stacked(table, text, size):
    backbone = table.backbone(size)
    return table.network([Block.parse(text)] * len(backbone.sites), size, backbone.classes)


@pytest.mark.parametrize("size", [32, 224])
def test_limits_are_shares_of_the_stacked_block_of_mobilenetv2(shipped, size):
    unit_ms = stacked(shipped, "K3E6G1", size)
    found = default_limits(BlockSpace(shipped, size))
    assert list(found.limits_ms) == pytest.approx([share * unit_ms for share in SHARES], rel=0.01)
    assert f"{unit_ms:.4g} ms of K3E6G1 at every site" in found.text


@pytest.mark.parametrize("targets", [(9.0,), (12.0, 16.0, 20.0), (15.6,), (40.0,)])
def test_limits_bracket_the_targets(shipped, targets):
    found = default_limits(BlockSpace(shipped, 32), targets)
    assert found.limits_ms[0] < min(targets) and max(targets) < found.limits_ms[-1]
    assert len(found.limits_ms) == 5 and "times the target" in found.text


@pytest.mark.parametrize("targets", [(), (0.001,), (0.05,), (0.3,), (1e6,), (0.05, 50.0)])
@pytest.mark.parametrize("paths", [None, FEW, "K1G1", "K1G1,K3G1", "K7E16G1", "K1E1G8,K1G8", "K3E6G1,K7E16G1"])
def test_each_limit_admits_a_candidate_of_its_own(paths, targets):
    space = BlockSpace(FormulaTable.tiny(paths))
    found = default_limits(space, targets)
    admitted = [space.feasible(limit).size for limit in found.limits_ms]
    assert admitted[0] >= 1 and all(low < high for low, high in itertools.pairwise(admitted))
    assert all(low < high for low, high in itertools.pairwise(found.limits_ms))
    if space.size >= 50:
        assert all(size >= 10 * number for number, size in enumerate(admitted, start=1))
    if targets == (0.001,):
        assert "raised" in found.text


def test_a_table_without_that_block_has_one_like_it():
    backbone = FormulaTable.tiny().backbone()
    for paths, text in ((FEW, "K5E2G1"), ("K1G1", "K1G1"), ("K3E5G1,K3E16G1,K1G8", "K3E5G1")):
        assert str(reference_block(FormulaTable.tiny(paths).paths(), backbone)) == text


@pytest.mark.parametrize("preset", PRESETS.values(), ids=list(PRESETS))
@pytest.mark.parametrize("size", [32, 224])
@pytest.mark.parametrize("targets", [(), (0.54,), (0.5, 0.85, 1.3)])
def test_targets_leave_all_sites_to_blocks_in_every_preset(shipped, preset, size, targets, imagenet):
    """BP-NAS's T = 55 ms is 0.54 of the stacked K3E6G1 at 224 pixels; there were to be 8 to 15 Skips of 15."""
    unit_ms = stacked(shipped, "K3E6G1", size)
    data = "digits" if size == 32 else imagenet
    wanted = tuple(share * unit_ms for share in targets)
    plan = plan_search(SearchRequest(preset=preset, data=data, input_size=size, targets_ms=wanted), shipped)
    assert plan.targets_ms and set(wanted) <= set(plan.targets_ms)
    for target_ms in plan.targets_ms:
        assert plan.forced_skips(target_ms) <= plan.skippable_sites // 3
    assert plan.limits_ms[0] < plan.targets_ms[0] and plan.targets_ms[-1] < plan.limits_ms[-1]


def test_a_target_at_another_size_is_translated(shipped, imagenet):
    request = SearchRequest(connections_data=imagenet, connections_input_size=224, target_ms=55.0)
    plan = plan_search(request, shipped)
    here_ms = 55.0 * stacked(shipped, "K3E6G1", 32) / stacked(shipped, "K3E6G1", 224)
    assert plan.limits_ms[0] < here_ms < plan.limits_ms[-1] < 15
    assert "55 ms at 224 px" in plan.limits_from and f"target of {here_ms:.4g} ms" in plan.limits_from
    assert plan.forced_skips(55.0) <= plan.skippable_sites // 3
