"""This machine as a device: a worker process times the models, and is replaced when one of them kills it."""

from __future__ import annotations

import json
import os
import platform
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bpnas.android_bench.device import Conditions, Device, DeviceInfo
from bpnas.android_bench.errors import RuntimeUnavailableError
from bpnas.android_bench.local.held_cores import HeldCores
from bpnas.android_bench.measurement import Failure, FailureKind, Measurement, Outcome, RunRequest, RunSettings
from bpnas.android_bench.memory import is_out_of_memory, memory_of_this_machine, most_bytes, with_remedy
from bpnas.android_bench.threads import check_threads
from bpnas.base.cores import own_cores, usable_cores
from bpnas.base.fields import FieldError, Fields
from bpnas.base.strict_json import parsed

_START_SECONDS = 120.0
_MAX_ANSWER_BYTES = 64 << 20


class _WorkerError(Exception):
    def __init__(self, kind: FailureKind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class _Worker:
    """One worker process and the lines it answers with."""

    def __init__(self, runtime: str, descriptors: Sequence[int], most_bytes: int) -> None:
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "bpnas.android_bench.local.worker", runtime, str(most_bytes)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            bufsize=0,
            pass_fds=descriptors,
            start_new_session=True,  # Ctrl-C goes to the campaign, which ends the worker in its own time
        )
        self._buffer = b""

    def ask(self, request: dict[str, Any] | None, timeout_seconds: float) -> dict[str, Any]:
        """Send `request` (None: just wait) and return the next answer; raises `_WorkerError`."""
        assert self._process.stdin is not None
        if request is not None:
            try:
                self._process.stdin.write(json.dumps(request).encode() + b"\n")
            except BrokenPipeError:
                raise self._died() from None
        line = self._read_line(time.monotonic() + timeout_seconds, timeout_seconds)
        try:
            answer = parsed(line)
        except ValueError:
            raise _WorkerError("invalid", f"the worker answered {line[:80]!r}, which is no JSON") from None
        if not isinstance(answer, dict):
            raise _WorkerError("invalid", f"the worker answered {line[:80]!r}, which is no JSON object")
        return answer

    def _read_line(self, deadline: float, timeout_seconds: float) -> bytes:
        assert self._process.stdout is not None
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0 or not select.select([self._process.stdout], [], [], left)[0]:
                raise _WorkerError("timeout", f"no answer within {timeout_seconds:g} s")
            chunk = os.read(self._process.stdout.fileno(), 1 << 20)
            if not chunk:
                raise self._died()
            self._buffer += chunk
            if len(self._buffer) > _MAX_ANSWER_BYTES:
                raise _WorkerError("invalid", f"the worker's answer exceeds {_MAX_ANSWER_BYTES} bytes")
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line

    def _died(self) -> _WorkerError:
        code = self._process.wait()
        self._errors.seek(max(0, self._errors.seek(0, os.SEEK_END) - 4096))
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        how = f"killed by signal {-code}" if code < 0 else f"exit code {code}"
        return _WorkerError("crash", f"the process died ({how}){': ' + lines[-1] if lines else ''}")

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._errors):
            if stream is not None:
                stream.close()


class LocalDevice(Device):
    """This machine, through the runtime that is installed next to bpnas; its cores are held meanwhile.

    Args:
        runtime: one of `RUNTIMES`.
        max_memory_gb: as in `DeviceOptions`.

    Raises:
        RuntimeUnavailableError: the runtime is not installed, or does not start.
        DeviceError: somebody else times models on one of the cores.
    """

    def __init__(self, runtime: str, max_memory_gb: float | None = None) -> None:
        self._runtime = runtime
        self._max_memory_gb = max_memory_gb
        self._most_bytes = most_bytes(max_memory_gb, memory_of_this_machine())
        self._worker: _Worker | None = None
        self._held = HeldCores(own_cores())
        try:
            self._info = self._start()
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> DeviceInfo:
        return self._info

    @property
    def cores(self) -> int:
        """How many cores a model may run on: those of this process."""
        return usable_cores()

    def conditions(self) -> Conditions:
        values: dict[str, float | str] = {"load_1min": round(os.getloadavg()[0], 2)}
        frequency = _read_number("/sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq")
        if frequency is not None:
            values["cpu0_mhz"] = frequency / 1000
        temperature = _read_number("/sys/class/thermal/thermal_zone0/temp")
        if temperature is not None:
            values["temperature_c"] = temperature / 1000
        return values

    def run(self, requests: Iterable[RunRequest], settings: RunSettings) -> Iterator[Outcome]:
        check_threads(self, settings, "local")
        for request in requests:
            yield self._run_one(request, settings)

    def _run_one(self, request: RunRequest, settings: RunSettings) -> Outcome:
        if self._worker is None:
            self._start()
        assert self._worker is not None
        before, started_at = dict(self.conditions()), time.time()

        def failure(kind: FailureKind, message: str) -> Failure:
            return Failure(request.key, request.session, request.sha256, kind, message, started_at)

        order = {
            "path": str(request.path.absolute()),
            "sha256": request.sha256,
            "settings": asdict(settings),
            "feeds": [[feed.shape, feed.values] for feed in request.feeds],
        }
        try:
            answer = self._worker.ask(order, settings.timeout_seconds)
            if "refused" in answer:
                message = str(answer["refused"])
                if is_out_of_memory(message):
                    self._stop()  # what is left of it may be in pieces
                return failure("refused", with_remedy(message, self._max_memory_gb))
            told = Fields(answer)
            samples = told.wholes("samples_ns", 1)
            if not samples:
                raise FieldError("'samples_ns' must have a sample")
            return Measurement(
                key=request.key,
                session=request.session,
                sha256=request.sha256,
                samples_ns=tuple(samples),
                repeats=told.whole("repeats", 1),
                warmup_runs=told.whole("warmup_runs"),
                warmup_ns=told.whole("warmup_ns"),
                load_ns=told.whole("load_ns"),
                started_at=started_at,
                conditions={"before": before, "after": dict(self.conditions())},
            )
        except _WorkerError as fault:
            self._stop()
            return failure(fault.kind, with_remedy(str(fault), self._max_memory_gb))
        except FieldError as fault:
            self._stop()
            return failure("invalid", f"the worker answered no measurement: {fault}")
        except BaseException:  # also Ctrl-C: the next answer would belong to this request
            self._stop()
            raise

    def _start(self) -> DeviceInfo:
        self._worker = _Worker(self._runtime, self._held.descriptors, self._most_bytes)
        try:
            answer = self._worker.ask(None, _START_SECONDS)
        except _WorkerError as fault:
            self._stop()
            raise RuntimeUnavailableError(f"runtime {self._runtime} does not start on this machine: {fault}") from None
        if "hello" not in answer:
            self._stop()
            raise RuntimeUnavailableError(str(answer.get("unavailable", answer)))
        try:
            hello = Fields(answer).part("hello")
            version, sha256 = hello.text("runtime_version"), hello.text("runtime_sha256")
        except FieldError as fault:
            self._stop()
            raise RuntimeUnavailableError(f"runtime {self._runtime} does not start on this machine: {fault}") from None
        return DeviceInfo(
            name="local",
            mock=False,
            model=f"this machine ({platform.node()})",
            platform=_processor(),
            os=f"{platform.system()} {platform.release()}",
            abi=platform.machine(),
            runtime=self._runtime,
            runtime_version=version,
            runtime_sha256=sha256,
        )

    def _stop(self) -> None:
        if self._worker is not None:
            self._worker.stop()
            self._worker = None

    def close(self) -> None:
        self._stop()
        self._held.close()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or "unknown"
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Hardware"))]
    return f"{names[0] if names else 'unknown'} x {os.cpu_count()}"


def _read_number(path: str) -> float | None:
    try:
        return float(Path(path).read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None
