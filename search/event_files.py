"""Curves of a run for TensorBoard, drawn from the lines that the run keeps anyway.

The event files are written again when a stage begins, from its `.jsonl` file, and then line by line: every epoch is
there just once, even if a run was stopped several times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from bpnas.base.files import naming
from bpnas.search.run_directory import RunDirectory
from bpnas.search.training.distributed import is_main

Line = Mapping[str, Any]


@contextmanager
def event_files(directory: RunDirectory, stage: str, earlier: Iterable[Line]) -> Iterator[Callable[[Line], None]]:
    """Event files in `tensorboard/STAGE`, with the lines `earlier` and those that what is yielded gets.

    Of a line, `epoch` is the step, every other number a curve of its name, and every number in a (nested) list one of
    its name and place, as `entropies/03`. Only the first process of torchrun writes.
    """
    if not is_main():
        yield lambda line: None
        return
    from torch.utils.tensorboard import SummaryWriter

    place = directory.root / "tensorboard" / stage
    for file in place.glob("events.out.tfevents.*"):
        file.unlink()
    with naming(place):
        writer = SummaryWriter(str(place))
    try:

        def write(line: Line) -> None:
            for name, value in line.items():
                if name == "epoch":
                    continue
                for tag, number in _numbers(name, value):
                    writer.add_scalar(tag, number, line["epoch"])
            with naming(place):
                writer.flush()

        for line in earlier:
            write(line)
        yield write
    finally:
        with naming(place):
            writer.close()


def _numbers(name: str, value: Any) -> Iterator[tuple[str, float]]:
    if isinstance(value, int | float):
        yield name, float(value)
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            yield from _numbers(f"{name}/{place:02d}", part)
