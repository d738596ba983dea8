"""A table by another program, with a right hash, is believed only where it can be true."""

import copy
import json
import math
import shutil
import tempfile
from importlib import resources
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bpnas.tables import LatencyTable, TableError, build_table
from bpnas.tables.schema import COLUMNS, arrow_table, read_table, write_table
from bpnas.tables.table_meta import ImportedFrom
from tests.known_truth import Truth, known_backbone, known_plan, known_records
from tests.records_factory import backbone, make_plan
from tests.table_factory import KEYS, PLAN, hash_again, seal, write

ENTRY = "K3E4G1@8-16s2x16"
REMEDY = "; build the table again with build-table, or mend the program that wrote it"
SCHEMA = pa.schema([(name, getattr(pa, kind)()) for name, kind in COLUMNS.items()])


def taken_apart(path: Path) -> tuple[list[dict], dict]:
    """Rows and metadata of a table."""
    return pq.read_table(path).to_pylist(), json.loads(pq.read_metadata(path).metadata[b"bpnas.meta"])


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    return taken_apart(write(tmp_path_factory.mktemp("good") / "t.parquet"))


@pytest.fixture(scope="module")
def fitted(tmp_path_factory):
    """A table with whole networks, paths in context, and models fitted to them."""
    folder = tmp_path_factory.mktemp("fitted")
    truth = Truth(path=1.1, join=0.6, constant_ms=0.05)
    built = build_table([known_records(folder / "r.sqlite", truth, known_plan(networks=24, context=True))])
    write_table(folder / "t.parquet", built.table, built.meta)
    return taken_apart(folder / "t.parquet")


@pytest.fixture
def file(tmp_path):
    return tmp_path / "t.parquet"


def changed(path: Path, parts, values: dict, key: str = ENTRY) -> Path:
    """The table with other values in one of its rows."""
    rows, meta = parts
    rows = [{**row, **values} if row["key"] == key else row for row in rows]
    return seal(path, pa.Table.from_pylist(rows, SCHEMA), json.dumps(meta))


def refusal(path: Path) -> str:
    with pytest.raises(TableError) as caught:
        LatencyTable.load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.endswith(REMEDY) and "\n" not in message
    assert "delete" not in message and "damaged" not in message
    return message.removeprefix(f"{path}: ").removesuffix(REMEDY)


BAD_LATENCIES = (-34.19, 0.0, math.nan, math.inf, -math.inf, None, 1e300)


@pytest.mark.parametrize("latency_ms", BAD_LATENCIES)
def test_no_command_believes_a_latency_that_cannot_be(cli, file, good, latency_ms):
    pytest.importorskip("torch")
    changed(file, good, {"latency_ms": latency_ms})
    other = write(file.with_name("other.parquet"))
    for command in (
        ("run-search", "--table", file, "--out", file.with_name("run")),
        ("build-table", "show", file),
        ("build-table", "diff", file, other),
        ("build-table", "diff", other, file),
        ("build-table", "merge", other, file, "--out", file.with_name("merged.parquet")),
        ("build-table", "validate", file, "--serial", "mock:s9"),
    ):
        done = cli(*command)
        assert (done.exit_code, done.stdout) == (1, "")
        (line,) = done.stderr.splitlines()
        assert line.startswith(f"Error: {file}: entry '{ENTRY}': latency_ms must be a number above 0 and at most 1e+09")
        assert line.endswith(REMEDY)
    done = cli("build-table", "doctor", file)
    assert done.exit_code == 1 and f"ERROR    entry '{ENTRY}': latency_ms must be" in done.stdout
    assert {path.suffix for path in file.parent.iterdir()} == {".parquet"}  # no run directory


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"key": None}, "key must be a text, not null"),
        ({"key": KEYS[0]}, "key must be there once, but it has an entry twice"),
        ({"key": "K3E4G1@8-16s2x17"}, f"key must be what the other columns make of it, such as '{ENTRY}'"),
        ({"key": "\x1b[31mred" * 1000}, "key must be what the other columns make of it"),
        ({"kind": "block"}, "kind must be one of path, "),
        ({"kind": None}, "kind must be one of path, "),
        ({"kind": "stem"}, "path must be null in an entry of kind stem"),
        ({"kind": "network"}, "path must be null in an entry of kind network"),
        ({"path": "K3E4G2"}, "path must be what kernel, expansion and groups make of it"),
        ({"path": None}, "path must be the name of a path"),
        ({"kernel": 4}, "kernel must be one of 1, 3, 5, 7, not 4"),
        ({"groups": 0}, "groups must be one of 1, 2, 4, 8"),
        ({"expansion": 17}, "expansion must be null or from 1 to 16"),
        ({"expansion": None}, "path must be what"),
        ({"c_in": -8}, "c_in must be from 1 to 1,000,000"),
        ({"c_out": 2**31 - 1}, "c_out must be from 1 to 1,000,000"),
        ({"c_out": 24}, "key must be what the other columns make of it"),
        ({"stride": 3}, "stride must be 1 or 2"),
        ({"input_size": None}, "input_size must be from 1 to 65,536"),
        ({"low_ms": 9.0}, "low_ms must be at most high_ms"),
        ({"low_ms": None}, "low_ms must be null where high_ms is, and only there"),
        ({"high_ms": math.inf}, "high_ms must be null or a number from 0"),
        ({"mad_ms": -0.1}, "mad_ms must be null or a number from 0"),
        ({"p10_ms": 9.0}, "p10_ms must be at most p90_ms"),
        ({"p90_ms": math.nan}, "p90_ms must be null or a number from 0"),
        ({"sessions": -1}, "sessions must be null or 0 and more"),
        ({"samples": -1}, "samples must be null or 0 and more"),
        ({"quarantined": -1}, "quarantined must be null or 0 and more"),
        ({"flags": "a\nb"}, "flags must be at most 1,000 printable characters"),
        ({"flags": "noisy " * 1000}, "flags must be at most 1,000 printable characters"),
        ({"device": "other"}, "device must be 'bench', as the metadata say"),
        ({"runtime": None}, "runtime must be 'tflite', as the metadata say"),
        ({"source": "mock"}, "source must be 'measured', as the metadata say"),
        ({"source": "imported:mine"}, "source must be 'measured'"),
    ],
)
def test_a_cell_that_cannot_be_is_named(file, good, values, said):
    message = refusal(changed(file, good, values))
    assert said in message
    assert ("row " if values.get("key", "") is None else "entry '") in message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("stem@3-8s1x16", {"c_in": 8}),
        ("stem@3-8s1x16", {"stride": None}),
        ("stem@3-8s1x16", {"key": "stem@3-8s2x16"}),
        ("head@16-16-10x8", {"key": "head@16-16-x8"}),
        ("head@16-16-10x8", {"key": "head@16-16-10x9"}),
        ("head@16-16-10x8", {"stride": 1}),
        ("join@8x16", {"c_out": 16}),
        ("join@8x16", {"kind": "neighbours"}),
    ],
)
def test_parts_that_are_no_paths_are_checked_too(file, good, key, values):
    assert key.partition("@")[0] in refusal(changed(file, good, values, key))


def test_networks_and_contexts_are_checked(file, fitted):
    rows, meta = fitted
    seal(file, pa.Table.from_pylist(rows, SCHEMA), json.dumps(meta))
    assert len({row["kind"] for row in rows}) == 7
    assert len(LatencyTable.load(file).networks(32)) > 0
    network = next(row["key"] for row in rows if row["kind"] == "network")
    blocks, _, place = network.partition("@")
    first, *others = blocks.split(",")
    for key, said in (
        (f"{blocks}@other{place}", "on one of the metadata's backbones"),
        (f"{first}@{place}", f"of a network of {len(known_backbone().sites)} blocks"),
        (",".join(["K9G1", *others]) + f"@{place}", "with a block at each site"),
        (",".join([*others, "skip"]) + f"@{place}", "or skip where the shape stays"),
        ("no network", "on one of the metadata's backbones"),
    ):
        assert said in refusal(changed(file, fitted, {"key": key}, network))
    context = next(row for row in rows if row["kind"] == "context")
    alone = context["key"].removeprefix("context/")
    assert "key must be" in refusal(changed(file, fitted, {"key": f"{context['key']}0"}, context["key"]))
    assert "it has an entry twice" in refusal(changed(file, fitted, {"key": alone}, context["key"]))
    assert "c_out must be 10" in refusal(changed(file, fitted, {"c_out": 100}, network))


def test_a_table_without_rows_or_with_too_many(cli, file, good, monkeypatch):
    seal(file, pa.Table.from_pylist([], SCHEMA), json.dumps(good[1]))
    assert refusal(file) == "it must have from 1 to 10,000,000 rows, not 0"
    for command in (("show", file), ("diff", file, file), ("merge", file, "--out", file)):
        done = cli("build-table", *command)
        assert done.exit_code == 1 and len(done.stderr.splitlines()) == 1 and done.stdout == ""
    monkeypatch.setattr("bpnas.tables.check_rows.MOST_ROWS", 5)
    assert "it must have from 1 to 5 rows" in refusal(changed(file, good, {}))


def column(name: str, kind: str):
    def change(table: pa.Table) -> pa.Table:
        number = table.column_names.index(name)
        return table.set_column(number, name, table[name].cast(kind))

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (column("latency_ms", "string"), "column latency_ms: must be of type float64, not 'string'"),
        (column("latency_ms", "float32"), "column latency_ms: must be of type float64, not 'float'"),
        (column("kernel", "int64"), "column kernel: must be of type int32, not 'int64'"),
        (column("key", "binary"), "column key: must be of type string, not 'binary'"),
        (lambda table: table.drop_columns("low_ms"), "column low_ms: is missing"),
        (lambda table: table.append_column("note", table["key"]), "column 'note': is none that"),
        (lambda table: table.append_column("key", table["key"]), "column key: is there twice"),
        (lambda table: table.select(list(COLUMNS)[::-1]), "its columns are in another order"),
    ],
)
def test_columns_and_their_types_are_those_of_the_schema(file, good, change, said):
    rows, meta = good
    table = change(pa.Table.from_pylist(rows, SCHEMA))
    assert said in refusal(seal(file, table, json.dumps(meta)))


def test_texts_that_are_no_utf_8_and_pages_that_do_not_unpack(file, good):
    rows, meta = good
    table = pa.Table.from_pylist(rows, SCHEMA)
    cells = pa.array([b"\xff\xfe"] * len(rows), pa.binary()).view(pa.string())
    seal(file, table.set_column(0, "key", cells), json.dumps(meta))
    assert "its content cannot be read" in refusal(file)
    changed(file, good, {})
    content = bytearray(file.read_bytes())
    content[4:40] = bytes(36)
    file.write_bytes(content)
    assert "its content cannot be read" in refusal(hash_again(file))


def test_a_file_with_a_right_hash_and_no_metadata(file, good):
    changed(file, good, {})
    content = file.read_bytes().replace(b"bpnas.meta", b"other.meta")
    file.write_bytes(content)
    assert "its footer has no bpnas.meta" in refusal(hash_again(file))


# Metadata


def with_meta(path: Path, parts, where: str, value: object) -> Path:
    """The table with another value in one field of its metadata, as in `backbones.0.name`; ... takes it out."""
    rows, meta = copy.deepcopy(parts)
    *way, last = (int(name) if name.isdecimal() else name for name in where.split("."))
    inner = meta
    for name in way:
        inner = inner[name]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return seal(path, pa.Table.from_pylist(rows, SCHEMA), json.dumps(meta))


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("schema_version", True, "schema_version: must be a whole number, not True"),
        ("schema_version", "2", "schema_version: must be a whole number"),
        ("schema_version", ..., "schema_version: is missing"),
        ("mock", 0, "mock: must be true or false"),
        ("mock", True, "mock: must be False, as device.mock says"),
        ("device", [], "device: must be an object of fields"),
        ("device.model", 7, "device.model: must be a text"),
        ("device.model", "x" * 10**6, "device.model: must be a text of at most 10,000 characters"),
        ("device.model", "a\nmeasured", "device.model: must be a text of one line"),
        ("device.name", "", "device.name: must be a name"),
        ("device.os", ..., "device.os: is missing"),
        ("device.colour", "red", "'device.colour': is none that this bpnas knows"),
        ("settings", None, "settings: must be an object in a table that is not imported"),
        ("settings.threads", 0, "settings: run setting threads: must be from 1 to 256"),
        ("settings.runs", "50", "settings: run setting runs: must be a whole number"),
        ("settings.seconds", math.nan, "settings: run setting seconds: must be"),
        ("settings.seconds", 10**400, "settings: "),
        ("settings.colour", 1, "'settings.colour': is none"),
        ("export_version", -1, "export_version: must be a whole number from 0"),
        ("export_version", 1.0, "export_version: must be a whole number"),
        ("backbones", [], "backbones: must be a list of 1 to 1,000 values"),
        ("backbones", {}, "backbones: must be a list"),
        ("backbones.0", None, "backbones[0]: "),
        ("backbones.0.classes", 0, "backbones[0]: head.classes: must be"),
        (
            "backbones.0.stages",
            [{"channels": 8, "blocks": 1000, "stride": 1}] * 11,
            "backbones[0]: stages: have 11,000 blocks together",
        ),
        ("backbones.0.name", "a\nb", "backbones[0].name: must be a text of one line"),
        ("paths", ["K9G1"], "paths[0]: must be the name of a path"),
        ("paths", ["K1G1", "K1G1"], "paths: it has a value twice"),
        ("paths", "K1G1", "paths: must be a list"),
        ("missing", [1], "missing[0]: must be a text"),
        ("missing", None, "missing: must be a list"),
        ("statistic", "mean", "statistic: must be median or p10"),
        ("statistic", ["median"], "statistic: must be median or p10"),
        ("note", "hello", "'note': is none that this bpnas knows"),
        ("imported", {"reader": "r", "file": "f", "sha256": "12" * 32, "column": ""}, "settings: must be null"),
        ("imported", {"reader": "r", "file": "f", "sha256": "12", "column": ""}, "imported.sha256: must be a SHA-256"),
        ("models", [], "models: must be an object"),
        ("models", {"default": "best", "reason": "", "records": []}, "models.default: must be one of sum, "),
    ],
)
def test_a_field_that_cannot_be_is_named(file, good, where, value, said):
    message = refusal(with_meta(file, good, where, value))
    assert said in message
    assert len(message) < 300


@pytest.mark.parametrize(
    ("where", "value", "said"),
    [
        ("input_size", 64, "input_size: must be that of a backbone"),
        ("error.mape", math.inf, "error.mape: must be a number"),
        ("error.spearman", 2, "error.spearman: must be a number from -1 to 1"),
        ("error.networks", 2.5, "error.networks: must be a whole number"),
        ("coefficients.joins", ..., "coefficients.joins: is missing"),
        ("coefficients.joins.value", math.nan, "coefficients.joins.value: must be a number"),
        ("coefficients.joins.value", "1", "coefficients.joins.value: must be a number"),
        ("coefficients.joins.unit", "s", "coefficients.joins.unit: must be ms/ms"),
        ("name", "sum", "a model is there twice at one input size"),
    ],
)
def test_what_a_table_says_of_its_models_is_checked(file, fitted, where, value, said):
    number = [record["name"] for record in fitted[1]["models"]["records"]].index("corrected")
    assert said in refusal(with_meta(file, fitted, f"models.records.{number}.{where}", value))


@pytest.mark.parametrize(("term", "value"), [("simple", -5.0), ("joins", -1.0), ("blocks", -9.0), ("constant", -99.0)])
def test_coefficients_that_make_latencies_negative_are_not_used(file, fitted, term, value):
    number = [record["name"] for record in fitted[1]["models"]["records"]].index("corrected")
    with_meta(file, fitted, f"models.records.{number}.coefficients.{term}.value", value)
    with pytest.raises(TableError, match="coefficients of model 'corrected' at input size 32 give negative latencies"):
        LatencyTable.load(file, "corrected").fixed()
    assert LatencyTable.load(file, "sum").fixed() > 0


def test_two_backbones_are_of_one_kind(file, good):
    (one,) = good[1]["backbones"]
    message = refusal(with_meta(file, good, "backbones", [one, {**one, "input_size": 32, "channel_shuffle": True}]))
    assert "backbones: they differ in channel_shuffle" in message
    message = refusal(with_meta(file, good, "backbones", [one, {**one, "stem_stride": 2}]))
    assert "backbones: two have the same input_size and classes" in message


@pytest.mark.parametrize(
    "text", ["", "[1]", "null", "2", '"text"', "{", "[" * 100_000, "9" * 5000, "{}", '{"schema_version": 2}']
)
def test_metadata_that_are_no_object_of_fields(file, good, text):
    assert "metadata" in refusal(seal(file, pa.Table.from_pylist(good[0], SCHEMA), text))


def test_a_newer_version_keeps_its_own_message(file, good):
    """Nothing else is asked of it, for its columns and fields may be others."""
    table = pa.table({"other": [1]})
    seal(file, table, json.dumps({"schema_version": 3, "new": {}}))
    with pytest.raises(TableError, match=r"table schema version 3, but this bpnas reads version 2; build the table"):
        LatencyTable.load(file)


# Damage at random

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def places(value, way=()):
    """The way to every value of nested objects and lists."""
    if way:
        yield way
    for name in value if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ():
        yield from places(value[name], (*way, name))


def loads_or_is_refused(path: Path) -> None:
    try:
        table = LatencyTable.load(path)
    except TableError:
        return
    assert all(0 < ms < math.inf for ms in table.to_pandas()["latency_ms"])


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_the_metadata_say_it_is_a_table_or_a_table_error(fitted, data):
    rows, meta = copy.deepcopy(fitted)
    way = data.draw(st.sampled_from(list(places(meta))))
    inner = meta
    for name in way[:-1]:
        inner = inner[name]
    if data.draw(st.booleans()):
        del inner[way[-1]]
    else:
        inner[way[-1]] = data.draw(JSON)
    with tempfile.TemporaryDirectory() as folder:
        loads_or_is_refused(seal(Path(folder) / "t.parquet", pa.Table.from_pylist(rows, SCHEMA), json.dumps(meta)))


CELLS = {"string": st.none() | st.text(max_size=20), "int32": st.none() | st.integers(-(2**31), 2**31 - 1)}


@settings(max_examples=60)
@given(data=st.data())
def test_whatever_a_cell_says_it_is_a_table_or_a_table_error(fitted, data):
    key = data.draw(st.sampled_from([row["key"] for row in fitted[0]]))
    name = data.draw(st.sampled_from(list(COLUMNS)))
    value = data.draw(CELLS.get(COLUMNS[name], st.none() | st.floats()))
    with tempfile.TemporaryDirectory() as folder:
        loads_or_is_refused(changed(Path(folder) / "t.parquet", fitted, {name: value}, key))


# What is good stays good


@pytest.mark.parametrize(
    "make",
    [
        lambda path: write(path),
        lambda path: write(path, make_plan(backbone(shuffle=True), backbone(32, classes=100, shuffle=True))),
        lambda path: write(path, make_plan(mock=True), lambda row: {**row, "low_ms": None, "high_ms": None}),
        lambda path: write(path, make_plan(model="\x1bmodel", os="")),
        lambda path: write(path, PLAN, imported=ImportedFrom("r", "caf\udce9\n.yaml", "12" * 32, "a\nms")),
    ],
)
def test_what_bpnas_writes_is_read_and_left_as_it_is(tmp_path, make):
    before = make(tmp_path / "t.parquet").read_bytes()
    assert len(LatencyTable.load(tmp_path / "t.parquet")) > 0
    assert (tmp_path / "t.parquet").read_bytes() == before


def test_the_shipped_table_and_what_merge_makes_of_it(cli, tmp_path):
    with resources.as_file(resources.files("bpnas.tables") / "mock_s9.parquet") as shipped:
        shutil.copy(shipped, tmp_path / "t.parquet")
    assert len(LatencyTable.load(tmp_path / "t.parquet")) == 6550
    done = cli("build-table", "merge", tmp_path / "t.parquet", "--out", tmp_path / "u.parquet")
    assert done.exit_code == 0, done.stderr
    assert (tmp_path / "u.parquet").read_bytes() == (tmp_path / "t.parquet").read_bytes()


@pytest.mark.parametrize("latency_ms", [0.0, -1.0, math.nan, math.inf, None])
def test_what_could_not_be_loaded_is_not_written(latency_ms, tmp_path):
    path = write(tmp_path / "t.parquet")
    table, meta, _ = read_table(path)
    before = path.read_bytes()
    first, *others = table.to_pylist()
    with pytest.raises(TableError, match=rf"{path}: is not written, .*'{first['key']}': latency_ms must be"):
        write_table(path, arrow_table([{**first, "latency_ms": latency_ms}, *others]), meta)
    assert path.read_bytes() == before
