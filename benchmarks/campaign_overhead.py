"""What a campaign on this machine costs beside the inferences themselves, at the default settings.

    python benchmarks/campaign_overhead.py [PARTS]

Wall time of the campaign over the time spent in warm-up and in samples, for 300 paths (about 8 minutes; goal: at most
1.10). Export, session creation, hashing, the records and the worker's start are all inside the wall time.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from bpnas.android_bench.device import open_device
from bpnas.android_bench.runner import RunSettings
from bpnas.profiler import Backbone, Records, run_campaign
from bpnas.profiler.graph import EXPORT_VERSION
from bpnas.profiler.records import Plan, Setup


def main() -> None:
    wanted = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    for runtime in ("tflite", "onnxruntime"):
        with tempfile.TemporaryDirectory() as folder, open_device("local", runtime) as device:
            setup = Setup(device.info, RunSettings(), EXPORT_VERSION)
            plan = Plan(setup, (Backbone.load("mobilenetv2", 224),), None, 1)
            with Records.write(Path(folder) / "records.sqlite") as records:
                # Some of the shuffled campaign: a budget would make the count depend on the machine.
                wall_s, counted = _run(device, records, plan, wanted)
                inference_s = sum(
                    (sum(m.samples_ns) + m.warmup_ns) / 1e9 for _, m in records.measurements()
                )  # fmt: skip
        print(f"{runtime}: {counted} models, wall {wall_s:.1f} s, inference {inference_s:.1f} s, "
              f"ratio {wall_s / inference_s:.3f}", flush=True)  # fmt: skip


class _EnoughError(Exception):
    pass


def _run(device, records, plan, wanted):  # type: ignore[no-untyped-def]
    seen = {}

    def stop(progress):  # type: ignore[no-untyped-def]
        seen["wall_s"], seen["count"] = progress.elapsed_seconds, progress.measured
        if progress.measured == wanted:
            raise _EnoughError

    with suppress(_EnoughError):
        run_campaign(device, records, plan, on_progress=stop)
    return seen["wall_s"], seen["count"]


if __name__ == "__main__":
    main()
