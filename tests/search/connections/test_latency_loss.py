import pytest

torch = pytest.importorskip("torch")

from bpnas.base.errors import UsageError
from bpnas.profiler import Block
from bpnas.search import LatencyLoss, SearchError, SupernetLatency, expected_latency
from bpnas.search.connections.connect import candidate_latencies
from bpnas.search.connections.supernet import site_candidates
from bpnas.search.presets import Preset
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


def test_the_loss_of_a_table_takes_probabilities():
    table = FormulaTable.tiny()
    backbone = table.backbone()
    latency = SupernetLatency.of_table(table, backbone, PROPOSALS)
    rows = [torch.from_numpy(row) for row in candidate_latencies(table, backbone, PROPOSALS)]
    probabilities = [torch.rand(len(row), generator=torch.Generator().manual_seed(len(row))) for row in rows]
    for kind, precision in ((torch.float64, 1e-12), (torch.float32, 1e-6)):
        ps = [p.to(kind).softmax(0) for p in probabilities]
        expected = float(expected_latency([p.double() for p in ps], rows, table.fixed()))
        assert float(latency(ps)) == pytest.approx(expected, rel=precision)
        for target in (0.5 * expected, 2 * expected):
            loss = LatencyLoss.of_table(table, backbone, PROPOSALS, target, 0.05)
            assert float(loss(ps)) == pytest.approx(float(LatencyLoss(target, 0.05)(expected)), rel=precision)


def test_gradients_of_the_loss_of_a_table_against_finite_differences():
    table = FormulaTable.tiny()
    latency = SupernetLatency.of_table(table, table.backbone(), PROPOSALS)
    widths = [3 + site.is_residual for site in table.backbone().sites]
    uniform = float(latency([torch.full((n,), 1 / n, dtype=torch.float64) for n in widths]))
    for target in (0.7 * uniform, 1.4 * uniform):
        loss = LatencyLoss.of_table(table, table.backbone(), PROPOSALS, target)
        generator = torch.Generator().manual_seed(0)
        alphas = [torch.randn(n, generator=generator, dtype=torch.float64, requires_grad=True) for n in widths]
        assert torch.autograd.gradcheck(lambda *a, loss=loss: loss([x.softmax(0) for x in a]), alphas)


def test_what_does_not_fit_is_refused():
    table = FormulaTable.tiny()
    latency = SupernetLatency.of_table(table, table.backbone(), PROPOSALS)
    for wrong in ([torch.ones(3)] * 3, [torch.ones(4)] * 4):
        with pytest.raises(UsageError, match="one row per site"):
            latency(wrong)
    with pytest.raises(UsageError, match="of_table"):
        LatencyLoss(1.0)([torch.ones(3)] * 4)


def test_a_predictor_that_is_no_sum_over_sites_is_refused():
    class Pipelined(FormulaTable):
        def network(self, *arguments):
            return 0.9 * super().network(*arguments)

    with pytest.raises(SearchError, match="use another --additivity"):
        SupernetLatency.of_table(Pipelined.tiny(), Pipelined.tiny().backbone(), PROPOSALS)


@pytest.mark.parametrize(("epoch", "tau"), [(0, 5.0), (1, 4.780), (10, 3.188), (60, 0.3360), (119, 0.02362)])
def test_temperatures_of_the_paper(epoch, tau):
    assert Preset.load("paper").connections.tau(epoch) == pytest.approx(tau, rel=2e-4)
