import codecs
import hashlib
import json
import random
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import pytest

from bpnas.base.plain_text import shown
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
    assert "of its 177 rows, none is" in line
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
        ("f.yaml", LAYERS, ["--reader", "fbnet-csv"], 1, "f.yaml: reader fbnet-csv cannot read it"),
        ("f.yaml", LAYERS, ["--column", "pixel3_ms"], 2, "such a table has no columns"),
        ("f.yaml", LAYERS, ["--backbone", "mobilnet"], 2, "no backbone is called 'mobilnet'"),
        ("f.yaml", LAYERS, ["--device", "a/b"], 2, "--device 'a/b': the table is named after it"),
        ("f.yaml", LAYERS, ["--out", "none/t.parquet"], 2, "does not exist; create it first"),
        (
            "f.yaml",
            {next(iter(LAYERS)): "fast"},
            [],
            1,
            "line 1, Conv-input:16x16x3-output:16x16x8, mean: 'fast' is no plain number; write it as in 1.25",
        ),
        ("f.yaml", {next(iter(LAYERS)): -1}, [], 1, "'-1' is no latency in milliseconds"),
        ("f.yaml", {next(iter(LAYERS)): ".nan"}, [], 1, "'.nan' is no plain number"),
        ("f.yaml", {"AvgPool2D-input:8x8x16-output:1x1x16": 1}, [], 1, "of its 1 row, none is"),
        ("f.yaml", "Conv-input:16x16x3-output:16x16x8: [1, 2", [], 1, "f.yaml: line 1: no valid YAML"),
        ("f.yaml", "Conv-input:16x16x3-output:16x16x8: !!python/object/apply:os.getcwd []", [], 1, "no field 'mean'"),
        ("f.yaml", "Conv-input:16x16x3-output:16x16x8: 4.5", [], 1, "has no field 'mean'"),
        ("f.yaml", "- Conv-input:16x16x3-output:16x16x8", [], 1, "no mapping from layers to latencies"),
        ("f.csv", [GOOD_CSV], [], 2, "holds several devices; choose a column with --column (pixel3_ms, raspi4_ms)"),
        ("f.csv", [GOOD_CSV], ["--column", "pixel_ms"], 2, "no column of latencies is called 'pixel_ms'"),
        ("f.csv", [GOOD_CSV], ["--column", "op"], 2, "no column of latencies is called 'op'"),
        ("f.csv", ["0,16,8,16,2,k3_e6,,1"], ["--column", "pixel3_ms"], 1, "line 2, column 'pixel3_ms': '' is no plain"),
        ("f.csv", ["0,16,8,16,2,k3_e6"], ["--column", "pixel3_ms"], 1, "line 2: has 6 fields, but the"),
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


# Files that say something else than they seem to: one sentence with the place, and no table


def refused(cli, name: str, *options: str) -> str:
    """The sentence with which a file is refused."""
    done = cli("build-table", "import", name, "--device", "pixel", *options)
    assert (done.exit_code, done.stdout) == (1, ""), done.stdout
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Error: {name}: "), line
    assert not list(Path().glob("*.parquet"))
    return line.removeprefix(f"Error: {name}: ")


NO_NUMBERS = [
    "1_000", "١٢", "\uff11\uff12", "nan", "inf", "-inf", "Infinity", "1e400", "0x10", "+1", "1 2", "1.2.3", "1e", "010",
    "1d3", "\xa01", "--1", "9" * 500,
]  # fmt: skip
NO_TIMES = ["0", "-0", "0.0", "-1.25", "1e-7", "86400000.1", "1e300"]


@pytest.mark.parametrize("text", [*NO_NUMBERS, *NO_TIMES, ""])
def test_a_csv_with_what_is_no_latency(cli, here, text):
    write_csv(here / "f.csv", "0,16,8,16,2,k3_e6,1.25", f"1,16,8,16,2,k5_e6,{text}", columns="pixel3_ms")
    sentence = refused(cli, "f.csv")
    assert sentence.startswith("line 3, column 'pixel3_ms': ")
    assert "is no latency in milliseconds" in sentence if text in NO_TIMES else "is no plain number" in sentence
    assert len(sentence) < 250


@pytest.mark.parametrize("text", [*NO_NUMBERS, "0", "-8", "8.5", "1e1", "65537", ""])
@pytest.mark.parametrize("column", ["h_in", "c_in", "c_out", "stride"])
def test_a_csv_with_what_is_no_size(cli, here, column, text):
    fields = {"layer": "0", "h_in": "16", "c_in": "8", "c_out": "16", "stride": "2", "op": "k3_e6", column: text}
    write_csv(here / "f.csv", ",".join([*fields.values(), "1.25"]), columns="pixel3_ms")
    assert refused(cli, "f.csv").startswith(f"line 2, column '{column}': {shown(text)} is no whole number from 1 to")


@pytest.mark.parametrize(
    ("rows", "sentence"),
    [
        (["0,16,8,16,2,k3_e6,1,25"], "line 2: has 8 fields, but the first line names 7 columns; write decimals"),
        (["", "0,16,8,16,2,k3_e6,1.25", "1,16,8,16,2,k3_e6,1.25,"], "line 4: has 8 fields"),
        (["0,16,8,16,2,k3_e6"], "line 2: has 6 fields, but the first line names 7 columns, so that column 'pixel3_ms'"),
        (['0,16,8,16,2,k3_e6,"1,25"'], "line 2, column 'pixel3_ms': '1,25' is no plain number; write it as in 1.25"),
        (["0,16,8,16,2,k3_e6,1.25"] * 2, "line 3: layer '0' with op 'k3_e6' is already on line 2; remove one"),
        (["0,16,8,16,2,k3_e6,1.25", '"1\n\n",16,8,16,2,k3_e6,1', "0,16,8,16,2,k3_e6,2"], "line 6: layer '0'"),
        (["0,16,8,16,2,k3_e6,1.25", '1,16,8,16,2,k5_e6,"1.25'], "line 3: no valid CSV (unexpected end of data)"),
        ([f"0,16,8,16,2,k3_e6,{'1' * 200_000}"], "line 2: no valid CSV (field larger than field limit (131072))"),
    ],
)  # fmt: skip
def test_a_csv_whose_lines_are_not_what_its_first_line_says(cli, here, rows, sentence):
    write_csv(here / "f.csv", *rows, columns="pixel3_ms")
    assert refused(cli, "f.csv").startswith(sentence)


def test_a_csv_that_names_a_column_twice(cli, here):
    write_csv(here / "f.csv", "0,16,8,16,2,k3_e6,1.25,2.5", columns="pixel3_ms,pixel3_ms")
    assert refused(cli, "f.csv").startswith("line 1: names the column 'pixel3_ms' 2 times; rename one of them")


def test_a_csv_in_another_encoding(cli, here):
    write_csv(here / "f.csv", columns="pixel3_ms").write_bytes(
        (here / "f.csv").read_bytes() + b"M\xe4rz,16,8,16,2,k3_e6,1.25\n"
    )
    assert "its text is not UTF-8" in refused(cli, "f.csv")


def test_a_csv_as_excel_and_pandas_write_it(here):
    file = write_csv(here / "f.csv", "0,16.0,8.0,16.,2.0,k3_e6, 1.25e+0", columns="pixel3_ms")
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes().replace(b"\n", b"\r\n"))
    assert latencies(imported(file)) == {"K3E6G1@8-16s2x16": 1.25}


def test_a_row_that_becomes_no_entry_may_take_no_time(here):
    file = write_csv(here / "f.csv", "0,16,8,16,2,k3_e6,1.25", "0,16,8,16,2,skip,0", columns="pixel3_ms")
    assert latencies(imported(file)) == {"K3E6G1@8-16s2x16": 1.25}


LAYER = next(iter(LAYERS))


@pytest.mark.parametrize(
    "text",
    [*NO_NUMBERS, *NO_TIMES, "true", "no", "null", "~", "", '"1.25"', "'1.25'", "[1.25]", "{ms: 1.25}", "1:30", ".inf",
     "!ms 1"],
)  # fmt: skip
def test_a_yaml_with_what_is_no_latency(cli, here, text):
    (here / "f.yaml").write_text(f"# a comment\n{LAYER}:\n  count: 3\n  mean: {text}\n", encoding="utf-8")
    sentence = refused(cli, "f.yaml")
    assert sentence.startswith(f"line 3, {LAYER}, mean: ")
    assert "is no latency in milliseconds" in sentence if text in NO_TIMES else "is no plain number" in sentence
    assert len(sentence) < 300


@pytest.mark.parametrize("text", ["true", "many", "-1", "1.5", '"3"', "[3]", "1_000", "2147483648"])
def test_a_yaml_with_a_count_that_is_none(cli, here, text):
    write_yaml(here / "f.yaml", {}).write_text(f"{LAYER}: {{mean: 1.5, count: {text}}}\n")
    assert refused(cli, "f.yaml").startswith(f"line 1, {LAYER}, count: ")


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (f"{LAYER}: {{mean: 1.5}}\nx: {{mean: 1}}\n{LAYER}: {{mean: 2.5}}\n", f"line 3: the key '{LAYER}' is al"),
        (f"{LAYER}:\n  mean: 1.5\n  mean: 2.5\n", "line 3: the key 'mean' is already on line 2; remove one of the two"),
        (f"{LAYER}: {{mean: 1.5}}\n[a, b]: 1\n", "line 2: a key must be one word"),
        (f"{LAYER}: {{mean: 1.5}}\nx: @\n", "line 2: no valid YAML"),
        (f"{LAYER}: null\n", f"line 1, {LAYER}: has no field 'mean'"),
        (f"{LAYER}: {'[' * 5000}\n", "is nested too deeply"),
        (f"{LAYER}: {{mean: {'[' * 300}{']' * 300}}}\n", f"line 1, {LAYER}, mean: 'a list' is no plain number"),
        (f"# {LAYER}\n", "no mapping from layers"),
    ],
)  # fmt: skip
def test_a_yaml_that_says_something_else(cli, here, content, sentence):
    (here / "f.yaml").write_text(content)
    assert refused(cli, "f.yaml").startswith(sentence)


def test_aliases_are_read_and_cost_nothing_however_much_they_stand_for(cli, here):
    laughs = "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 40))
    (here / "f.yaml").write_text(f"a0: &a0 [x]\n{laughs}{LAYER}: {{mean: *a39}}\n")
    assert refused(cli, "f.yaml").startswith("line 1, a0: has no field 'mean'")
    same = LAYER.replace("8", "16")
    (here / "g.yaml").write_text(f"{LAYER}: &same {{mean: 1.5}}\n{same}: *same\n")
    assert latencies(imported(here / "g.yaml")) == {"stem@3-8s1x16": 1.5, "stem@3-16s1x16": 1.5}


@pytest.mark.parametrize(
    "name",
    [
        "Conv-input:0x0x3-output:0x0x8",
        f"Conv-input:16x16x3-output:16x16x{'9' * 5000}",
        "Conv-input:99999999999x99999999999x3-output:99999999999x99999999999x8",
        f"expanded_conv-input:16x16x8-output:16x16x8-expand:{'3' * 5000}-kernel:5-stride:1-idskip:0",
        "Logits-input:8x8x16-output:99999999999",
    ],
)
def test_a_yaml_with_sizes_that_no_network_has(here, name):
    layers = {LAYER: 1.5, "Conv_1-input:8x8x16-output:8x8x16": 4.0, f"? {name}\n": 1.0}
    made = imported(write_yaml(here / "f.yaml", layers))
    assert latencies(made) == {"stem@3-8s1x16": 1.5} and name in set().union(*made.mismatches.values())


class WrongReader(TheirReader):
    row = ReadRow("row 1", PathPart(parse_path("K1G1"), Site(8, 8, 1, 16)), 2.5)

    def read(self, path, column=None):
        if path.read_text() == "fail":
            raise KeyError("their fault")
        yield replace(self.row, **json.loads(path.read_text()))


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ('{"latency_ms": true}', "row 1: True is no plain number"),
        ('{"latency_ms": NaN}', "row 1: nan is no plain number"),
        ('{"latency_ms": -1}', "row 1: -1 is no latency in milliseconds"),
        ('{"latency_ms": null}', "row 1: None is no plain number"),
        ('{"latency_ms": [1]}', "row 1: [1] is no plain number"),
        ('{"samples": 1e30}', "row 1, samples: 1e+30 is no whole number from 0 to 2,147,483,647"),
        ("fail", "the table reader 'theirs' failed (KeyError: 'their fault'); report it"),
    ],
)
def test_numbers_of_other_packages_readers_are_checked_too(monkeypatch, cli, here, content, sentence):
    monkeypatch.setattr("bpnas.tables.readers.reader.entry_points", lambda group: [Point(lambda: WrongReader)])
    (here / "f.theirs").write_text(content)
    assert refused(cli, "f.theirs").startswith(sentence)


CSV_LINES = [
    ["layer", "h_in", "c_in", "c_out", "stride", "op", "pixel3_ms"],
    ["0", "112", "16", "24", "2", "k3_e6", "1.25"],
    ["1", "28", "40", "80", "2", "k5_e3", "2.75"],
]


def _csv(separator=",", *, index=None, first="", end="\n", encoding="utf-8", lines=CSV_LINES, behind="") -> bytes:
    numbered = lines if index is None else [[index if n == 0 else str(n - 1), *line] for n, line in enumerate(lines)]
    return (first + "".join(separator.join(line) + behind + end for line in numbered)).encode(encoding)


CSV_FORMS = {
    "plain": _csv(),
    "semicolons": _csv(";"),
    "tabs": _csv("\t"),
    "Excel's line": _csv(";", first="sep=;\r\n", end="\r\n"),
    "a mark": _csv(encoding="utf-8-sig"),
    "UTF-16": _csv("\t", encoding="utf-16", end="\r\n"),
    "UTF-16, big end first": codecs.BOM_UTF16_BE + _csv(encoding="utf-16-be"),
    "pandas' index": _csv(index=""),
    "pandas' index, read and written again": _csv(index="Unnamed: 0"),
    "whole numbers as floats": _csv(lines=[[f"{n}.0" if n.isdigit() else n for n in line] for line in CSV_LINES]),
    "quoted": _csv(lines=[[f'"{text}"' for text in line] for line in CSV_LINES]),
    "empty columns behind": _csv(behind=",,"),
    "empty lines": _csv() + b"\n,,,,,,\n\n",
    "another order": _csv(lines=[line[::-1] for line in CSV_LINES]),
}


@pytest.mark.parametrize("form", CSV_FORMS)
def test_csv_is_read_in_the_forms_that_programs_write(form, cli, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(CSV_FORMS[form])
    (reader,) = [each for each in readers().values() if each.can_read(path)]
    rows = list(reader.read(path))
    assert [row.latency_ms for row in rows] == [1.25, 2.75]
    assert [str(row.part.path) for row in rows] == ["K3E6G1", "K5E3G1"]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (_csv(lines=[line[:1] + line[2:] for line in CSV_LINES]), "line 1: names no column h_in; there must be layer"),
        (_csv(lines=[line[:-1] for line in CSV_LINES]), "line 1: names no column of latencies"),
        (
            _csv(lines=[*CSV_LINES[:2], [*CSV_LINES[2][:-1], "2,75"]]),
            "line 3: has 8 fields, but the first line names 7",
        ),
        (_csv(";", lines=[*CSV_LINES[:2], [*CSV_LINES[2][:-1], "2,75"]]), "'2,75' is no plain number"),
        (_csv(";", lines=[*CSV_LINES[:2], [*CSV_LINES[2][:-1], "1.002,75"]]), "is no plain number"),
        (_csv(encoding="utf-16-le"), "is a file of an unknown kind"),
        (_csv(first="sep=;\n"), "no reader can read it"),
    ],
)
def test_csv_that_cannot_be_read_is_told_the_true_reason(content, told, cli, tmp_path):
    path = tmp_path / "t.csv"
    path.write_bytes(content)
    done = cli("build-table", "import", path, "--device", "pixel3", "--out", tmp_path / "o.parquet")
    assert done.exit_code in (1, 2) and told in done.stderr and "Traceback" not in done.stderr
    assert not (tmp_path / "o.parquet").exists()
