"""The search with each of the models that a table may predict with, against enumeration."""

import random
from itertools import product

import numpy as np
import pytest

from bpnas.profiler import Block
from bpnas.search import BlockSpace
from bpnas.search.connections.derive import most_probable_blocks
from bpnas.tables import LatencyTable, build_table
from bpnas.tables.additivity.model_record import MODEL_NAMES
from tests.known_truth import Truth, known_plan, known_records

PATHS = "K1G1,K3G1,K3G8,K3E1G1,K7E4G1,K3E4G8"
TRUTH = Truth(path=1.06, kernel_7=1.2, join=0.5, constant_ms=0.07, noise=0.004)
PROPOSALS = tuple(map(Block.parse, ("K3G1", "K1G1+K3E1G1+K7E4G1", "K3E4G8", "K3G8+K3E4G8")))


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> LatencyTable:
    plan = known_plan(networks=25, context=True, paths=PATHS)
    built = build_table([known_records(tmp_path_factory.mktemp("known") / "r.sqlite", TRUTH, plan)])
    return LatencyTable(built.table, built.meta)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_every_block_has_the_latency_that_the_table_predicts(table, name):
    model = table.with_additivity(name)
    space = BlockSpace(model)
    stacked = [model.network([space.at(index)] * 6) for index in range(space.size)]
    assert space.size == 39  # 4 * 10 - 1
    assert space.latencies() == pytest.approx(stacked, rel=1e-12)
    rng = random.Random(0)
    for index, ms in enumerate(space.latencies()):
        assert space.latency(space.code_of(space.at(index), rng)) == ms
    limit = float(np.median(stacked)) * (1 + 1e-9)  # not the last bit of one of them
    expected = {space.at(index) for index, ms in enumerate(stacked) if ms <= limit}
    assert set(space.feasible(limit).blocks()) == expected


def test_the_models_differ_here(table):
    """Else none of this could fail for a model that was mistaken for another."""
    spaces = {name: BlockSpace(table.with_additivity(name)) for name in MODEL_NAMES}
    assert len({round(float(space.latencies().mean()), 3) for space in spaces.values()}) == 4
    assert spaces["sum"].feasible(2.4).size > spaces["corrected"].feasible(2.4).size > 0


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("share", [0.05, 0.4, 0.9])
def test_the_network_that_is_derived_is_the_one_that_enumeration_finds(table, name, share):
    model = table.with_additivity(name)
    rng = np.random.default_rng(int(100 * share))
    candidates = [(*PROPOSALS, None) if site.is_residual else PROPOSALS for site in model.backbone().sites]
    rows = [
        np.array([0.0 if block is None else model.block(block, site) for block in options])
        for options, site in zip(candidates, model.backbone().sites, strict=True)
    ]
    log_p = [np.log(rng.dirichlet(np.ones(len(options)))) for options in candidates]
    everything = list(product(*[range(len(row)) for row in rows]))
    latencies = model.fixed() + sum(
        row[list(picks)] for row, picks in zip(rows, zip(*everything, strict=True), strict=True)
    )
    values = sum(row[list(picks)] for row, picks in zip(log_p, zip(*everything, strict=True), strict=True))
    limit = float(np.quantile(latencies, share))
    found = most_probable_blocks(log_p, rows, limit, model.fixed())
    assert found.log_probability == pytest.approx(values[latencies <= limit].max(), abs=1e-9)
    blocks = [options[choice] for options, choice in zip(candidates, found.choices, strict=True)]
    assert found.latency_ms == pytest.approx(model.network(blocks), rel=1e-12) and found.latency_ms <= limit


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_the_differentiable_latency_is_that_of_the_model(table, name):
    torch = pytest.importorskip("torch")
    from bpnas.search import LatencyLoss, SupernetLatency, expected_latency
    from bpnas.search.connections.connect import candidate_latencies
    from bpnas.search.connections.supernet import site_candidates

    model = table.with_additivity(name)
    backbone = model.backbone()
    rows = [torch.from_numpy(row) for row in candidate_latencies(model, backbone, PROPOSALS)]
    candidates = [site_candidates(PROPOSALS, site) for site in backbone.sites]
    one_hot = [torch.eye(len(row), dtype=torch.float64)[number % len(row)] for number, row in enumerate(rows)]
    blocks = [options[number % len(options)] for number, options in enumerate(candidates)]
    assert float(expected_latency(one_hot, rows, model.fixed())) == pytest.approx(model.network(blocks), rel=1e-12)
    latency = SupernetLatency.of_table(model, backbone, PROPOSALS)
    assert float(latency(one_hot)) == pytest.approx(model.network(blocks), rel=1e-12)

    alphas = [torch.linspace(0, 1, len(row), dtype=torch.float64, requires_grad=True) for row in rows]
    probabilities = [alpha.softmax(0) for alpha in alphas]
    target = 0.5 * float(expected_latency(probabilities, rows, model.fixed()).detach())
    LatencyLoss(target, latency=latency)(probabilities).backward()
    for alpha, p, row, site in zip(alphas, probabilities, rows, backbone.sites, strict=True):
        effective = [0.0 if b is None else model.block(b, site) for b in site_candidates(PROPOSALS, site)]
        effective = torch.tensor(effective, dtype=torch.float64)
        p = p.detach()
        expected = p * (effective - (p * effective).sum()) / target  # of softmax, and lambda / T above the target
        assert alpha.grad.tolist() == pytest.approx(expected.tolist(), rel=1e-6)
        assert row.tolist() == pytest.approx(effective.tolist(), rel=1e-6)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_target_that_nothing_meets_is_refused_with_the_smallest_that_something_does(table, name, tmp_path):
    pytest.importorskip("torch")
    from bpnas.search import InfeasibleLimitError, run_search

    model = table.with_additivity(name)
    space = BlockSpace(model)
    blocks = [space.at(index) for index in range(space.size)]
    needed = [min(model.block(b, site) for b in blocks) for site in model.backbone().sites if not site.is_residual]
    with pytest.raises(InfeasibleLimitError) as caught:
        run_search(model, out=tmp_path / "run", constraints=(1e3,), target_ms=0.1)
    assert caught.value.smallest_ms == pytest.approx(model.fixed() + sum(needed))
