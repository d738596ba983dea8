"""The main job, end to end, on this machine: no phone needed, nothing computed that could be measured.

    python examples/demo.py [--out DIR] [--runtime tflite|onnxruntime]

Profiles a small backbone here, builds the table, searches block proposals and connections on scikit-learn's digits,
retrains and exports the network, times it here, and compares the latency that the table predicted with the one
measured. Takes a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from bpnas.android_bench.device import MODEL_SUFFIX, RUNTIMES, open_device
from bpnas.android_bench.runner import Failure, RunRequest, RunSettings

BACKBONE = Path(__file__).with_name("small.toml")
PATHS = "K1G1,K3G1,K3G2,K[35]E[136]G[12]"
# The small backbone trains fast, so it can have more than the preset gives the big one.
EFFORT = (
    "--population 4 --cycles 6 --proposal-epochs 3 --proposal-images 600 --connection-epochs 6 --connection-images 800"
)
SESSIONS = 5


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs") / time.strftime("demo-%Y%m%d-%H%M%S"))
    parser.add_argument("--runtime", choices=RUNTIMES, default="tflite")
    arguments = parser.parse_args()
    out, runtime = arguments.out, arguments.runtime
    out.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()

    records, table, search = out / "local.sqlite", out / "local.parquet", out / "search"
    quick = ["--warmup-seconds", "0.1", "--seconds", "0.2"]
    where = ["--serial", "local", "--runtime", runtime, "--backbone", str(BACKBONE), "--input-size", "32"]
    call("profile-device", *where, "--paths", PATHS, "--records", str(records), "--sessions", "1", *quick)
    call("build-table", str(records), "--out", str(table))
    call("run-search", "--table", str(table), "--data", "digits", "--out", str(search), *EFFORT.split())

    network = json.loads((search / "network.json").read_text(encoding="utf-8"))
    measured_ms = time_network(search / f"network{MODEL_SUFFIX[runtime]}", runtime)
    median_ms, predicted_ms = statistics.median(measured_ms), network["predicted_latency_ms"]
    print()
    print(f"Latency predicted by the table: {predicted_ms:.3f} ms (target {network['target_ms']:.3f} ms)")
    print(
        f"Latency measured here:          {median_ms:.3f} ms, {SESSIONS} sessions' medians from {min(measured_ms):.3f} "
        f"to {max(measured_ms):.3f} ms; the table is {(predicted_ms / median_ms - 1) * 100:+.1f}% off"
    )
    print(f"Accuracy on test digits:        {network['accuracy'] * 100:.1f}%")
    print(f"Files:                          {search}/network.json, network.onnx, network.tflite; table {table}")
    print(f"All of it took {(time.monotonic() - start) / 60:.1f} minutes.")


def call(command: str, *arguments: str) -> None:
    """Run one of bpnas's commands as a person would, from beside this Python."""
    print(f"\n$ {command} {' '.join(arguments)}", flush=True)
    beside = Path(sys.executable).parent / command
    result = subprocess.run([str(beside) if beside.exists() else command, *arguments], check=False, env=os.environ)
    if result.returncode:
        sys.exit(result.returncode)


def time_network(file: Path, runtime: str) -> list[float]:
    """Medians of several fresh sessions of a model on this machine, in ms."""
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    requests = [RunRequest("network", session, file, digest) for session in range(SESSIONS)]
    medians = []
    with open_device("local", runtime) as device:
        for outcome in device.run(requests, RunSettings(warmup_seconds=0.1, seconds=0.3)):
            if isinstance(outcome, Failure):
                sys.exit(f"Error: {file} could not be timed ({outcome.kind}: {outcome.message})")
            medians.append(statistics.median(outcome.samples_ns) / outcome.repeats / 1e6)
    return medians


if __name__ == "__main__":
    main()
