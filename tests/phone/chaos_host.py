"""`profile-device` with models for the fake runner: python chaos_host.py JSON OPTION...

The file JSON holds `contents`, of each part's model by key (null: real models), and `constants` of bpnas.android_bench.
A file `clock` next to it says by how many seconds the wall clock of this process is wrong; it may change at any moment.
"""

import json
import sys
import time
from contextlib import suppress
from importlib import import_module
from pathlib import Path

from bpnas.profiler import cli
from bpnas.profiler.campaign import model_files

given = json.loads(Path(sys.argv[1]).read_text())
for name, value in given["constants"].items():
    module, _, constant = name.rpartition(".")
    place = import_module(f"bpnas.android_bench.{module}")
    getattr(place, constant)  # one that has moved must not be missed in silence
    setattr(place, constant, value)
if given["contents"] is not None:
    model_files.export_part = lambda part, runtime: given["contents"].get(part.key, "ok").encode()


right_time, clock = time.time, Path(sys.argv[1]).with_name("clock")


def wrong_time():
    with suppress(OSError):
        return right_time() + float(clock.read_text())
    return right_time()


time.time = wrong_time
cli.main(sys.argv[2:], prog_name="profile-device")
