"""Commands that are ended in the middle of their work, wherever that is on a machine of whatever speed."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.patience import PATIENCE

_STUB = Path(__file__).parent / "stubs/halt"


@contextmanager
def halted(
    command: Sequence[str | Path], mark: Path, where: Path, lines: int = 0, **popen: Any
) -> Iterator[subprocess.Popen[str]]:
    """A command of Python that is held up once `where`, which may be a pattern, has that many lines; it waits for a
    signal.

    Args:
        command: with its arguments.
        mark: a file to be made; a name that nothing else has.
        where: a file that it writes.
        lines: see there.
        popen: more arguments of Popen.
    """
    mark.unlink(missing_ok=True)
    environment = popen.pop("env", os.environ) | {
        "PYTHONPATH": str(_STUB),
        "HALT_WHERE": str(where),
        "HALT_LINES": str(lines),
        "HALT_MARK": str(mark),
    }
    with subprocess.Popen(command, text=True, env=environment, **popen) as process:
        try:
            deadline = time.monotonic() + PATIENCE
            while not mark.exists():
                assert process.poll() is None, f"it ended with {process.returncode} before {where} had {lines} lines"
                assert time.monotonic() < deadline
                time.sleep(0.01)
            yield process
        finally:
            process.kill()
