"""The exported files of a network, timed on a device and noted in network.json next to what the table predicts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bpnas.android_bench.device import DeviceInfo
from bpnas.android_bench.measurement import RunSettings
from bpnas.base.errors import UsageError
from bpnas.base.plain_text import shortened
from bpnas.profiler.campaign.other_models import FilePart, file_parts
from bpnas.profiler.campaign.records import Setup, differences
from bpnas.search.errors import RunError
from bpnas.search.fields import FieldError, Fields, fields_of
from bpnas.search.networks.network_file import NetworkFile, network_values

if TYPE_CHECKING:
    from bpnas.profiler.commands.time_models import TimedModels

FLOAT_SUFFIXES = (".onnx", ".tflite")
INT8_SUFFIXES = (".int8.onnx", ".int8.tflite")


@dataclass(frozen=True, slots=True)
class Measured:
    """What was measured of one file, as network.json has it.

    Attributes:
        file: its name.
        key: its name and the beginning of its SHA-256, as in the records.
        device, model: short, and as the maker calls it.
        runtime, runtime_version: that ran it.
        latency_ms: median of the sessions' medians.
        low_ms, high_ms: its 95 % confidence interval; None of a single session.
        sessions: how many.
        flags: doubts about them, as `profile-device` has them.
        mock: computed, not measured.
        measured_at: when that was noted, as ISO 8601 in UTC.
    """

    file: str
    key: str
    device: str
    model: str
    runtime: str
    runtime_version: str
    latency_ms: float
    low_ms: float | None
    high_ms: float | None
    sessions: int
    flags: tuple[str, ...]
    mock: bool
    measured_at: str


def exported_parts(network: NetworkFile, runtime: str | None = None, *, int8: bool = True) -> dict[str, list[FilePart]]:
    """The model files next to a network.json that are there, by runtime.

    Args:
        runtime: only those that it runs.
        int8: also those in int8.

    Raises:
        UsageError: there is none, or one is no model file.
        RunError: one was changed since network.json was written.
    """
    files = _model_files(network, int8)
    for file in files:
        network.read_file(file, "write it again with run-search export" + " --int8" * (".int8." in file.name))
    found = file_parts(files)
    for each in found.left_out:
        raise UsageError(each.reason)
    wanted = {name: list(parts) for name, parts in found.groups.items() if runtime in (None, name)}
    if not wanted:
        what = "network.onnx or network.tflite" if runtime is None else f"model file for {runtime}"
        raise UsageError(f"{network.path.parent}: holds no {what}; write them with run-search export")
    return wanted


def _model_files(network: NetworkFile, int8: bool = True) -> list[Path]:
    suffixes = (*FLOAT_SUFFIXES, *INT8_SUFFIXES) if int8 else FLOAT_SUFFIXES
    return [file for suffix in suffixes if (file := network.path.with_suffix(suffix)).exists()]


def table_setup(values: Mapping[str, Any], path: Path) -> Setup | None:
    """With what the table of a network was measured; None where its network.json does not say.

    Args:
        values: of the network.json.
        path: of that file.

    Raises:
        RunError: it says so in another way than bpnas writes.
    """
    stored = values.get("table_setup")
    if stored is None:
        return None
    try:
        fields = Fields.of(stored, "table_setup")
        device, settings = fields.part("device").values, fields.part("settings").values
        return Setup(DeviceInfo(**device), RunSettings(**settings), fields.whole("export_version"))
    except (FieldError, TypeError, UsageError) as error:
        raise RunError(f"{path}: its table_setup is damaged ({shortened(str(error))})") from error


def note_measured(network: NetworkFile, timed: TimedModels) -> list[Measured]:
    """Write into network.json what was measured; it replaces what was there of the same device, runtime and file."""
    now = datetime.now(UTC).isoformat(timespec="seconds")
    found = []
    for timing in timed.timings:
        estimate, info = timing.estimate, timed.setups[timing.runtime].device
        if estimate is None or estimate.latency_ms is None:
            continue
        found.append(
            Measured(
                timing.name,
                timing.key,
                info.name,
                info.model,
                info.runtime,
                info.runtime_version,
                estimate.latency_ms,
                estimate.low_ms,
                estimate.high_ms,
                estimate.measured,
                timing.flags,
                info.mock,
                now,
            )
        )
    new = {(each.device, each.runtime, each.file): asdict(each) for each in found}
    with network_values(network.path) as values:
        kept = [old.values for old in _entries(network, values) if _key(old.values) not in new]
        values["measured"] = [*kept, *new.values()]
    return found


def _entries(network: NetworkFile, values: dict[str, Any]) -> list[Fields]:
    """What was measured before. Raises RunError."""
    with fields_of(f"{network.path}: is damaged"):
        found = Fields(values).parts("measured") if values.get("measured") is not None else []
        for entry in found:
            entry.latency("latency_ms")
    return found


def drop_outdated(network: NetworkFile, values: dict[str, Any]) -> None:
    """Take out of the values of a network.json what was measured of files that have changed since."""
    now = {part.key for parts in file_parts(_model_files(network)).groups.values() for part in parts}
    values["measured"] = [each.values for each in _entries(network, values) if each.values.get("key") in now]


def _key(entry: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    return entry.get("device"), entry.get("runtime"), entry.get("file")


def unlike(table: Setup | None, timed: TimedModels) -> list[str]:
    """A sentence for every runtime whose measurements differ from the table's in more than what was timed."""
    if table is None:
        return ["network.json does not say how its table was measured, so prediction and measurement may be unlike"]
    sentences = []
    for runtime, setup in timed.setups.items():
        different = [each for each in differences([table, setup]) if not each.startswith("runtime_sha256")]
        if table != setup:
            what = "; ".join(different) or "another build of the runtime"
            sentences.append(f"on {runtime} this is not what the table was measured with ({what})")
    return sentences
