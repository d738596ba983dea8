"""A search of seconds, ended: what stands behind tests of what is done with its files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from click.testing import CliRunner

from bpnas.search.cli import main as run_search_command
from tests.records_factory import backbone, make_plan
from tests.table_factory import write


def search_words(retrain_epochs: int) -> tuple[str, ...]:
    """Options of a search that is as small as can be."""
    text = (
        "--population 2 --sample 1 --cycles 3 --proposal-epochs 1 --proposal-images 40 --connection-epochs 2 "
        f"--connection-images 40 --retrain-epochs {retrain_epochs} --retrain-images 40 --input-size 8 --k-best 2"
    )
    return tuple(text.split())


def write_search_table(folder: Path) -> Path:
    """The table for it, a mock's."""
    return Path(write(folder / "t.parquet", make_plan(backbone(8), paths="K[13]G1,K[35]E[12]G1", mock=True)))


def finish_search(table: Path, out: Path, words: Sequence[str]) -> Path:
    """Run it to its end; `out`."""
    done = CliRunner().invoke(run_search_command, ["--table", str(table), "--out", str(out), *words])
    assert done.exit_code == 0, done.output
    return out
