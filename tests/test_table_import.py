import hashlib
import json
import random
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from bpnas.profiler import Backbone, Block, Site, parse_path
from bpnas.profiler.paths import HeadPart, PathPart, StemPart
from bpnas.search import BlockSpace, levonas
from bpnas.tables import LatencyTable, MissingEntryError, TableError, import_table
from bpnas.tables.readers.reader import GROUP, ReadRow, readers
from tests.records_factory import backbone
from tests.table_factory import write

TINY = backbone()  # sites 8-8s1x16 (twice), 8-16s2x16; stem 3-8 at 16, head 16-16-10 at 8

# A published table in small, with one layer of every sort.
LAYERS = {
    "Conv-input:16x16x3-output:16x16x8": 1.5,
    "expanded_conv-input:16x16x8-output:16x16x8-expand:3-kernel:5-stride:1-idskip:0": 2.25,
    "expanded_conv-input:16x16x8-output:8x8x16-expand:6-kernel:7-stride:2-idskip:0": 3.125,
    "expanded_conv-input:16x16x8-output:16x16x8-expand:3-kernel:3-stride:1-idskip:1": 9.0,
    "expanded_conv-input:16x16x8-output:16x16x16-expand:1-kernel:3-stride:1-idskip:0": 9.0,
    "expanded_conv-input:16x16x8-output:16x16x16-expand:3-kernel:9-stride:1-idskip:0": 9.0,
    "expanded_conv-input:16x16x8-output:16x16x16-expand:20-kernel:3-stride:1-idskip:0": 9.0,
    "expanded_conv-input:16x16x8-output:5x5x16-expand:3-kernel:3-stride:3-idskip:0": 9.0,
    "expanded_conv-input:16x16x8-output:16x16x16-expand:3-kernel:3-stride:2-idskip:0": 9.0,
    "expanded_conv-input:16x8x8-output:16x8x16-expand:3-kernel:3-stride:1-idskip:0": 9.0,
    "expanded_conv-input:16x16x8-output:16x16x16-expand:3-kernel:3": 9.0,
    "Conv-input:16x16x8-output:16x16x8": 9.0,
    "Conv_1-input:8x8x16-output:8x8x16": 4.0,
    "Logits-input:8x8x16-output:10": 0.5,
    "Logits-input:8x8x32-output:10": 9.0,
    "AvgPool2D-input:8x8x16-output:1x1x16": 9.0,
    "a line of another kind": 9.0,
}
EXPECTED = {
    "stem@3-8s1x16": 1.5,
    "K5E3G1@8-8s1x16": 2.25,
    "K7E6G1@8-16s2x16": 3.125,
    "head@16-16-10x8": 4.5,
}


def write_yaml(path: Path, layers=LAYERS) -> Path:
    """As PyYAML writes it, which is how the published ones look."""
    lines = [f"{name}: {{count: 100, mean: {mean}}}" for name, mean in layers.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def write_csv(path: Path, *rows: str, columns="pixel3_ms,raspi4_ms") -> Path:
    path.write_text("\n".join([f"layer,h_in,c_in,c_out,stride,op,{columns}", *rows]) + "\n")
    return path


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(
        'name = "tiny"\n'
        "stages = [{ channels = 8, blocks = 2, stride = 1 }, { channels = 16, blocks = 1, stride = 2 }]\n"
        "[stem]\nchannels = 8\n[head]\nchannels = 16\n"
    )
    return tmp_path


TINY_OPTIONS = ("--backbone", "tiny.toml", "--input-size", 16)


def imported(path, **options):
    return import_table(path, "pixel", [TINY], **options)


def latencies(made) -> dict[str, float]:
    return dict(zip(made.table["key"].to_pylist(), made.table["latency_ms"].to_pylist(), strict=True))


# ProxylessNAS


def test_layers_with_our_operators_become_entries_and_all_others_are_named(here):
    made = imported(write_yaml(here / "f.yaml"))
    assert latencies(made) == EXPECTED
    assert {reason.split(",")[0]: len(names) for reason, names in made.mismatches.items()} == {
        "with the identity's addition in it": 1,
        "without a first 1x1 convolution": 1,
        "with a kernel that no path has": 1,
        "with an expansion that no path has": 1,
        "a stride other than 1 and 2": 1,
        "with a stride that does not fit its shapes": 1,
        "a feature map that is not square": 1,
        "no layer of a known form": 2,
        "a convolution that is no stem": 1,
        "a piece of a head whose other piece is not there": 1,
        "layer AvgPool2D": 1,
    }
    assert set().union(*made.mismatches.values()) == {name for name, mean in LAYERS.items() if mean == 9.0}


def test_the_entries_are_those_of_the_parts():
    parts = [
        StemPart(8, 1, 16),
        PathPart(parse_path("K5E3G1"), Site(8, 8, 1, 16)),
        PathPart(parse_path("K7E6G1"), Site(8, 16, 2, 16)),
        HeadPart(16, 16, 10, 8),
    ]
    assert [part.key for part in parts] == list(EXPECTED)


def test_the_head_says_that_it_is_a_sum_and_counts_come_along(here):
    rows = {row["key"]: row for row in imported(write_yaml(here / "f.yaml")).table.to_pylist()}
    assert {key: row["flags"] for key, row in rows.items()} == {
        **dict.fromkeys(EXPECTED, ""),
        "head@16-16-10x8": "summed",
    }
    assert {key: row["samples"] for key, row in rows.items()} == {
        **dict.fromkeys(EXPECTED, 100),
        "head@16-16-10x8": None,
    }
    assert {row["sessions"] for row in rows.values()} == {None}
    assert {(row["device"], row["runtime"], row["source"]) for row in rows.values()} == {
        ("pixel", "unknown", "imported:proxyless-yaml")
    }


def test_the_tables_of_mobilenet_v3_name_inner_channels(here):
    block = "expanded_conv-input:16x16x8-output:16x16x16-expand:{}-kernel:3-stride:1-idskip:0-se:{}-hs:{}".format
    layers = {
        block(24, 0, 0): 2.0,
        block(24, 1, 0): 9.0,
        block(24, 0, 1): 9.0,
        block(8, 0, 0): 9.0,
        block(20, 0, 0): 9.0,
        "Conv-input:16x16x3-output:16x16x8": 9.0,
    }
    made = imported(write_yaml(here / "f.yaml", layers))
    assert latencies(made) == {"K3E3G1@8-16s1x16": 2.0}
    reasons = "; ".join(made.mismatches)
    for text in ("squeeze-and-excitation", "with h-swish", "h-swish or ReLU", "an expansion that no path has", "1x1"):
        assert text in reasons
    assert len(made.mismatches) == 5


def test_the_metadata_name_the_file_and_leave_the_rest_unknown(here):
    file = write_yaml(here / "f.yaml")
    meta = imported(file).meta
    assert (meta.imported.reader, meta.imported.file, meta.imported.column) == ("proxyless-yaml", "f.yaml", "")
    assert meta.imported.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert not meta.mock
    assert (meta.device.name, meta.device.model) == ("pixel", "pixel")
    rest = (meta.device.platform, meta.device.os, meta.device.abi, meta.device.runtime_version)
    assert set(rest) | {meta.device.runtime, meta.device.runtime_sha256} == {"unknown"}
    assert (meta.settings, meta.export_version, meta.missing) == (None, 0, ())


# FBNet


def test_rows_of_a_csv(here):
    file = write_csv(
        here / "f.csv",
        "0,16,8,16,2,k3_e6,1.25,2.5",
        "1,16,8,16,2,k3_e1,0.5,1.0",
        "2,16,8,16,2,k5_e1_g2,0.75,1.5",
        "3,16,8,16,2,k3_e6,1.25,2.5",  # the same place again
        "4,16,8,8,1,k3_e6,9,9",
        "5,16,8,16,2,skip,9,9",
        "6,16,8,16,3,k3_e6,9,9",
        "7,16,8,16,2,k9_e6,9,9",
        "all_skip_net,,,,,,9,9",
    )
    assert latencies(imported(file, column="raspi4_ms")) == {
        "K3E6G1@8-16s2x16": 2.5,
        "K3E1G1@8-16s2x16": 1.0,
        "K5E1G2S@8-16s2x16": 1.5,  # with groups, FBNet shuffles
    }
    made = imported(file, column="pixel3_ms")
    assert latencies(made)["K3E6G1@8-16s2x16"] == 1.25
    assert made.meta.imported.column == "pixel3_ms"
    assert (made.rows, sum(map(len, made.mismatches.values()))) == (9, 5)


def test_a_column_alone_need_not_be_named(here):
    file = write_csv(here / "f.csv", "0,16,8,16,2,k3_e6,1.25", columns="pixel3_ms")
    assert latencies(imported(file)) == {"K3E6G1@8-16s2x16": 1.25}


def test_differences_to_skip_are_no_latencies(here, shared_data, cli):
    done = cli(
        "build-table",
        "import",
        shared_data / "pixel3_fbnet_lut.csv",
        "--device",
        "p",
        "--column",
        "pixel3_ms_minus_skip",
    )
    assert done.exit_code == 1 and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert "none of its 177 rows" in line
    assert "128 with the identity's addition in it" in line and "48 a difference to its layer's Skip" in line
    assert not list(here.glob("*.parquet"))


# The command


def test_import_says_what_it_took_and_what_not(cli, here):
    write_yaml(here / "f.yaml")
    done = cli("build-table", "import", "f.yaml", "--reader", "proxyless-yaml", "--device", "pixel", *TINY_OPTIONS)
    assert done.exit_code == 0 and done.stderr == ""
    assert "pixel.parquet: 4 entries of pixel (imported, not measured here)" in done.stdout
    assert "Backbone tiny at input size 16; 0 of 272 paths at every site" in done.stdout
    assert "4 of 16 rows of f.yaml have exactly the operators of ours; left out:" in done.stdout
    assert "  1 layer AvgPool2D: AvgPool2D-input:8x8x16-output:1x1x16" in done.stdout
    result = json.loads(
        cli(
            "build-table", "import", "f.yaml", "--device", "pixel", "--out", "o.parquet", *TINY_OPTIONS, "--json"
        ).stdout
    )
    assert result["entries"] == 4 and result["imported"]["reader"] == "proxyless-yaml"
    assert sum(map(len, result["left_out"].values())) == 12
    assert Path("o.parquet").read_bytes() == Path("pixel.parquet").read_bytes()
    assert "IMPORTED, NOT MEASURED HERE" in cli("build-table", "show", "o.parquet").stdout
    doctor = cli("build-table", "doctor", "o.parquet")
    assert doctor.exit_code == 1  # no path is at every site
    assert "imported from f.yaml by reader proxyless-yaml, not measured here" in doctor.stdout
    assert "flagged 'summed': 1 entry" in doctor.stdout


def test_an_imported_table_meets_no_measured_one(cli, here):
    write_yaml(here / "f.yaml")
    assert cli("build-table", "import", "f.yaml", "--device", "bench", *TINY_OPTIONS).exit_code == 0
    write(here / "measured.parquet")
    done = cli("build-table", "merge", "bench.parquet", "measured.parquet", "--out", "c.parquet")
    assert done.exit_code == 1 and "must not meet in one table" in done.stderr


SEARCHED = [
    f"expanded_conv-input:16x16x8-output:{out}-expand:{e}-kernel:{k}-stride:{s}-idskip:0"
    for out, s in (("16x16x8", 1), ("8x8x16", 2))
    for e in (3, 6)
    for k in (3, 5, 7)
]
ENDS = ["Conv-input:16x16x3-output:16x16x8", "Conv_1-input:8x8x16-output:8x8x16", "Logits-input:8x8x16-output:10"]


def searchable(cli, here, layers) -> LatencyTable:
    rng = random.Random(1)
    write_yaml(here / "f.yaml", {name: round(rng.uniform(1, 5), 3) for name in layers})
    assert cli("build-table", "import", "f.yaml", "--device", "pixel", *TINY_OPTIONS).exit_code == 0
    return LatencyTable.load("pixel.parquet")


def test_a_search_runs_on_an_imported_table_that_covers_the_sites(cli, here):
    table = searchable(cli, here, ENDS + SEARCHED)
    assert cli("build-table", "doctor", "pixel.parquet").exit_code == 0
    assert table.backbone() == Backbone.load("tiny.toml", 16)
    space = BlockSpace(table)
    assert [str(path) for path in space.paths] == [f"K{k}E{e}G1" for k in (3, 5, 7) for e in (3, 6)]
    limit_ms = table.network([Block.parse("K5E3G1")] * 3)
    trials = list(
        levonas(space, lambda code: -space.latency(code), limit_ms=limit_ms, population=4, sample=2, cycles=12,
                rng=random.Random(0))
    )  # fmt: skip
    assert trials and all(trial.latency_ms <= limit_ms for trial in trials)


def test_what_is_not_covered_is_missing_as_ever(cli, here):
    table = searchable(cli, here, ENDS[:1] + SEARCHED)
    with pytest.raises(MissingEntryError, match="head@16-16-10x8"):
        BlockSpace(table)
    with pytest.raises(MissingEntryError, match="K3E4G1@8-8s1x16"):
        table.path(parse_path("K3E4G1"), TINY.sites[0])


# Readers


def test_the_shipped_readers_are_plug_ins():
    assert list(readers()) == ["fbnet-csv", "proxyless-yaml"]
    assert {point.name: point.load().name for point in entry_points(group=GROUP)} == {name: name for name in readers()}


class Point:
    """An entry point of another package."""

    def __init__(self, load):
        self.name, self.value, self.load = "theirs", "their.module:Reader", load


class TheirReader:
    name = "theirs"

    def can_read(self, path):
        return path.suffix == ".theirs"

    def read(self, path, column=None):
        yield ReadRow("row 1", PathPart(parse_path("K1G1"), Site(8, 8, 1, 16)), float(path.read_text()))


def test_another_package_adds_a_reader(monkeypatch, here):
    monkeypatch.setattr("bpnas.tables.readers.reader.entry_points", lambda group: [Point(lambda: TheirReader)])
    (here / "f.theirs").write_text("2.5")
    made = imported(here / "f.theirs")
    assert latencies(made) == {"K1G1@8-8s1x16": 2.5}
    assert made.table["source"].to_pylist() == ["imported:theirs"]


def test_a_reader_that_does_not_load_is_named(monkeypatch, here, cli):
    def load():
        raise ImportError("no module named theirs")

    monkeypatch.setattr("bpnas.tables.readers.reader.entry_points", lambda group: [Point(load)])
    write_yaml(here / "f.yaml")
    done = cli("build-table", "import", "f.yaml", "--device", "pixel")
    assert done.exit_code == 1 and "'theirs' (their.module:Reader) does not load: no module named" in done.stderr


GOOD_CSV = "0,16,8,16,2,k3_e6,1.25,2.5"


@pytest.mark.parametrize(
    ("name", "content", "options", "exit_code", "sentence"),
    [
        ("none.yaml", None, [], 1, "none.yaml: no such file"),
        ("f.txt", "hello", [], 2, "f.txt: no reader can read it; name one with --reader (fbnet-csv, proxyless-yaml)"),
        ("f.yaml", LAYERS, ["--reader", "proxyles"], 2, "no table reader is called 'proxyles'; there are fbnet-csv"),
        ("f.yaml", LAYERS, ["--reader", "fbnet-csv"], 1, "f.yaml: not what reader fbnet-csv reads"),
        ("f.yaml", LAYERS, ["--column", "pixel3_ms"], 2, "such a table has no columns"),
        ("f.yaml", LAYERS, ["--backbone", "mobilnet"], 2, "no backbone is called 'mobilnet'"),
        ("f.yaml", LAYERS, ["--device", "a/b"], 2, "--device 'a/b': the table is named after it"),
        ("f.yaml", LAYERS, ["--out", "none/t.parquet"], 2, "does not exist; create it first"),
        (
            "f.yaml",
            {next(iter(LAYERS)): "fast"},
            [],
            1,
            "Conv-input:16x16x3-output:16x16x8: 'fast' is no positive number",
        ),
        ("f.yaml", {next(iter(LAYERS)): -1}, [], 1, "-1 is no positive number of milliseconds"),
        ("f.yaml", {next(iter(LAYERS)): ".nan"}, [], 1, "nan is no positive number"),
        ("f.yaml", {"AvgPool2D-input:8x8x16-output:1x1x16": 1}, [], 1, "none of its 1 rows"),
        ("f.yaml", "Conv-input:16x16x3-output:16x16x8: [1, 2", [], 1, "f.yaml: no valid YAML"),
        ("f.yaml", "Conv-input:16x16x3-output:16x16x8: !!python/object/apply:os.getcwd []", [], 1, "no valid YAML"),
        ("f.yaml", "Conv-input:16x16x3-output:16x16x8: 4.5", [], 1, "has no field 'mean'"),
        ("f.yaml", "- Conv-input:16x16x3-output:16x16x8", [], 1, "no mapping from layers to latencies"),
        ("f.csv", [GOOD_CSV], [], 2, "holds several devices; choose a column with --column (pixel3_ms, raspi4_ms)"),
        ("f.csv", [GOOD_CSV], ["--column", "pixel_ms"], 2, "no column of latencies is called 'pixel_ms'"),
        ("f.csv", [GOOD_CSV], ["--column", "op"], 2, "no column of latencies is called 'op'"),
        ("f.csv", ["0,16,8,16,2,k3_e6,,1"], ["--column", "pixel3_ms"], 1, "line 2 (0, k3_e6), pixel3_ms: ''"),
        ("f.csv", ["0,16,8,16,2,k3_e6"], ["--column", "pixel3_ms"], 1, "pixel3_ms: None is no positive number"),
        (
            "f.csv",
            [GOOD_CSV, "1,16,8,16,2,k3_e6,1.26,2.5"],
            ["--column", "pixel3_ms"],
            1,
            "several values for K3E6G1@8-16s2x16 (line 2 (0, k3_e6), line 3 (1, k3_e6)), and nothing is averaged",
        ),
    ],
)
def test_bad_input(cli, here, name, content, options, exit_code, sentence):
    if isinstance(content, dict):
        write_yaml(here / name, content)
    elif isinstance(content, list):
        write_csv(here / name, *content)
    elif content is not None:
        (here / name).write_text(content)
    device = [] if "--device" in options else ["--device", "pixel"]
    done = cli("build-table", "import", name, *device, *options)
    assert done.exit_code == exit_code and done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("Error: ") and sentence in line
    assert not list(here.glob("*.parquet"))


def test_a_column_must_say_its_unit(here):
    file = write_csv(here / "f.csv", "0,16,8,16,2,k3_e6,1.25", columns="pixel3")
    with pytest.raises(Exception, match="does not say that it is in milliseconds"):
        imported(file)


def test_one_layer_twice_with_two_values_is_refused(here):
    text = "expanded_conv-input:16x16x8-output:16x16x16-expand:{}-kernel:3-stride:1-idskip:0{}".format
    file = write_yaml(here / "f.yaml", {text(3, ""): 1.0, text(24, "-se:0-hs:0"): 2.0})
    with pytest.raises(TableError, match="several values for K3E3G1@8-16s1x16"):
        imported(file)
