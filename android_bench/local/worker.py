"""The process in which `LocalDevice` runs models: requests come as JSON lines on standard input, answers go back the
same way. It is a process of its own so that a model that crashes the runtime costs just that model.

    python -m bpnas.android_bench.local.worker tflite 4000000000

The number is the most memory that it may have, in bytes; 0 is no limit.
Answers: `{"hello": ...}` once; then per request either the fields of a measurement or `{"refused": "..."}`.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Any

from bpnas.android_bench.local.inputs import infer_first
from bpnas.android_bench.local.runtimes import open_session, runtime_sha256, runtime_version, tflite_package
from bpnas.android_bench.measurement import Feed, RunSettings, read_model
from bpnas.android_bench.memory import OUT_OF_MEMORY, limit_memory
from bpnas.base.errors import BpnasError


def main() -> None:
    """Serve requests until standard input ends."""
    # Runtimes print to standard output at times; the answers must not get mixed up with that.
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)

    def answer(values: dict[str, Any]) -> None:
        print(json.dumps(values), file=answers, flush=True)

    runtime, most_bytes = sys.argv[1], int(sys.argv[2])
    if most_bytes:
        limit_memory(most_bytes)
    try:
        if runtime == "tflite":
            tflite_package()
        answer({"hello": {"runtime_version": runtime_version(runtime), "runtime_sha256": runtime_sha256(runtime)}})
    except (BpnasError, ImportError) as error:
        answer({"unavailable": str(error)})
        return
    for line in sys.stdin:
        request = json.loads(line)
        path, settings = Path(request["path"]), RunSettings(**request["settings"])
        feeds = tuple(Feed(tuple(shape), tuple(values)) for shape, values in request["feeds"])
        try:
            read_model(path, request["sha256"])
            answer(time_model(runtime, path, settings, feeds))
        except MemoryError:
            answer({"refused": OUT_OF_MEMORY})
        except Exception as error:
            nothing_said = f"{type(error).__name__} without a reason, perhaps because {OUT_OF_MEMORY}"
            answer({"refused": " ".join(str(error).split()) or nothing_said})


def time_model(runtime: str, path: Path, settings: RunSettings, feeds: Sequence[Feed] = ()) -> dict[str, Any]:
    """Warm up, then take samples; see `Measurement` for the fields."""
    start = perf_counter_ns()
    session = open_session(runtime, path, settings.threads, [feed.shape for feed in feeds])
    load_ns = perf_counter_ns() - start
    infer_first(session, [feed.values for feed in feeds])  # lazy allocation and packing, no guide to the others
    invoke = session.invoke

    warmup_runs, start = 0, perf_counter_ns()
    warmup_ns = 0
    while warmup_runs < settings.warmup_runs or warmup_ns < settings.warmup_seconds * 1e9:
        invoke()
        warmup_runs += 1
        warmup_ns = perf_counter_ns() - start
    estimate_ns = warmup_ns / warmup_runs if warmup_runs else 1e9
    repeats = max(1, round(settings.sample_ms * 1e6 / max(estimate_ns, 1.0)))

    samples: list[int] = []
    start = perf_counter_ns()
    end = start + int(settings.seconds * 1e9)
    while len(samples) < settings.runs or perf_counter_ns() < end:
        before = perf_counter_ns()
        for _ in range(repeats):
            invoke()
        sample_ns = perf_counter_ns() - before
        if sample_ns > 0:
            samples.append(sample_ns)
        else:  # shorter than the clock can tell: all of them again, with more inferences each
            repeats *= 2
            samples.clear()
    return {
        "samples_ns": samples,
        "repeats": repeats,
        "warmup_runs": warmup_runs,
        "warmup_ns": warmup_ns,
        "load_ns": load_ns,
    }


if __name__ == "__main__":
    main()
