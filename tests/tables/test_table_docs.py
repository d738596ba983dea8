"""docs/table.md: what it says of the file format is so."""

import re
from dataclasses import fields
from importlib import resources
from pathlib import Path

import pytest

from bpnas.android_bench.device import DeviceInfo
from bpnas.android_bench.measurement import RunSettings
from bpnas.tables.readers.reader import readers
from bpnas.tables.schema import COLUMNS
from bpnas.tables.table_meta import SCHEMA_VERSION, ImportedFrom, TableMeta
from tests.root import ROOT

TEXT = (ROOT / "docs" / "table.md").read_text(encoding="utf-8")


def section(title: str) -> str:
    return TEXT.partition(f"\n## {title}\n")[2].partition("\n## ")[0]


def rows(title: str) -> list[list[str]]:
    """The cells of a section's table, without its head."""
    lines = [line for line in section(title).splitlines() if line.startswith("| ")]
    return [[cell.strip(" `") for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def test_the_columns_are_those_of_the_schema():
    assert {name: kind for name, kind, _ in rows("Columns")} == COLUMNS
    assert [name for name, *_ in rows("Columns")] == list(COLUMNS)


def test_the_metadata_are_those_of_the_schema():
    described = dict(rows("Metadata"))
    assert set(described) >= {field.name for field in fields(TableMeta)} | {"schema_version", "mock"}
    for name, values in (("device", DeviceInfo), ("settings", RunSettings), ("imported", ImportedFrom)):
        assert {field.name for field in fields(values)} <= set(re.findall(r"`(\w+)`", f"`{described[name]}`"))


def test_the_version_is_the_current_one():
    assert f"This is\nschema version {SCHEMA_VERSION}." in TEXT
    assert [int(version) for version, _ in rows("Versions")] == list(range(SCHEMA_VERSION, 0, -1))


def test_the_readers_are_those_installed():
    assert sorted(name for name, *_ in rows("Published tables")) == list(readers())


@pytest.mark.parametrize("title", ["Hash", "Reading it without bpnas"])
def test_the_snippets_run(title, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shipped = resources.files("bpnas.tables") / "mock_s9.parquet"
    Path("s9.parquet").write_bytes(shipped.read_bytes())
    (code,) = re.findall(r"```python\n(.*?)```", section(title), re.DOTALL)
    exec(compile(code, title, "exec"), {})
