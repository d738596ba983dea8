"""What a phone over ADB costs beside the inferences, and what the usual way costs.

    BPNAS_PHONE_PARTS=DIR python tests/phone/serve.py          # prints SERIAL FOLDER; or a phone of yours
    python benchmarks/phone.py campaign SERIAL FOLDER [--models 500] [--runtime tflite]
    python benchmarks/phone.py per-model SERIAL FOLDER [--models 96] [--input-size 32]
    python benchmarks/phone.py push SERIAL FOLDER

`campaign`: wall time over the time in warm-up and samples, at the default settings, exports and records included (goal:
at most 1.05).
`per-model`: models with one inference each, in batches and, in turns with that, as other tools do it, with one push and
one shell a model through stock adb-shell; per model and as a ratio (goal: at least 20).
`push`: 200 MB, checked on the device, beside adb-shell, which does not check, stock and with TCP_NODELAY (goal:
140 MB/s, or 0.9 of the best of theirs).

Needs a bundle for the device's processor (`profile-device bundle --arch host` for serve.py's).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import socket
import statistics
import tempfile
import time
from pathlib import Path

from adb_shell.adb_device import AdbDeviceTcp
from campaign_overhead import time_campaign

from bpnas.android_bench.device import MODEL_SUFFIX, DeviceOptions
from bpnas.android_bench.measurement import Measurement, RunRequest, RunSettings
from bpnas.android_bench.opening import open_device
from bpnas.android_bench.phone.facts import read_facts
from bpnas.android_bench.remote import FileToPush
from bpnas.android_bench.runner.lines import runner_arguments
from bpnas.android_bench.runner.program import choose_program
from bpnas.android_bench.serials import connect
from bpnas.profiler import Backbone
from bpnas.profiler.campaign.model_files import export_part
from bpnas.profiler.paths import enumerate_parts

PUSH_BYTES = 200_000_000


def campaign(given: argparse.Namespace) -> None:
    with open_device(given.serial, given.runtime, DeviceOptions(directory=directory(given))) as device:
        time_campaign(device, given.models, given.input_size)


def per_model(given: argparse.Namespace) -> None:
    settings = RunSettings(warmup_runs=0, warmup_seconds=0, runs=1, seconds=0, sample_ms=0)
    batched, single = [], []
    with tempfile.TemporaryDirectory() as folder:
        requests = write_models(Path(folder), given)
        with open_device(given.serial, given.runtime, DeviceOptions(directory=directory(given))) as device:
            for _ in range(3):
                start = time.monotonic()
                outcomes = list(device.run(requests, settings))
                assert all(isinstance(outcome, Measurement) for outcome in outcomes)
                batched.append((time.monotonic() - start) / len(requests))
                single.append(one_by_one(given, requests[: given.singles], settings))
    ratios = [theirs / ours for theirs, ours in zip(single, batched, strict=True)]
    print(f"{given.runtime}, {len(requests)} models in batches: {describe(batched, 1000)} ms a model")
    print(f"one push and one shell a model, stock adb-shell: {describe(single, 1000)} ms a model")
    print(f"ratio: {describe(ratios)}")


def one_by_one(given: argparse.Namespace, requests: list[RunRequest], settings: RunSettings) -> float:
    """Seconds a model with stock adb-shell, for a runner that is on the device already."""
    with_remote = connect(given.serial)
    program = choose_program(read_facts(with_remote, directory(given)), given.runtime, DeviceOptions())
    with_remote.close()
    place = f"{directory(given)}/{program.name}"
    model = f"{given.folder}/model{MODEL_SUFFIX[given.runtime]}"
    command = f"{program.command(place)} --list {given.folder}/list {runner_arguments(settings)}"
    host, port = given.serial.rsplit(":", 1)
    device = AdbDeviceTcp(host, int(port), default_transport_timeout_s=30)
    device.connect()
    try:
        device.shell(f"printf '0\\t0\\t0\\t{Path(model).name}\\n' > {given.folder}/list")
        start = time.monotonic()
        for request in requests:
            device.push(str(request.path), model)
            assert '"samples_ns"' in device.shell(command, read_timeout_s=60)
        return (time.monotonic() - start) / len(requests)
    finally:
        device.close()


def push(given: argparse.Namespace) -> None:
    host, port = given.serial.rsplit(":", 1)
    path = f"{given.folder}/pushed"
    ours, stock, quick = [], [], []
    remote = connect(given.serial)
    with tempfile.NamedTemporaryFile() as file:
        content = os.urandom(PUSH_BYTES)
        file.write(content)
        file.flush()
        for _ in range(5):
            start = time.monotonic()
            remote.push([FileToPush(Path(file.name), path)])
            ours.append(PUSH_BYTES / 1e6 / (time.monotonic() - start))
            stock.append(push_with_adb_shell(host, int(port), file.name, path, no_delay=False))
            quick.append(push_with_adb_shell(host, int(port), file.name, path, no_delay=True))
    remote.close()
    print(f"bpnas, checked on the device: {describe(ours)} MB/s")
    print(f"adb-shell: {describe(stock)} MB/s; with TCP_NODELAY: {describe(quick)} MB/s")


def push_with_adb_shell(host: str, port: int, source: str, path: str, no_delay: bool) -> float:
    device = AdbDeviceTcp(host, port, default_transport_timeout_s=30)
    device.connect()
    try:
        if no_delay:
            device._io_manager._transport._connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        start = time.monotonic()
        device.push(source, path, read_timeout_s=60)
        return PUSH_BYTES / 1e6 / (time.monotonic() - start)
    finally:
        device.close()


def write_models(folder: Path, given: argparse.Namespace) -> list[RunRequest]:
    """Spread over all paths of the default backbone."""
    runtime, count = given.runtime, given.models
    parts = enumerate_parts((Backbone.load("mobilenetv2", given.input_size),))
    requests = []
    for part in parts[:: max(1, len(parts) // count)][:count]:
        content = export_part(part, runtime)
        path = folder / f"{len(requests)}{MODEL_SUFFIX[runtime]}"
        path.write_bytes(content)
        requests.append(RunRequest(part.key, 0, path, hashlib.sha256(content).hexdigest()))
    return requests


def directory(given: argparse.Namespace) -> str:
    return f"{given.folder}/bpnas"


def describe(values: list[float], scale: float = 1.0) -> str:
    low, middle, high = min(values) * scale, statistics.median(values) * scale, max(values) * scale
    return f"median {middle:.3g} ({low:.3g} to {high:.3g})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["campaign", "per-model", "push"])
    parser.add_argument("serial")
    parser.add_argument("folder", help="on the device, writable")
    parser.add_argument("--models", type=int)
    parser.add_argument("--singles", type=int, default=20, help="models that the usual way is tried with")
    parser.add_argument("--input-size", type=int, default=224)
    parser.add_argument("--runtime", default="onnxruntime", choices=["tflite", "onnxruntime"])
    given = parser.parse_args()
    given.models = given.models or (500 if given.what == "campaign" else 96)
    {"campaign": campaign, "per-model": per_model, "push": push}[given.what](given)


if __name__ == "__main__":
    main()
