"""Whether `profile-device --models` times every model that this machine's runtimes run, and how truly.

    python benchmarks/real_models.py FOLDER [--json OUT.json] [--choices CHOICES.json] [--again 0.05] [--seconds 0.2]

FOLDER holds `.onnx` and `.tflite` files, at any depth; equal ones count once. Each is run twice, in turns
(a call with the same OUT.json goes on where the last one ended; with --again it also repeats what differed by more):

- in a process of its own by a loop that shares no code with bpnas: the runtime's Python package, inputs from numpy,
  nothing but the inference between two readings of the clock;
- by `profile-device --serial local --models`.

The sessions of both are taken in turns, so that a slow phase of the machine meets both; where other programs work on
it, the 10th percentiles say more than the medians (docs/measuring.md). It says how many files the
runtime runs, how many of those bpnas times, the ratio of both times, and of every other file the sentence that it has.
CHOICES.json has what inputs of some files need, by patterns of their names:
`{"*/silero_vad.onnx": ["--input-shape", "input=1,512", "--input-value", "sr=16000"]}`.

What is smaller than 20 us is left out of the ratios: there a call of Python is most of it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from fnmatch import fnmatch
from pathlib import Path

LOOP = r"""
import sys, time
import numpy as np

path, seconds, words = sys.argv[1], float(sys.argv[2]), sys.argv[3:]
chosen = {"--input-shape": {}, "--input-value": {}}
for option, word in zip(words[::2], words[1::2]):
    name, numbers = word.rsplit("=", 1)
    chosen[option][name] = tuple(int(n) for n in numbers.split(",") if n)
shapes, given = chosen["--input-shape"], chosen["--input-value"]
rng = np.random.default_rng(1)


def values(kind, shape, whole, name):
    if name in given:
        return np.resize(np.array(given[name], kind), shape)
    if kind.kind == "f":
        return rng.uniform(-1, 1, shape).astype(kind)
    if kind.kind == "b":
        return np.zeros(shape, kind)
    if kind.itemsize == 1:
        return rng.integers(np.iinfo(kind).min, np.iinfo(kind).max, shape, endpoint=True).astype(kind)
    return np.full(shape, whole, kind)


def onnx(whole):
    import onnxruntime
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    kinds = {"float": "f4", "double": "f8", "float16": "f2", "bool": "?"}
    batches = {node.shape[0] for node in session.get_inputs() if node.shape}
    binding, kept = session.io_binding(), []
    for node in session.get_inputs():
        name = node.type[len("tensor("):-1]
        open_one = {size for size in batches if isinstance(size, str)}
        shape = shapes.get(node.name) or [1 if size is None and n == 0 or size in open_one else size
                                          for n, size in enumerate(node.shape)]
        value = values(np.dtype(kinds.get(name, name)), shape, whole, node.name)
        kept.append(onnxruntime.OrtValue.ortvalue_from_numpy(value))
        binding.bind_ortvalue_input(node.name, kept[-1])
    for node in session.get_outputs():
        binding.bind_output(node.name)
    try:
        session.run_with_iobinding(binding)
        session.run_with_iobinding(binding)
    except Exception:  # as where outputs are not what the model says of them: what is bound can be used once only
        fed = {node.name: value.numpy() for node, value in zip(session.get_inputs(), kept)}
        return lambda: session.run(None, fed), session
    return lambda: session.run_with_iobinding(binding), (session, kept)


def tflite(whole):
    from ai_edge_litert.interpreter import Interpreter
    interpreter = Interpreter(model_path=path, num_threads=1)
    for detail in interpreter.get_input_details():
        if detail["name"] in shapes:
            interpreter.resize_tensor_input(detail["index"], shapes[detail["name"]])
    interpreter.allocate_tensors()
    for detail in interpreter.get_input_details():
        if detail["dtype"] is np.bytes_:
            data = np.full(detail["shape"], "text", object)
        else:
            data = values(np.dtype(detail["dtype"]), detail["shape"], whole, detail["name"])
        interpreter.set_tensor(detail["index"], data)
    return interpreter.invoke, interpreter


make = onnx if path.lower().endswith(".onnx") else tflite
for whole in (1, 0):
    try:
        invoke, alive = make(whole)
        invoke()
        break
    except Exception as error:
        said = error
else:
    sys.exit(f"{type(said).__name__}: {' '.join(str(said).split())[:300]}")
end = time.perf_counter() + seconds / 3
while time.perf_counter() < end:
    invoke()
start, count = time.perf_counter(), 0
while count < 3 or time.perf_counter() - start < 0.05:
    invoke()
    count += 1
each = (time.perf_counter() - start) / count
repeats, samples = max(1, round(0.001 / each)), []
end = time.perf_counter() + seconds
while len(samples) < 5 or time.perf_counter() < end:
    start = time.perf_counter_ns()
    for _ in range(repeats):
        invoke()
    samples.append((time.perf_counter_ns() - start) / repeats / 1e6)
print(*np.percentile(samples, (50, 10)))
"""

TURNS = 3
SMALLEST_MS = 0.02
LIMIT_SECONDS = 120


def main() -> None:
    """See above."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--choices", type=Path)
    parser.add_argument("--again", type=float, default=float("inf"))
    parser.add_argument("--seconds", type=float, default=0.2, help="of samples in a session; slow models need more")
    arguments = parser.parse_args()
    choices = json.loads(arguments.choices.read_text()) if arguments.choices else {}
    deadline = time.monotonic() + arguments.minutes * 60
    results = known(arguments.json, arguments.again)
    done = {one["file"] for one in results}
    with tempfile.TemporaryDirectory() as folder:
        for path in distinct(arguments.folder):
            if time.monotonic() > deadline:
                print("the time is over; the rest was not looked at")
                break
            name = str(path.relative_to(arguments.folder))
            if name in done:
                continue
            fitting = (words for pattern, words in choices.items() if fnmatch(name, pattern))
            one = {"file": name, **compare(path, Path(folder), next(fitting, []), arguments.seconds)}
            results.append(one)
            print(line(one), flush=True)
            if arguments.json:
                arguments.json.write_text(json.dumps(results, indent=1))
    print("\n".join(summary(results)))


def known(path: Path | None, most: float) -> list[dict]:
    """What an earlier call found, apart from what the runtime runs and bpnas did not time, or timed otherwise."""
    found = json.loads(path.read_text()) if path and path.exists() else []
    return [one for one in found if one["direct_ms"] is None or agrees(one, most)]


def agrees(one: dict, most: float) -> bool:
    """Whether bpnas timed what the loop did; where that is too short to compare, whether it timed it at all."""
    if one["bpnas_ms"] is None:
        return False
    return one["direct_ms"] < SMALLEST_MS or abs(one["undisturbed"] - 1) <= most


def distinct(folder: Path) -> list[Path]:
    """The model files, equal ones once."""
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in (".onnx", ".tflite") and path.is_file():
            found.setdefault(hashlib.sha256(path.read_bytes()).hexdigest(), path)
    return sorted(found.values())


def compare(path: Path, folder: Path, choices: list[str], seconds: float) -> dict:
    """One file both ways, in turns."""
    records = folder / f"{len(list(folder.iterdir()))}.sqlite"
    loops, undisturbed, product = [], [], {}
    for turn in range(TURNS):
        direct = run([sys.executable, "-c", LOOP, str(path), str(seconds), *choices])
        if direct[0] == 0:
            median, tenth = map(float, direct[1].split())
            loops.append(median)
            undisturbed.append(tenth)
        command = ["profile-device", "--serial", "local", "--models", str(path), "--records", str(records), "--json"]
        command += ["--sessions", str(turn + 1), "--max-sessions", str(turn + 1), "--seconds", str(seconds)]
        command += ["--warmup-seconds", str(seconds / 3), *choices]
        command[:1] = [str(Path(sys.executable).with_name("profile-device"))]
        done = run(command)
        product = {"exit_code": done[0], "stdout": done[1], "stderr": done[2]}
        if direct[0] != 0 or done[0] != 0:
            break
    model = json.loads(product["stdout"])["models"][0] if product["stdout"] else {}
    timed = model.get("latency_ms")
    sentence = next((text for text in product["stderr"].splitlines() if text.startswith(("Not timed", "Error"))), "")
    return {
        "direct_ms": statistics.median(loops) if loops else None,
        "direct_error": "" if loops else (direct[2].strip().splitlines() or [f"code {direct[0]}"])[-1],
        "spread": (max(loops) - min(loops)) / statistics.median(loops) if loops else None,
        "bpnas_ms": timed,
        "undisturbed": tenth_ms(records) / min(undisturbed) if loops and timed else None,
        "sentence": sentence if timed is None else "",
        "traceback": "Traceback" in product["stderr"],
    }


def tenth_ms(records: Path) -> float:
    """The smallest 10th percentile of the samples of any session."""
    with closing(sqlite3.connect(records)) as connection:
        rows = connection.execute("SELECT samples_ns, repeats FROM measurement").fetchall()
    return min(float(statistics.quantiles(json.loads(samples), n=10)[0]) / repeats / 1e6 for samples, repeats in rows)


def run(command: list[str]) -> tuple[int, str, str]:
    """Exit code and what was printed."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", timeout=LIMIT_SECONDS)
    except subprocess.TimeoutExpired:
        return 124, "", f"no end within {LIMIT_SECONDS} s"
    return done.returncode, done.stdout, done.stderr


def line(one: dict) -> str:
    """For people."""
    if one["direct_ms"] is not None and one["bpnas_ms"] is not None:
        return f"{one['bpnas_ms'] / one['direct_ms']:6.3f}  {one['direct_ms']:10.4f} ms  {one['file']}"
    runs = "the runtime runs it" if one["direct_ms"] is not None else "the runtime refuses it"
    return f"{'timed' if one['bpnas_ms'] is not None else 'none':>6}  {runs}  {one['file']}  {one['sentence']}"


def summary(results: list[dict]) -> list[str]:
    """What it comes to."""
    runs = [one for one in results if one["direct_ms"] is not None]
    both = [one for one in runs if one["bpnas_ms"] is not None]
    ratios = sorted(one["bpnas_ms"] / one["direct_ms"] for one in both if one["direct_ms"] >= SMALLEST_MS)
    lost = [one for one in runs if one["bpnas_ms"] is None]
    silent = [one for one in results if one["bpnas_ms"] is None and not one["sentence"]]
    others = sum(one["bpnas_ms"] is not None for one in results) - len(both)
    tracebacks = sum(one["traceback"] for one in results)
    lines = [
        f"{len(results)} files; the loop runs {len(runs)}, of which bpnas times {len(both)}, and {others} others",
        f"run by the loop and not timed: {len(lost)}; without a sentence: {len(silent)}; tracebacks: {tracebacks}",
    ]
    undisturbed = sorted(one["undisturbed"] for one in both if one["direct_ms"] >= SMALLEST_MS)
    return [*lines, spread("medians", ratios), spread("10th percentiles, as undisturbed", undisturbed)]


def spread(what: str, ratios: list[float]) -> str:
    """Ratios of bpnas to the loop, sorted."""
    if not ratios:
        return f"{what}: none"
    within = [sum(abs(ratio - 1) <= limit for ratio in ratios) for limit in (0.05, 0.1)]
    return (
        f"bpnas / loop, {what}, over the {len(ratios)} models of {SMALLEST_MS} ms or more: median "
        f"{statistics.median(ratios):.3f}, half of them from {ratios[len(ratios) // 4]:.3f} to "
        f"{ratios[3 * len(ratios) // 4]:.3f}; within 5%: {within[0]}, within 10%: {within[1]}"
    )


if __name__ == "__main__":
    main()
