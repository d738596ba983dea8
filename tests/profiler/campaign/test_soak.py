"""A few runs of the soak; `python benchmarks/soak.py` has more."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.patience import PATIENCE
from tests.phone.parts import phone_parts
from tests.root import ROOT

SOAK = ROOT / "benchmarks/soak.py"


@pytest.mark.slow
def test_campaigns_with_faults_at_random_moments_lose_nothing() -> None:
    phone_parts("adbd", "mounts")
    words = [sys.executable, SOAK, "--first", "4", "--runs", "5"]  # in which most kinds of faults happen
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("0 of them wrong\n")
    assert "5 runs" in done.stdout


def test_a_run_that_goes_wrong_is_told(tmp_path: Path) -> None:
    phone_parts("adbd", "mounts")
    words = [sys.executable, SOAK, "--runs", "1", "--bundle", tmp_path / "nowhere"]
    done = subprocess.run(words, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 1
    assert "WRONG: not complete after" in done.stdout
    assert done.stdout.endswith("1 of them wrong\n")
