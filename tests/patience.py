"""How long tests wait: for what happens for certain, and for what must be noticed when it does not happen."""

import subprocess
import time

PATIENCE = 300.0
"""Seconds in which what happens for certain has happened, on however slow a machine; below pytest's own limit, which
would say less."""

_QUIET_SECONDS = 0.02


def slowness() -> float:
    """How many times longer a process takes to start and to end, right now, than on a quiet machine; 1 to 20.

    A limit after which something counts as silent is multiplied by it: such limits must be short, or tests would take
    minutes, and yet what is at work on a busy machine must not exceed them.
    """
    worst = 0.0
    for _ in range(5):
        began = time.monotonic()
        subprocess.run(["true"], check=True)
        worst = max(worst, time.monotonic() - began)
    return min(max(worst / _QUIET_SECONDS, 1.0), 20.0)
