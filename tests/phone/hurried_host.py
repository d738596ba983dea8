"""`profile-device` for a phone that is not there to be timed well: python hurried_host.py OPTION...

A command that says nothing of samples takes a few of them, and not those of a second and a half for each model.
"""

import sys

from bpnas.profiler.cli import main

main(
    default_map={"warmup_runs": 1, "warmup_seconds": 0.01, "runs": 3, "seconds": 0.02},
    prog_name="profile-device",
    args=sys.argv[1:],
)
