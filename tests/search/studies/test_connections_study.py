"""Studies of stage 2: what is compared, and the run that compares it."""

import csv
import io
import json
from dataclasses import replace
from itertools import product

import pytest

torch = pytest.importorskip("torch")

from bpnas.base.errors import UsageError
from bpnas.profiler import Block
from bpnas.profiler.backbone import Stage
from bpnas.search import InfeasibleLimitError, Preset, RunError
from bpnas.search.studies.connections.arms import (
    FBNET_BLOCKS,
    RandomArm,
    connections_study,
    fbnet_study,
    lambda_study,
    mobilenetv2_network,
    random_study,
    stacked_network,
)
from bpnas.search.studies.connections.study import run_connections_study
from bpnas.search.studies.connections.summary import NetworkRow, summarise
from bpnas.search.studies.connections.terms import StudyTerms
from bpnas.search.studies.connections.text import summary_lines
from bpnas.search.studies.study import Study, StudyRequest
from tests.search_helpers import FormulaTable, Steps, tiny_backbone

PROPOSALS = tuple(map(Block.parse, ("K1G1", "K3G4", "K3E3G2", "K5E6G1")))
MICRO = Preset.load("tiny").override(
    {
        "connections.train.epochs": 2,
        "connections.train.train_images": 40,
        "retraining.epochs": 1,
        "retraining.train_images": 40,
        "test_images": 50,
    }
)
TARGET_MS = 0.6
FILES = ("study.csv", "summary.json", "study.png")


@pytest.fixture(scope="module")
def table():
    return FormulaTable.tiny()


@pytest.fixture(scope="module")
def terms(table):
    return StudyTerms(table, tiny_backbone(), TARGET_MS)


def narrow(channels):
    backbone = replace(tiny_backbone(), stages=(Stage(channels, 2, 2), Stage(channels, 2, 2)), name=f"of {channels}")
    return FormulaTable((backbone,))


def test_a_fast_block_is_stacked_everywhere(terms):
    block = Block.parse("K1G1")
    network = stacked_network(terms, block)
    assert network.blocks == (block,) * 4 and network.latency_ms == terms.latency_ms(network.blocks) <= TARGET_MS


def test_a_slow_block_gets_the_skips_that_bring_it_nearest_to_the_target(terms):
    block = Block.parse("K5E6G1")
    sites = terms.backbone.sites
    every = product(*([block, None] if site.is_residual else [block] for site in sites))
    latencies = sorted(terms.latency_ms(blocks) for blocks in every)
    for target in (latencies[0], latencies[1] * 1.001, (latencies[-2] + latencies[-1]) / 2):
        network = stacked_network(replace(terms, target_ms=target), block)
        assert network.latency_ms == max(ms for ms in latencies if ms <= target)
        assert network.latency_ms == terms.latency_ms(network.blocks) and network.skips > 0
    with pytest.raises(InfeasibleLimitError):
        stacked_network(replace(terms, target_ms=latencies[0] * 0.99), block)


def test_random_networks_lie_near_the_target_and_follow_the_seed(terms):
    arm = RandomArm("random", PROPOSALS, 5)
    drawn = arm.drawn(terms, 3)
    assert len(drawn) == 5 and drawn == arm.drawn(terms, 3) != arm.drawn(terms, 4)
    assert all(
        0.9 * TARGET_MS <= network.latency_ms == terms.latency_ms(network.blocks) <= TARGET_MS for network in drawn
    )


def test_mobilenetv2_is_the_widest_that_fits(terms):
    widths = [narrow(channels) for channels in (8, 16, 24, 32)]
    block = Block.parse("K3E6G1")
    latencies = [width.network([block] * 4) for width in widths]
    assert latencies == sorted(latencies)
    found = mobilenetv2_network(replace(terms, target_ms=latencies[2] * 1.01), widths[::-1])
    assert found.backbone == widths[2].backbone() and found.latency_ms == latencies[2]
    assert found.blocks == (block,) * 4
    below_all = mobilenetv2_network(replace(terms, target_ms=latencies[0] * 0.99), widths)
    assert below_all.skips == 1 and below_all.latency_ms < latencies[0]
    assert set(below_all.blocks) == {block, None}
    with pytest.raises(InfeasibleLimitError, match="MobileNetV2"):
        mobilenetv2_network(replace(terms, target_ms=1e-3), widths)


def test_what_the_studies_compare(terms):
    study = connections_study(terms, PROPOSALS, 0.01, 2, [narrow(8)])
    names = [arm.name for arm in study.arms]
    assert names == ["searched", "random", *(f"stacked {block}" for block in PROPOSALS), "mobilenetv2"]
    assert study.pairs == tuple(("searched", name) for name in names[1:])
    tight = connections_study(replace(terms, target_ms=0.1), PROPOSALS, 0.01, 2)
    assert "stacked K5E6G1" not in [arm.name for arm in tight.arms]
    assert any("stacked K5E6G1 is left out" in note for note in tight.notes)
    assert any("--width-table" in note for note in tight.notes)
    assert [arm.lambda_below for arm in lambda_study(PROPOSALS).arms] == [0, 0.001, 0.01, 0.05, 0.5, 1]
    assert len(FBNET_BLOCKS) == 8  # nine with Skip
    assert fbnet_study(PROPOSALS, 0.01).arms[1].proposals == FBNET_BLOCKS
    assert [arm.name for arm in random_study(PROPOSALS, 0.01, 4).arms] == ["searched", "random"]


def everything(terms):
    return connections_study(terms, PROPOSALS, 0.01, 2, [narrow(8)])


def study(table, out, design=everything, **options):
    of_arms = {name: options.pop(name, value) for name, value in (("proposals", PROPOSALS), ("target_ms", TARGET_MS))}
    request = StudyRequest(table, out, **{"seeds": (0, 1), "preset": MICRO, **options})
    return run_connections_study(design, request, **of_arms)


@pytest.fixture(scope="module")
def finished(table, tmp_path_factory):
    return study(table, tmp_path_factory.mktemp("stage2") / "whole")


def rows(result):
    return list(csv.DictReader(io.StringIO((result.directory / "study.csv").read_text())))


def test_every_network_is_within_the_target_and_trained_alike(finished):
    found = rows(finished)
    assert len(found) == 2 * (1 + 2 + 4 + 1)
    assert all(float(row["latency_ms"]) <= TARGET_MS == float(row["target_ms"]) for row in found)
    assert all(0 <= float(row["accuracy"]) <= 1 and row["mock"] == "True" for row in found)
    assert {row["channels"] for row in found if row["arm"] == "mobilenetv2"} == {"8 8"}
    assert [row["blocks"].count("skip") for row in found] == [int(row["skips"]) for row in found]
    summary = json.loads((finished.directory / "summary.json").read_text())
    assert summary["mock"] is True and len(summary["arms"]) == 7 and len(summary["rows"]) == len(found)
    assert not list((finished.directory / "checkpoints").iterdir())
    of_searches = "proposals lambda_below seed chosen argmax expected_latency_ms entropy log_probabilities"
    of_evaluations = "blocks backbone seed score"
    for name, keys in (("searches.jsonl", of_searches), ("evaluations.jsonl", of_evaluations)):
        for line in (finished.directory / name).read_text().splitlines():
            assert list(json.loads(line)) == [*keys.split(), "seconds", "check"]


def test_interrupted_it_ends_as_if_undisturbed(finished, table, tmp_path):
    def stop(number):
        raise KeyboardInterrupt

    for left in (1, 4, 9):
        with pytest.raises(KeyboardInterrupt):
            study(table, tmp_path, progress=Steps(lambda number, left=left: number == left and stop(number)))
    again = study(table, tmp_path)
    assert again.found.trainings == finished.found.trainings
    for name in FILES:
        assert (tmp_path / name).read_bytes() == (finished.directory / name).read_bytes(), name
    for name in ("searches.jsonl", "evaluations.jsonl"):
        count = (tmp_path / name).read_bytes().count(b"\n")
        assert count == (finished.directory / name).read_bytes().count(b"\n"), name


def test_more_seeds_and_arms_cost_only_what_is_new(table, tmp_path):
    one = study(table, tmp_path, lambda terms: random_study(PROPOSALS, 0.01, 1), seeds=(0,))
    assert one.found.trainings == 1 + len({row["blocks"] for row in rows(one)})
    more = study(table, tmp_path, lambda terms: random_study(PROPOSALS, 0.01, 2), seeds=(0, 5), retrain=2)
    assert len((tmp_path / "searches.jsonl").read_text().splitlines()) == 2
    assert {row["trainings"] for row in rows(more)} == {"2"}
    with pytest.raises(RunError, match="retraining"):
        study(
            table,
            tmp_path,
            lambda terms: random_study(PROPOSALS, 0.01, 1),
            preset=MICRO.override({"retraining.epochs": 2}),
        )
    with pytest.raises(RunError, match="study = random-stage2, now it is connections"):
        study(table, tmp_path)


def test_supernets_of_another_target_are_not_taken_for_this_one_s(table, finished):
    with pytest.raises(RunError, match=r"started with --target .*, now it is "):
        study(table, finished.directory, target_ms=1.01 * TARGET_MS)


def test_lambda_is_recorded_and_networks_need_not_be_trained(table, tmp_path):
    result = study(table, tmp_path, lambda terms: lambda_study(PROPOSALS), seeds=(0,), retrain=0)
    found = rows(result)
    assert [float(row["lambda_below"]) for row in found] == [0, 0.001, 0.01, 0.05, 0.5, 1]
    assert {row["accuracy"] for row in found} == {""}
    for row in found:
        assert float(row["expected"]) > 0 and float(row["latency"]) <= 1 and 0 < float(row["entropy"]) < 1.7
        assert float(row["argmax"]) <= 1 or float(row["latency"]) < float(row["argmax"])
    assert not (tmp_path / "evaluations.jsonl").exists()
    text = "\n".join(summary_lines(result.found.summary))
    assert "lambda 0.5 - lambda 0.01" in text and "accuracy" not in text


def test_the_supernet_evaluates_the_most_probable_networks_where_asked(table, tmp_path):
    def networks(k_best):
        preset = MICRO.override({"connections.k_best": k_best})
        result = study(
            table, tmp_path / str(k_best), lambda terms: lambda_study(PROPOSALS, (0.01,)), preset=preset, retrain=0,
            seeds=(0, 1, 2, 3),
        )  # fmt: skip
        return [(row["blocks"], float(row["latency"])) for row in rows(result)]

    one, many = networks(1), networks(30)
    assert one != many and all(latency <= 1 for _, latency in many)


def test_what_makes_no_sense_is_refused_before_anything_is_trained(table, tmp_path):
    with pytest.raises(UsageError, match="each once"):
        study(table, tmp_path, seeds=(1, 1))
    with pytest.raises(UsageError, match="block proposals"):
        study(table, tmp_path, proposals=())
    with pytest.raises(InfeasibleLimitError, match="smallest feasible"):
        study(table, tmp_path, lambda terms: lambda_study(PROPOSALS), target_ms=0.001)
    with pytest.raises(InfeasibleLimitError, match="takes 90 to 100 ms"):
        study(table, tmp_path, target_ms=100.0)
    with pytest.raises(UsageError, match="from 0 to 1"):
        study(table, tmp_path, lambda terms: lambda_study(PROPOSALS, (2.0,)))
    assert not (tmp_path / "config.json").exists()


def test_a_damaged_line_is_named(finished, table, tmp_path):
    for name in ("config.json", "searches.jsonl", "study.csv"):
        (tmp_path / name).write_bytes((finished.directory / name).read_bytes())
    (tmp_path / "searches.jsonl").write_text('{"seed": 1}\n')
    with pytest.raises(RunError, match=r"searches.jsonl: line 1 is no search"):
        study(table, tmp_path)


def row(arm, seed, accuracy, number=0, latency=0.95):
    return NetworkRow(
        arm, seed, number, None, "skip", 1, 1, "8", latency, latency, None, None, None, None, accuracy, 1
    )  # fmt: skip


def test_comparisons_are_paired_by_seed_and_the_mean_of_several_networks_counts():
    found = [row("searched", seed, 0.5 + seed / 10) for seed in range(3)]
    found += [row("random", seed, 0.4 + seed / 10 + part / 100, part) for seed in range(3) for part in (-1, 1)]
    found += [row("stacked", seed, 0.45 + seed / 10) for seed in range(3)]
    summary = summarise(found, (("searched", "random"), ("searched", "stacked")))
    random_arm = summary.arms[1]
    assert random_arm.accuracy.mean == pytest.approx(0.5) and random_arm.best.mean == pytest.approx(0.51)
    assert summary.arms[0].best is None
    first = summary.comparisons[0]
    assert (first.measure, first.second) == ("accuracy", "random")
    assert first.result.difference.mean == pytest.approx(0.1) and first.result.difference.low == pytest.approx(0.1)
    assert first.result.p == 0.25 and first.result.p_adjusted == 0.5  # by Holm over two pairs
    text = "\n".join(summary_lines(summary))
    assert "Best of the others by its mean: stacked, 55.0; searched is +5.0 points from it" in text
    assert "cannot give p below 0.5" in text


def test_a_study_needs_no_pairs(table, tmp_path):
    arms = lambda_study(PROPOSALS, (0.5,)).arms
    result = study(table, tmp_path, lambda terms: Study("lambda", arms, ()), seeds=(0,), retrain=0)
    assert result.found.summary.comparisons == () and summary_lines(result.found.summary)
