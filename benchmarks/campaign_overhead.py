"""What a campaign on this machine costs beside the inferences themselves, at the default settings.

    python benchmarks/campaign_overhead.py [MODELS]

Wall time of the campaign over the time spent in warm-up and in samples, for 300 models (about 8 minutes; goal: at most
1.10). Export, session creation, hashing, the records and the worker's start are all inside the wall time.
"""

from __future__ import annotations

import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from bpnas.android_bench.device import Device
from bpnas.android_bench.measurement import RunSettings
from bpnas.android_bench.opening import open_device
from bpnas.profiler import Backbone, Records, run_campaign
from bpnas.profiler.campaign.records import Plan, Setup
from bpnas.profiler.campaign.run import Progress
from bpnas.profiler.campaign.sentinel import is_sentinel
from bpnas.profiler.models.graph import EXPORT_VERSION


class _EnoughError(Exception):
    pass


def time_campaign(device: Device, models: int, input_size: int) -> None:
    """Time so many models of the shuffled default campaign, and print the ratio."""
    wall_s = 0.0

    def stop(progress: Progress) -> None:
        nonlocal wall_s
        wall_s = progress.elapsed_seconds
        # Not a budget, which would make the count depend on the machine.
        if progress.measured + progress.failures >= models:
            raise _EnoughError

    plan = Plan(Setup(device.info, RunSettings(), EXPORT_VERSION), (Backbone.load("mobilenetv2", input_size),), None, 1)
    with tempfile.TemporaryDirectory() as folder, Records.write(Path(folder) / "records.sqlite") as records:
        with suppress(_EnoughError):
            run_campaign(device, records, plan, on_progress=stop)
        timed = [measurement for _, measurement in records.measurements()]
    inference_s = sum((sum(m.samples_ns) + m.warmup_ns) / 1e9 for m in timed)
    count = sum(not is_sentinel(measurement.key) for measurement in timed)
    print(f"{device.info.runtime}: {count} of {models} models, wall {wall_s:.1f} s, ", end="")
    print(f"inference {inference_s:.1f} s, ratio {wall_s / inference_s:.3f}", flush=True)


def main() -> None:
    models = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    for runtime in ("tflite", "onnxruntime"):
        with open_device("local", runtime) as device:
            time_campaign(device, models, 224)


if __name__ == "__main__":
    main()
