"""What the runs of all transfer tasks have in common, in a directory each.

config.json   what determines the run; a later call must agree with it
epochs.jsonl  one line per epoch
checkpoints/  the training's state
result.json   what came out, written last

Where torchrun started several processes, all call the same functions with the same arguments; the first one writes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bpnas.search.progress import Progress
from bpnas.search.run_directory import Layout, RunDirectory, Stage
from bpnas.search.transfer.earlier import bring_up_to_date

_LAYOUT = Layout(("task",), (Stage(("epochs.jsonl", "result.json")),))
_RETRY = "no result is written, call the same command again with a smaller --rate"


def result_in(
    out: str | Path,
    config: Mapping[str, Any],
    progress: Progress,
    what: str,
    run: Callable[[RunDirectory], Mapping[str, Any]],
) -> dict[str, Any]:
    """All that result.json says; where there is none yet, `run` finds it. `what` it is goes into messages.

    Raises:
        RunError: `out` belongs to a run with another `config`, or is in use.
    """
    from bpnas.search.training.distributed import from_main, is_main

    directory = RunDirectory(out, _LAYOUT, is_main())
    with directory.locked():
        if is_main():
            bring_up_to_date(directory)
        directory.agree(config)
        if from_main(directory.has("result.json")):
            progress.note(f"the {what} is there already")
        else:
            directory.write_json("result.json", run(directory))  # last, since this file says that all is done
        return from_main(directory.read_json("result.json", whole=True) if is_main() else {})


@contextmanager
def training_in(
    directory: RunDirectory, checkpoint: Path, stage: str, what: str, epochs: int, progress: Progress
) -> Iterator[Callable[[Mapping[str, Any]], None]]:
    """Around a training: gives what takes the line of each epoch, with its `epoch` and `loss`, and stores new ones.

    Raises:
        DivergedError: the one raised within, which now says what to do.
    """
    from bpnas.search.training.checkpoint import finished_epochs
    from bpnas.search.training.divergence import stage_in

    recorded = len(list(directory.lines("epochs.jsonl")))
    progress.stage(stage, epochs, finished_epochs(checkpoint))

    def report(line: Mapping[str, Any]) -> None:
        if line["epoch"] >= recorded:
            directory.append("epochs.jsonl", line)
        progress.step(f"epoch {line['epoch'] + 1}: loss {line['loss']:.3f}")

    with stage_in(directory, f"the training of {what}", lines="epochs.jsonl", checkpoint=checkpoint, retry=_RETRY):
        yield report
