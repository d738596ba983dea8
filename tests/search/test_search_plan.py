"""What a search will do is said before it is done, and then done as it was said."""

import itertools
import json

import pytest

torch = pytest.importorskip("torch")

from bpnas.base.errors import UsageError
from bpnas.profiler import Block
from bpnas.search import InfeasibleLimitError, Preset, run_search
from bpnas.search.plan_cost import plan_cost
from bpnas.search.search_plan import Execution, SearchRequest, plan_search
from tests.search_helpers import FormulaTable

GIVEN = (Block.parse("K3G1"), Block.parse("K1G1+K3E2G2"))
SETTINGS = Preset.load("tiny").override(
    {
        "proposals.cycles": 7,
        "proposals.population": 3,
        "proposals.sample": 1,
        "proposals.train.epochs": 2,
        "proposals.train.train_images": 100,
        "proposals.train.batch": 8,
        "connections.train.epochs": 4,
        "connections.train.train_images": 60,
        "connections.train.batch": 8,
        "retraining.epochs": 5,
        "retraining.train_images": 40,
    }
)


@pytest.fixture(scope="module")
def table():
    return FormulaTable.tiny("K1G1,K3G1,K3G4,K3E1G1,K3E3G2,K5E2G1")


def test_the_config_of_a_run_is_that_of_its_plan(table, tmp_path):
    settings = SETTINGS.override({"proposals.cycles": 3, "proposals.train.epochs": 1, "retraining.epochs": 1})
    plan = plan_search(SearchRequest(preset=settings, constraints=(0.2,), stage="proposals", seed=3), table)
    run_search(table, out=tmp_path, preset=settings, constraints=(0.2,), stage="proposals", seed=3, threads=1)
    written = json.loads((tmp_path / "config.json").read_text())
    assert {name: written[name] for name in written if name not in ("format", "file_sha256")} == json.loads(
        json.dumps(plan.config(1, 1))
    )


@pytest.mark.parametrize("target_ms", [0.072, 0.09, 0.1, 0.12, 10.0])
def test_forced_skips_are_as_few_as_can_be(target_ms):
    table = FormulaTable.tiny()
    request = SearchRequest(stage="connections", proposals=GIVEN, target_ms=target_ms)
    plan = plan_search(request, table)
    sites = plan.backbone.sites
    options = [(*GIVEN, None) if site.is_residual else GIVEN for site in sites]
    least = min(blocks.count(None) for blocks in itertools.product(*options) if table.network(blocks) <= target_ms)
    assert plan.forced_skips(target_ms) == least
    assert plan.skippable_sites == 2


@pytest.mark.parametrize("text", ["K3G1", "K1G1+K3E2G2", "K5E7G1", "K3G4+K1E3G1+K5E2G2"])
def test_a_target_that_is_met_exactly_forces_nothing(text):
    table, block = FormulaTable.tiny(), Block.parse(text)
    for blocks, skips in (([block] * 4, 0), ([block, None, block, None], 2)):
        request = SearchRequest(stage="connections", proposals=(block,), target_ms=table.network(blocks))
        plan = plan_search(request, table)
        assert plan.forced_skips(request.target_ms) == skips


def test_a_target_below_what_skips_can_do_is_refused():
    request = SearchRequest(stage="connections", proposals=GIVEN, target_ms=0.011)
    with pytest.raises(InfeasibleLimitError, match="network of these block proposals"):
        plan_search(request, FormulaTable.tiny())


def test_targets_and_sizes(table):
    plan = plan_search(SearchRequest(constraints=(0.3, 0.2, 0.4), targets_ms=(0.25, 0.2)), table)
    assert plan.limits_ms == (0.2, 0.3, 0.4) and plan.targets_ms == (0.2, 0.25) and plan.target_ms == 0.25
    assert plan_search(SearchRequest(constraints=(0.3, 0.2, 0.4)), table).targets_ms == (0.3,)
    assert plan_search(SearchRequest(constraints=(0.3,), stage="proposals", target_ms=0.2), table).targets_ms == ()
    assert plan.input_sizes == (32, 32)
    blocks = plan.typical_blocks()
    latencies = [table.network([block] * 4) for block in blocks]
    every = plan.space.latencies()
    assert latencies == pytest.approx([every[every <= limit].max() for limit in plan.limits_ms])


def test_the_hours_are_those_of_the_steps(table):
    """By a clock that says each training of a few steps took one second: a batch of 8 images."""
    seconds = itertools.count()
    request = SearchRequest(preset=SETTINGS, constraints=(0.2, 0.3), targets_ms=(0.2, 0.3, 0.25))
    first, second, last = plan_cost(plan_search(request, table), clock=lambda: float(next(seconds)))
    each = 1 / 8 / 3600
    assert (first.stage, first.images, first.epochs, first.trainings) == ("proposals", 75, 2, 14)
    assert first.cost_hours == pytest.approx(75 * 2 * 14 * each)
    assert (second.stage, second.images, second.epochs, second.trainings) == ("connections", 60, 4, 1)
    assert second.cost_hours == pytest.approx(60 * 4 * 2 * each)
    assert (last.stage, last.images, last.epochs, last.trainings) == ("retraining", 40, 5, 3)
    assert last.cost_hours == pytest.approx(40 * 5 * 3 * each)
    assert {cost.data for cost in (first, second, last)} == {"digits"}


def test_a_plan_has_the_stages_that_are_asked_for(table):
    for stage, names in (("proposals", ["proposals"]), ("connections", ["connections", "retraining"])):
        request = SearchRequest(preset=SETTINGS, constraints=(0.2,), stage=stage)
        assert [cost.stage for cost in plan_cost(plan_search(request, table))] == names


def test_an_execution_without_sense_is_refused(table):
    for execution, words in (
        (Execution(window=0), "window must be at least 1, not 0"),
        (Execution(workers=2), "without workers"),
    ):
        with pytest.raises(UsageError, match=words):
            plan_search(SearchRequest(execution=execution), table)
