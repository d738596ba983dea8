import pytest

torch = pytest.importorskip("torch")

from bpnas.android_bench.errors import UsageError
from bpnas.profiler import Block
from bpnas.search import LatencyLoss, expected_latency
from bpnas.search.connect import candidate_latencies
from bpnas.search.presets import Preset
from bpnas.search.supernet import site_candidates
from tests.search_helpers import FormulaTable

PROPOSALS = tuple(map(Block.parse, ("K3G1", "K1G1+K3E6G2", "K5E3G1+K3E1G8")))


@pytest.mark.parametrize(("latency", "factor"), [(60.5, 1.1), (49.5, 0.999), (55.0, 1.0), (110.0, 2.0), (0.0, 0.99)])
def test_check_values(latency, factor):
    loss = LatencyLoss(target_ms=55)
    assert float(loss(latency)) == pytest.approx(factor, abs=1e-12)
    assert float(loss(torch.tensor(latency))) == pytest.approx(factor, abs=1e-6)


@pytest.mark.parametrize("lambda_below", [0, 0.001, 0.01, 0.05, 0.5, 1])
def test_slopes(lambda_below):
    latency = torch.tensor([40.0, 55.0, 70.0], dtype=torch.float64, requires_grad=True)
    LatencyLoss(55, lambda_below)(latency).sum().backward()
    assert latency.grad.tolist() == pytest.approx([lambda_below / 55, 1 / 55, 1 / 55])


@pytest.mark.parametrize("arguments", [(0,), (-1,), (float("nan"),), (float("inf"),), (55, -0.1), (55, 2)])
def test_senseless_targets_are_refused(arguments):
    with pytest.raises(UsageError):
        LatencyLoss(*arguments)


def test_expected_latency_at_one_hot_is_the_tables_latency():
    table = FormulaTable.tiny()
    backbone = table.backbone()
    rows = [torch.from_numpy(row) for row in candidate_latencies(table, backbone, PROPOSALS)]
    candidates = [site_candidates(PROPOSALS, site) for site in backbone.sites]
    for pick in range(4):
        choices = [min(pick, len(row) - 1) for row in rows]
        one_hot = [torch.eye(len(row), dtype=torch.float64)[c] for row, c in zip(rows, choices, strict=True)]
        blocks = [options[c] for options, c in zip(candidates, choices, strict=True)]
        assert float(expected_latency(one_hot, rows, table.fixed())) == pytest.approx(table.network(blocks), rel=1e-14)
    assert any(options[-1] is None for options in candidates)


def test_gradient_of_the_whole_factor_against_finite_differences():
    rows = [torch.tensor([1.0, 2.0, 4.0], dtype=torch.float64), torch.tensor([3.0, 0.5], dtype=torch.float64)]

    def factor(first, second):
        return LatencyLoss(3.0, 0.01)(expected_latency([first.softmax(0), second.softmax(0)], rows, 0.25))

    for seed in range(3):
        generator = torch.Generator().manual_seed(seed)
        alphas = [torch.randn(n, generator=generator, dtype=torch.float64, requires_grad=True) for n in (3, 2)]
        assert torch.autograd.gradcheck(factor, alphas)


@pytest.mark.parametrize(("epoch", "tau"), [(0, 5.0), (1, 4.780), (10, 3.188), (60, 0.3360), (119, 0.02362)])
def test_temperatures_of_the_paper(epoch, tau):
    assert Preset.load("paper").connections.tau(epoch) == pytest.approx(tau, rel=2e-4)
