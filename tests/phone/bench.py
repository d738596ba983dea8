"""Small campaigns with the fake runner, on daemons to which things happen."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bpnas.android_bench.device import DeviceOptions
from bpnas.android_bench.measurement import RunSettings
from bpnas.android_bench.runner.device import NativeDevice, open_native_device
from bpnas.profiler import Backbone, Records, run_campaign
from bpnas.profiler.campaign.records import Plan, Setup
from bpnas.profiler.campaign.run import CampaignResult, Progress
from bpnas.profiler.paths import HEAD_CLASSES
from tests.phone.chaos import (
    PATHS,
    SIZES,
    check_records,
    model_contents,
    part_keys,
    write_backbone,
    write_fake_runner,
)
from tests.phone.daemon import Adbd

SETTINGS = RunSettings(warmup_runs=0, warmup_seconds=0, runs=1, seconds=0, timeout_seconds=2)


class Bench:
    """Small campaigns with the fake runner.

    Attributes:
        file: of the records.
        runner: the program.
        keys: of all parts.
        contents: of the models, by key; to be changed before a campaign.
        measured: in the campaign that runs.
    """

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.file = folder / "r.sqlite"
        self._backbone = write_backbone(folder)
        self.runner = write_fake_runner(folder)
        self._stack = stack
        self.keys = part_keys(self._backbone)
        self.contents = model_contents(self.keys)
        self.measured = 0

    def open(self, daemon: Adbd, serial: str = "", **options: Any) -> NativeDevice:
        """A device on that daemon."""
        chosen: dict[str, Any] = {
            "runner": self.runner,
            "directory": f"{daemon.directory}/bpnas",
            "affinity": "none",
            "keep_governor": True,
            "reconnect_seconds": 20.0,
        }
        device = open_native_device(serial or daemon.serial, "tflite", DeviceOptions(**chosen | options))
        return self._stack.enter_context(device)

    def run(self, *devices: NativeDevice, on_progress: Callable[[Progress], None] = lambda now: None) -> CampaignResult:
        """Measure what is not in the records yet."""
        backbones = tuple(Backbone.load(self._backbone, size) for size in SIZES)
        plan = Plan(Setup(devices[0].info, SETTINGS, 1), backbones, PATHS, 1, heads=HEAD_CLASSES)

        def watch(now: Progress) -> None:
            self.measured = now.measured
            on_progress(now)

        with Records.write(self.file) as records:
            return run_campaign(devices, records, plan, on_progress=watch)

    def check(self, *failing: str) -> None:
        """All parts are measured once and right, but those."""
        check_records(self.file, self.contents, failing)


def at(count: int, act: Callable[[], None]) -> Callable[[Progress], None]:
    """Do it once, when so many models have an outcome."""

    def watch(now: Progress) -> None:
        if now.measured + now.failures == count and count not in done:
            done.add(count)
            act()

    done: set[int] = set()
    return watch
