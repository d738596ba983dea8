"""Processes that train together."""

from __future__ import annotations

from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from bpnas.base.errors import UsageError
from bpnas.search.training.distributed import (
    SyncedBatchNorm2d,
    from_main,
    mean_over_ranks,
    process_group,
    sync_batch_norms,
)
from tests.programs import run_together

# Each process normalises its share of ten images, one has more than the other; all of it is held against one process.
PROGRAM = """
import sys
import torch
from bpnas.search.training.distributed import from_main, is_main, mean_over_ranks, process_group, rank, sync_batch_norms

torch.set_num_threads(1)


def model():
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4), torch.nn.ReLU())


with process_group():
    torch.manual_seed(1)
    images = torch.randn(10, 3, 8, 8, dtype=torch.float64) * 3 + 5
    alone, together = model().double(), model().double()
    sync_batch_norms(together)
    alone(images).square().sum().backward()
    mine = slice(0, 6) if is_main() else slice(6, 10)
    together(images[mine]).square().sum().backward()
    for (name, one), both in zip(alone.named_parameters(), together.parameters()):
        torch.testing.assert_close(mean_over_ranks(both.grad) * 2, one.grad, msg=name)
    for (name, one), both in zip(alone.named_buffers(), together.buffers()):
        torch.testing.assert_close(both, one, msg=name)
    torch.testing.assert_close(together.eval()(images), alone.eval()(images))
    assert from_main({"rank": rank()}) == {"rank": 0}
    print("as one")
"""


def test_two_processes_normalise_as_one_does(tmp_path: Path) -> None:
    program = tmp_path / "program.py"
    program.write_text(PROGRAM)
    assert run_together(2, program) == ["as one\n"] * 2


def test_alone_nothing_is_shared() -> None:
    with process_group():
        values = torch.tensor([1.0, 2.0])
        assert mean_over_ranks(values) is values
        assert from_main("here") == "here"


def test_variables_that_torchrun_would_not_leave_out_are_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UsageError, match="LOCAL_RANK and MASTER_ADDR and MASTER_PORT"), process_group():
        pass


def test_parameters_stay_the_same_when_normalisation_is_synchronised() -> None:
    model = torch.nn.Sequential(torch.nn.Sequential(torch.nn.BatchNorm2d(3)), torch.nn.ReLU())
    before = {name: value.data_ptr() for name, value in model.state_dict().items()}
    sync_batch_norms(model)
    assert isinstance(model[0][0], SyncedBatchNorm2d)
    assert {name: value.data_ptr() for name, value in model.state_dict().items()} == before
