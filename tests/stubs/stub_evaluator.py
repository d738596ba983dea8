"""An evaluator without torch. It lies in a folder of its own, since workers must be able to import it.

Files in its folder say how it goes wrong: `kill-BLOCK` holds how often evaluating that block kills the worker,
`raise-BLOCK` what it raises, `hold-BLOCK` makes it wait until the file is gone.
"""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from bpnas.base.errors import UsageError
from bpnas.base.randomness import derived_seed
from bpnas.search.errors import DataError, InfeasibleLimitError

ERRORS = {
    "data": lambda: DataError("no images there"),
    "odd": lambda: InfeasibleLimitError(1.0, 2.0),  # its arguments are not its message
    "usage": lambda: UsageError("makes no sense"),
    "memory": lambda: MemoryError(),
}


@dataclass(frozen=True)
class Evaluated:
    score: float
    images: int = 10
    seconds: float = 0.5


def score_of(block):
    return derived_seed(7, block) / 2**63


@dataclass(frozen=True)
class Stub:
    folder: Path

    def __call__(self):
        (self.folder / f"worker-{os.getpid()}").touch()
        return self.evaluate

    def evaluate(self, block, **options):
        with (self.folder / "evaluated").open("a") as file:
            file.write(f"{os.getpid()} {block} {os.environ.get('CUDA_VISIBLE_DEVICES', '')} {options or ''}\n")
        if (kill := self.folder / f"kill-{block}").exists():
            left = int(kill.read_text())
            kill.write_text(str(left - 1))
            if left > 0:
                os.kill(os.getpid(), signal.SIGKILL)
        if (error := self.folder / f"raise-{block}").exists():
            raise ERRORS[error.read_text()]()
        while (self.folder / f"hold-{block}").exists():
            time.sleep(0.005)
        return Evaluated(score_of(block))

    def evaluated(self):
        """The lines written so far: process, block, GPUs that it sees, options."""
        file = self.folder / "evaluated"
        return [tuple(line.split(" ", 3)) for line in file.read_text().splitlines()] if file.exists() else []
