"""A search on a table that others published says so."""

import random

import pytest

pytest.importorskip("torch")

BACKBONE = """
name = "small"
stages = [{ channels = 8, blocks = 1, stride = 2 }]
[stem]
channels = 8
[head]
channels = 16
"""
LAYERS = (
    "Conv-input:8x8x3-output:8x8x8",
    *(f"expanded_conv-input:8x8x8-output:4x4x8-expand:{e}-kernel:3-stride:2-idskip:0" for e in (2, 3, 4, 5, 6)),
    "Conv_1-input:4x4x8-output:4x4x16",
    "Logits-input:4x4x16-output:10",
)


@pytest.mark.slow
def test_the_result_says_that_the_table_was_imported(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "small.toml").write_text(BACKBONE)
    rng = random.Random(0)
    lines = [f"{layer}: {{count: 9, mean: {rng.uniform(1, 3):.3f}}}" for layer in LAYERS]
    (tmp_path / "published.yaml").write_text("\n".join(lines))
    options = ["--device", "pixel", "--backbone", "small.toml", "--input-size", 8]
    assert cli("build-table", "import", "published.yaml", *options).exit_code == 0
    micro = "--stage proposals --population 2 --sample 1 --cycles 3 --proposal-epochs 1 --proposal-images 40".split()
    done = cli("run-search", "--table", "pixel.parquet", "--input-size", 8, *micro)
    assert done.exit_code == 0, done.stderr
    assert done.stdout.startswith("Device: pixel, unknown (imported, not measured here); networks are predicted by ")
