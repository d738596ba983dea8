"""What a record says of its model's conditions was read around that model, not remembered from an earlier one."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from bpnas.android_bench.device import DeviceOptions
from bpnas.android_bench.measurement import Measurement, RunSettings
from bpnas.android_bench.remote import FileToPush
from bpnas.android_bench.runner.device import NativeDevice
from tests.folder_phone import FolderPhone
from tests.phone.chaos import write_fake_runner, write_requests

SETTINGS = RunSettings(warmup_runs=0, warmup_seconds=0, runs=1, seconds=0, timeout_seconds=60)
GOVERNOR = "sys/devices/system/cpu/cpu4/cpufreq/scaling_governor"

Measure = Callable[..., list[Measurement]]


class PhoneForPrograms(FolderPhone):
    """It also takes programs, which are files of this machine."""

    def push(self, files: Sequence[FileToPush]) -> None:
        for file in files:
            if isinstance(file.source, Path):
                super(FolderPhone, self).push([file])
            else:
                super().push([file])


@pytest.fixture
def phone(tmp_path: Path) -> Iterator[PhoneForPrograms]:
    with closing(PhoneForPrograms(tmp_path / "phone")) as phone:
        yield phone


@pytest.fixture
def measure(phone: PhoneForPrograms, tmp_path: Path) -> Measure:
    """Time models with a runner, by default one that watches words."""

    def measured(contents: Sequence[str], runner: Path | None = None, **options: object) -> list[Measurement]:
        runner = runner or write_fake_runner(tmp_path)
        chosen = DeviceOptions(runner=runner, directory=phone.base, keep_governor=True, **options)  # type: ignore[arg-type]
        with NativeDevice(phone, "tflite", chosen) as device:
            outcomes = list(device.run(write_requests(tmp_path, contents), SETTINGS))
        assert all(isinstance(outcome, Measurement) for outcome in outcomes), outcomes
        return outcomes  # type: ignore[return-value]

    return measured


def governors(measurements: Sequence[Measurement]) -> list[tuple[object, object]]:
    return [tuple(one.conditions[when].get("governor") for when in ("before", "after")) for one in measurements]  # type: ignore[misc]


def test_the_governor_is_read_before_and_after_every_model(phone: PhoneForPrograms, measure: Measure) -> None:
    """Somebody resets it in the middle of a batch."""
    phone.set_governors(*["performance"] * 8)
    contents = ["ok:1", f"write:{phone.root / GOVERNOR}:schedutil", "ok:2", "ok:3"]
    assert governors(measure(contents, affinity="10")) == [
        ("performance", "performance"),
        ("performance", "schedutil"),
        ("schedutil", "schedutil"),
        ("schedutil", "schedutil"),
    ]


def old_runner(folder: Path) -> Path:
    """One that does not know words, and ends when it is asked for them."""
    runner = write_fake_runner(folder)
    text = runner.read_text().replace("            watch_text=True,\n", "")
    ending = "if arguments().watch_text:\n    sys.exit(2)\nmain()\n"
    runner.write_text(text.removesuffix("main()\n") + ending)
    return runner


def test_an_older_runner_claims_no_governor_that_nobody_read(
    phone: PhoneForPrograms, measure: Measure, tmp_path: Path
) -> None:
    phone.set_governors(*["performance"] * 8)
    contents = ["ok:1", f"write:{phone.root / GOVERNOR}:schedutil", "ok:2", "ok:3"]
    first, second, third, last = measure(contents, old_runner(tmp_path), affinity="10")
    assert first.conditions["before"]["governor"] == "performance"  # by the shell, right before
    assert last.conditions["after"]["governor"] == "schedutil"  # and right after
    for one in (second, third):
        assert "governor" not in one.conditions["before"].keys() | one.conditions["after"].keys()


def test_nor_do_clock_and_temperature_come_from_an_earlier_model(measure: Measure) -> None:
    """The fake runner reads no numbers; what lasts, as the screen's state, is said of a whole batch."""
    first, second = measure(["ok:1", "ok:2"])
    assert {"cpu4_mhz", "temperature_c"} <= first.conditions["before"].keys()
    assert not {"cpu4_mhz", "temperature_c"} & second.conditions["before"].keys()
    assert second.conditions["before"]["screen"] == first.conditions["before"]["screen"] == "off"
    assert json.dumps(second.conditions)
