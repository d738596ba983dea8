"""Counts of multiply-adds, weights and activations, against the model files themselves."""

import pytest

from bpnas.profiler import Backbone, Block, ComplexPath, SimplePath, Site
from bpnas.profiler.cost import Cost, block_cost, network_cost, path_cost
from tests.known_truth import known_backbone


def test_a_simple_path_by_hand():
    # 24 * 4 * 9 weights and 24 biases; 8x8 values come out.
    cost = path_cost(SimplePath(3, 4), Site(16, 24, 2, 16))
    assert cost == Cost(macs=24 * 4 * 9 * 64, weights=24 * 4 * 9 + 24, activations=16 * 256 + 24 * 64)
    assert cost.weight_mb == pytest.approx(888 * 4 / 1e6)


def test_a_complex_path_by_hand():
    cost = path_cost(ComplexPath(5, 2, 3), Site(8, 16, 1, 4))
    assert cost.weights == 24 * 4 + 24 + 24 * 25 + 24 + 16 * 12 + 16
    assert cost.macs == 16 * (24 * 4 + 24 * 25 + 16 * 12)
    assert cost.activations == 16 * (8 + 24 + 24 + 24 + 24 + 16)


def test_skip_costs_nothing_and_joins_are_traffic_alone():
    backbone = known_backbone()
    block = Block.parse("K3G1+K3E4G1")
    blocks = [block] * len(backbone.sites)
    site = backbone.sites[0]
    without = network_cost([None, *blocks[1:]], backbone)
    assert without + block_cost(block, site) == network_cost(blocks, backbone)
    paths = path_cost(SimplePath(3, 1), site) + path_cost(ComplexPath(3, 1, 4), site)
    joins = 2 * 3 * site.c_out * site.output_size**2  # of the two paths, and of the residual
    assert block_cost(block, site) == paths + Cost(activations=joins)


@pytest.mark.parametrize("name", ["mobilenetv2", "known"])
@pytest.mark.parametrize("runtime", ["onnxruntime", "tflite"])
def test_networks_cost_what_their_files_say(name, runtime):
    pytest.importorskip("torch")
    from bpnas.android_bench.operators import read_operators
    from bpnas.profiler.campaign.model_files import export_part
    from bpnas.profiler.paths import NetworkPart

    backbone = known_backbone() if name == "known" else Backbone.load(name, 32)
    texts = ("K1G8", "K3G1+K5E3G2", "K7G2+K3E1G1+K1E2G4")
    blocks = [
        None if number % 5 == 4 and site.is_residual else Block.parse(texts[number % 3])
        for number, site in enumerate(backbone.sites)
    ]
    operators = read_operators(export_part(NetworkPart(backbone, tuple(blocks)), runtime))
    cost = network_cost(blocks, backbone)
    assert cost.macs == sum(operator.macs for operator in operators)
    assert 4 * cost.weights == sum(operator.weight_bytes for operator in operators)
    traffic = sum(operator.input_bytes + operator.output_bytes for operator in operators)
    assert cost.activation_mb == pytest.approx(traffic / 1e6)
