from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from bpnas.profiler import Backbone, BackboneError, Block, BlockError, Records
from bpnas.profiler.campaign.run import plan_parts
from bpnas.profiler.networks import fold_of, parse_network, random_networks
from bpnas.profiler.paths import NetworkPart, all_paths, select_paths
from bpnas.tables import build_table
from tests import records_factory as factory

BACKBONE = Backbone.load("mobilenetv2", 32)


def test_random_networks_are_distinct_fit_the_backbone_and_differ_in_depth() -> None:
    networks = random_networks(BACKBONE, all_paths(), 40, fold="fit")
    assert len({network.key for network in networks}) == 40
    depths = set()
    for network in networks:
        assert len(network.blocks) == len(BACKBONE.sites)
        for block, site in zip(network.blocks, BACKBONE.sites, strict=True):
            assert block is not None or site.is_residual
        depths.add(sum(block is not None for block in network.blocks))
    assert min(depths) <= 14 and max(depths) == 22 and len(depths) > 5
    counts = {len(block.paths) for network in networks for block in network.blocks if block is not None}
    assert counts == {1, 2, 3}
    assert any(len({b for b in network.blocks if b is not None}) == 1 for network in networks)


def test_random_networks_use_only_the_given_paths_and_are_few_where_there_are_few() -> None:
    paths = select_paths("K3G1,K3E[36]G1")
    for network in random_networks(BACKBONE, paths, 10, fold="test", seed=4):
        assert {path for block in network.blocks if block is not None for path in block.paths} <= set(paths)
    two_sites = Backbone.from_dict({**BACKBONE.to_dict(), "stages": [{"channels": 16, "blocks": 2, "stride": 1}]})
    found = [random_networks(two_sites, select_paths("K3G1"), 99, fold=fold) for fold in ("fit", "test")]
    assert {network.blocks for part in found for network in part} == {
        (Block.parse("K3G1"), Block.parse("K3G1")),
        (Block.parse("K3G1"), None),
    }


def test_a_larger_count_begins_with_the_same_networks_and_another_seed_gives_others() -> None:
    few, many = (random_networks(BACKBONE, all_paths(), count, fold="fit") for count in (5, 12))
    assert few == many[:5]
    assert not set(many) & set(random_networks(BACKBONE, all_paths(), 12, fold="fit", seed=1))


def test_the_two_folds_never_meet_whatever_the_seed() -> None:
    fit = {n.key for seed in range(4) for n in random_networks(BACKBONE, all_paths(), 25, fold="fit", seed=seed)}
    test = {n.key for seed in range(4) for n in random_networks(BACKBONE, all_paths(), 25, fold="test", seed=seed)}
    assert min(len(fit), len(test)) > 95
    assert not fit & test
    assert {fold_of(key) for key in fit} == {"fit"} and {fold_of(key) for key in test} == {"test"}


def test_the_key_of_a_network_tells_backbones_of_one_name_apart() -> None:
    blocks = (Block.parse("K3G1"),) * 22
    other = Backbone.from_dict({**BACKBONE.to_dict(), "head_channels": 640})
    keys = [NetworkPart(backbone, blocks).key for backbone in (BACKBONE, other)]
    assert keys[0] != keys[1]
    assert all(key.startswith("K3G1,K3G1,") and "@mobilenetv2x32/" in key for key in keys)


def test_a_network_is_found_again_by_its_key() -> None:
    other = Backbone.from_dict({**BACKBONE.to_dict(), "head_channels": 640})
    strange = Backbone.from_dict({**BACKBONE.to_dict(), "name": "a@b,x32/c"})
    for backbone in (BACKBONE, other, strange):
        for network in random_networks(backbone, all_paths(), 5, fold="fit"):
            assert parse_network(network.key, (other, strange, BACKBONE)) == network
    with pytest.raises(BackboneError, match="none of the backbones"):
        parse_network(random_networks(BACKBONE, all_paths(), 1, fold="fit")[0].key, (other,))
    with pytest.raises(BlockError):
        parse_network("stem@3-8s1x16", (BACKBONE,))


def test_a_plan_in_context_covers_the_neighbours_too_and_is_read_back(tmp_path: Path) -> None:
    plan = replace(factory.make_plan(), context=True)
    kinds = [part.kind for part in plan_parts(plan)]
    # 2 geometries, 3 paths; a neighbour for each of the shapes 8x16 and 16x8
    assert (kinds.count("path"), kinds.count("context"), kinds.count("neighbours")) == (6, 6, 2)
    factory.write_records(tmp_path / "r.sqlite", plan)
    with Records.read(tmp_path / "r.sqlite") as records:
        assert records.plans() == (plan,)
    rows = {row["key"]: row for row in build_table([tmp_path / "r.sqlite"]).table.to_pylist()}
    row = rows["context/K3E2G1@8-16s2x16"]
    names = ("kind", "path", "kernel", "groups", "expansion", "c_in", "c_out", "stride", "input_size")
    assert [row[name] for name in names] == ["context", "K3E2G1", 3, 1, 2, 8, 16, 2, 16]
    assert rows["neighbours@16x8"]["c_in"] == rows["neighbours@16x8"]["c_out"] == 16
    assert set(rows) == {part.key for part in plan_parts(plan)}


def test_a_plan_with_networks_covers_them_and_is_read_back(tmp_path: Path) -> None:
    plan = factory.make_plan(factory.backbone(), factory.backbone(32), networks=3)
    networks = [part for part in plan_parts(plan) if isinstance(part, NetworkPart)]
    assert [part.backbone.input_size for part in networks] == [16] * 3 + [32] * 3
    with Records.write(tmp_path / "r.sqlite") as records:
        records.add_plan(plan)
        records.add_plan(factory.make_plan())
        assert set(records.plans()) == {plan, factory.make_plan()}


def test_networks_are_rows_of_the_table_where_all_their_paths_are(tmp_path: Path) -> None:
    path = tmp_path / "r.sqlite"
    factory.write_records(path, factory.make_plan(networks=6))
    kinds = build_table([path]).table["kind"].to_pylist()
    assert kinds.count("network") == 6
    some = build_table([path], paths="K1G1").table["key"].to_pylist()
    assert not any("," in key and "K3E2" in key for key in some)
