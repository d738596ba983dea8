"""The models that put a network together from the entries of a table: what holds for each of them."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpnas.base.errors import UsageError
from bpnas.profiler import Block
from bpnas.profiler.paths import ContextPart, JoinPart, PathPart, head_part, select_paths, stem_part
from bpnas.tables import BuildError, LatencyTable, MissingEntryError, TableError, build_table
from bpnas.tables.additivity.model_record import MODEL_NAMES, TableModels
from bpnas.tables.additivity.models import UNITS
from bpnas.tables.schema import arrow_table
from tests.known_truth import PATHS, Truth, known_backbone, known_plan, known_records
from tests.records_factory import measurement, write_records

TRUTH = Truth(path=1.06, kernel_7=1.15, join=0.6, constant_ms=0.05, noise=0.003)
BACKBONE = known_backbone()
SIMPLE = [path for path in select_paths(PATHS) if "E" not in str(path)]
COMPLEX = [path for path in select_paths(PATHS) if "E" in str(path)]

blocks_of = (
    st.tuples(st.sampled_from([None, *SIMPLE]), st.lists(st.sampled_from(COMPLEX), max_size=2))
    .filter(lambda drawn: drawn[0] or drawn[1])
    .map(lambda drawn: Block(drawn[0], tuple(drawn[1])))
)
networks_of = st.tuples(*[st.none() | blocks_of if site.is_residual else blocks_of for site in BACKBONE.sites])


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> LatencyTable:
    """With everything that any model takes."""
    plan = known_plan(networks=24, context=True)
    built = build_table([known_records(tmp_path_factory.mktemp("known") / "r.sqlite", TRUTH, plan)])
    return LatencyTable(built.table, built.meta)


def without(table: LatencyTable, *keys: str) -> LatencyTable:
    """The same table with holes."""
    rows = table._table
    return LatencyTable(rows.filter([key not in keys for key in rows["key"].to_pylist()]), table.meta)


# What holds for all of them


@pytest.mark.parametrize("name", MODEL_NAMES)
@settings(max_examples=15)
@given(blocks=networks_of)
def test_a_network_is_a_constant_and_one_term_per_site(table, name, blocks):
    model = table.with_additivity(name)
    sites = [model.block(block, site) for block, site in zip(blocks, BACKBONE.sites, strict=True) if block]
    assert model.network(blocks) == pytest.approx(model.fixed() + sum(sites), rel=1e-12)
    assert all(ms > 0 for ms in sites)
    for number, (block, site) in enumerate(zip(blocks, BACKBONE.sites, strict=True)):
        if block is not None and site.is_residual:
            skipped = (*blocks[:number], None, *blocks[number + 1 :])
            assert model.network(blocks) - model.network(skipped) == pytest.approx(model.block(block, site))


@pytest.mark.parametrize("name", MODEL_NAMES)
@settings(max_examples=15)
@given(blocks=networks_of, order=st.permutations([3, 4]))
def test_blocks_at_sites_of_one_geometry_may_change_places(table, name, blocks, order):
    assert BACKBONE.sites[3] == BACKBONE.sites[4]
    moved = list(blocks)
    moved[3], moved[4] = (blocks[place] for place in order)
    model = table.with_additivity(name)
    assert model.network(moved) == pytest.approx(model.network(blocks), rel=1e-12)


@pytest.mark.parametrize("name", MODEL_NAMES)
@settings(max_examples=15)
@given(block=blocks_of, where=st.sampled_from(BACKBONE.sites))
def test_a_block_is_its_paths_and_joins_and_what_it_has_once(table, name, block, where):
    model = table.with_additivity(name)
    place = BACKBONE.sites.index(where)
    rows = dict(zip(model.paths(), model.path_latencies(), strict=True))
    joins, once = model.join_latencies(), model.once_latencies()
    expected = sum(rows[path][place] for path in block.paths) + (len(block.paths) - 1) * joins[place] + once[place]
    assert model.block(block, where) == pytest.approx(expected, rel=1e-12)
    assert joins.shape == once.shape == (6,)


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_a_further_path_never_makes_a_block_faster(table, name):
    model = table.with_additivity(name)
    assert (model.path_latencies() > 0).all() and (model.join_latencies() >= 0).all()
    assert (model.path_latencies() + model.once_latencies() > 0).all()


# What each of them is


@settings(max_examples=15)
@given(blocks=networks_of)
def test_the_sum_is_the_papers(table, blocks):
    pairs = [(block, site) for block, site in zip(blocks, BACKBONE.sites, strict=True) if block is not None]
    fixed = table.entry(stem_part(BACKBONE)) + table.entry(head_part(BACKBONE))
    expected = fixed + sum(sum(table.entry(PathPart(path, site)) for path in b.paths) for b, site in pairs)
    model = table.with_additivity("sum")
    assert model.network(blocks) == expected  # to the last bit: what was searched before stays what it was
    assert not model.join_latencies().any() and not model.once_latencies().any()


@settings(max_examples=15)
@given(blocks=networks_of)
def test_sum_and_joins_adds_every_addition_as_measured(table, blocks):
    additions = [
        (len(block.paths) - 1 + site.is_residual) * table.entry(JoinPart(site.c_out, site.output_size))
        for block, site in zip(blocks, BACKBONE.sites, strict=True)
        if block is not None
    ]
    expected = table.with_additivity("sum").network(blocks) + sum(additions)
    assert table.with_additivity("sum+joins").network(blocks) == pytest.approx(expected, rel=1e-12)


def test_context_subtracts_the_neighbours(table):
    model, path, site = table.with_additivity("context"), SIMPLE[1], BACKBONE.sites[2]
    part = ContextPart(path, site)
    expected = table.entry(part) - sum(table.entry(each) for each in part.neighbours) / 2
    assert model.path(path, site) == pytest.approx(expected, rel=1e-12)
    assert model.path(path, site) == pytest.approx(1.06 * table.entry(PathPart(path, site)), rel=1e-3)


def test_an_entry_is_as_measured_whatever_the_model(table):
    part = PathPart(SIMPLE[0], BACKBONE.sites[0])
    assert len({table.with_additivity(name).entry(part) for name in MODEL_NAMES}) == 1
    assert len({table.with_additivity(name).path(part.path, part.site) for name in MODEL_NAMES}) == 3


# What is not there


def test_a_missing_join_is_named_where_it_is_needed(table):
    site = BACKBONE.sites[2]
    key = JoinPart(site.c_out, site.output_size).key
    holed = without(table, key)
    blocks = [Block.parse("K3G1+K3E4G1")] * 6
    assert holed.with_additivity("sum").network(blocks) == table.with_additivity("sum").network(blocks)
    for name in ("sum+joins", "context", "corrected"):
        with pytest.raises(MissingEntryError, match=key):
            holed.with_additivity(name).network(blocks)


def test_a_path_that_was_not_timed_in_context_is_no_path_of_that_model(table):
    key = ContextPart(SIMPLE[0], BACKBONE.sites[0]).key
    model = without(table, key).with_additivity("context")
    assert model.paths() == table.paths()[1:]
    with pytest.raises(MissingEntryError, match=rf"{key}.*profile-device --context"):
        model.path(SIMPLE[0], BACKBONE.sites[0])


def test_a_path_that_is_not_above_its_neighbours_is_refused_and_not_clipped(tmp_path):
    plan = known_plan(context=True)
    make = Truth().measure(plan)
    part = ContextPart(SIMPLE[0], BACKBONE.sites[0])
    write_records(
        tmp_path / "r.sqlite",
        plan,
        lambda key, s: measurement(key, s, samples_ns=(10,), repeats=10) if key == part.key else make(key, s),
    )
    built = build_table([tmp_path / "r.sqlite"])
    with pytest.raises(TableError, match=r"not above its neighbours alone.*--additivity"):
        LatencyTable(built.table, built.meta, additivity="context").path(part.path, part.site)
    with pytest.raises(BuildError, match=part.key):
        build_table([tmp_path / "r.sqlite"], additivity="context")


def test_a_model_that_does_not_exist(table):
    with pytest.raises(UsageError, match=r"'product'.*sum, sum\+joins, context, corrected"):
        table.with_additivity("product")


def test_no_corrected_model_without_networks():
    with pytest.raises(TableError, match=r"no whole networks were measured.*--networks"):
        LatencyTable.mock_s9().with_additivity("corrected")


# The same site at two input sizes


def test_a_fitted_model_wants_to_know_the_input_size_of_a_shared_site(table):
    meta = table.meta
    record = meta.models.find("corrected", 32)
    other = replace(record, input_size=64, coefficients=tuple((t, 2 * w) for t, w in record.coefficients))
    # A backbone whose stem halves 64 pixels has the sites of the other one.
    twin = replace(BACKBONE, input_size=64, stem_stride=2)
    both = replace(meta, backbones=(BACKBONE, twin), models=replace(meta.models, records=(record, other)))
    stem = next(row for row in table._table.to_pylist() if row["kind"] == "stem")
    rows = arrow_table([*table._table.to_pylist(), {**stem, "key": stem_part(twin).key, "stride": 2, "input_size": 64}])
    model = LatencyTable(rows, both, additivity="corrected")
    path, site = SIMPLE[0], BACKBONE.sites[0]
    assert model.path(path, site, 64) == pytest.approx(2 * model.path(path, site, 32))
    with pytest.raises(TableError, match=r"32 and 64.*say which input_size"):
        model.path(path, site)
    plain = LatencyTable(table._table, both, additivity="sum")
    assert plain.path(path, site) == table.entry(PathPart(path, site))


# Metadata


def test_models_and_their_errors_are_read_back_with_units(table):
    models = table.meta.models
    assert TableModels.from_dict(models.to_dict()) == models
    stored = next(r for r in models.to_dict()["records"] if r["name"] == "corrected")
    assert {term: value["unit"] for term, value in stored["coefficients"].items()} == UNITS
    assert models.find("corrected", 32).error.networks == 24
    assert models.find("corrected", 33) is None


def test_a_table_without_networks_says_nothing_of_models(tmp_path):
    built = build_table([known_records(tmp_path / "r.sqlite", TRUTH, known_plan())])
    assert built.meta.models == TableModels()
    assert "models" not in built.meta.to_json()
    assert LatencyTable(built.table, built.meta).additivity == "sum"
