"""The main job, end to end, on this machine: no phone needed, nothing computed that could be measured.

    python examples/demo.py [--out DIR] [--runtime tflite|onnxruntime]

Profiles a small backbone here, builds the table, searches block proposals and connections on scikit-learn's digits,
retrains and exports the network, times it here, and compares the latency that the table predicted with the one
measured. Takes a few minutes on two cores.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path

from bpnas.android_bench import RUNTIMES

BACKBONE = Path(__file__).with_name("small.toml")
PATHS = "K1G1,K3G1,K3G2,K[35]E[136]G[12]"
# The small backbone trains fast, so it can have more than the preset gives the big one.
EFFORT = (
    "--population 4 --cycles 4 --proposal-epochs 3 --proposal-images 600 --connection-epochs 6 --connection-images 600"
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

    call("run-search", "measure", str(search), *where[:4], "--sessions", str(SESSIONS))

    network = json.loads((search / "network.json").read_text(encoding="utf-8"))
    (measured,), evaluated = network["measured"], network["accuracy_on"]
    measured_ms, predicted_ms = measured["latency_ms"], network["predicted_latency_ms"]
    print()
    print(f"Latency predicted by the table: {predicted_ms:.3f} ms (target {network['target_ms']:.3f} ms)")
    print(
        f"Latency measured here:          {measured_ms:.3f} ms, 95 % interval {measured['low_ms']:.3f} to "
        f"{measured['high_ms']:.3f} ms; the table is {(predicted_ms / measured_ms - 1) * 100:+.1f}% off"
    )
    images = f"{evaluated['images']} {evaluated['split']} images of {evaluated['data']} at {evaluated['input_size']} px"
    print(f"Accuracy:                       {network['accuracy'] * 100:.1f}% on {images}")
    print(f"Files:                          {search}/network.json, network.onnx, network.tflite; table {table}")
    print(f"All of it took {(time.monotonic() - start) / 60:.1f} minutes.")


def call(command: str, *arguments: str) -> None:
    """Run one of bpnas's commands as a person would, from beside this Python."""
    print(f"\n$ {command} {' '.join(arguments)}", flush=True)
    beside = Path(sys.executable).parent / command
    result = subprocess.run([str(beside) if beside.exists() else command, *arguments], check=False, env=os.environ)
    if result.returncode:
        sys.exit(result.returncode)


if __name__ == "__main__":
    main()
