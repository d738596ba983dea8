"""How long tests wait: for what happens for certain, and for what must be noticed when it does not happen."""

import subprocess
import time

PATIENCE = 300.0
"""Seconds in which what happens for certain has happened, on however slow a machine; below pytest's own limit, which
would say less."""

_QUIET_SECONDS = 0.02
_BUSY_SECONDS = 0.02


def slowness() -> float:
    """How many times slower this machine is, right now, than a quiet one: 1 to 20.

    A limit after which something counts as silent is multiplied by it: such limits must be short, or tests would take
    minutes, and yet what is at work on a busy machine must not exceed them.
    """
    worst = 0.0
    for _ in range(3):
        began = time.monotonic()
        subprocess.run(["true"], check=True)
        worst = max(worst, time.monotonic() - began)
    began, used = time.monotonic(), time.process_time()
    while time.process_time() - used < _BUSY_SECONDS:
        pass
    share = (time.monotonic() - began) / _BUSY_SECONDS  # of the core, which others want too
    return min(max(worst / _QUIET_SECONDS, 2.0 * share - 1.0, 1.0), 20.0)
