"""A device that the native runner times models on: a phone over ADB, or this machine.

Models go over in batches: while the runner works on one batch, the next one is pushed. One process times a whole batch
and answers with one line a model as it goes; only a model that kills or hangs it costs another start.
"""

from __future__ import annotations

import hashlib
import posixpath
import threading
import time
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from pathlib import Path

from bpnas.android_bench.connect import connect
from bpnas.android_bench.device import DEVICE_FOLDER, MODEL_SUFFIX, Conditions, Device, DeviceInfo, DeviceOptions
from bpnas.android_bench.errors import DeviceChangedError, DeviceError, DeviceLostError, DeviceSpaceError
from bpnas.android_bench.local.held_cores import sharing_a_clock
from bpnas.android_bench.measurement import Measurement, Outcome, RunRequest, RunSettings
from bpnas.android_bench.phone.conditions import lasting, read_conditions, wait_until_cool, watch_files
from bpnas.android_bench.phone.device_folder import DeviceFolder
from bpnas.android_bench.phone.facts import PhoneFacts, base_folder, device_info, read_facts
from bpnas.android_bench.phone.governor import Preparation, prepare
from bpnas.android_bench.phone.hardware import cores_in, cores_of
from bpnas.android_bench.remote import Remote, quote
from bpnas.android_bench.runner.batch import ModelBatch, failure_of
from bpnas.android_bench.runner.installed import InstalledRunner
from bpnas.android_bench.runner.lines import (
    OperatorTime,
    Profiled,
    Refused,
    Timed,
    parse_line,
    runner_arguments,
)
from bpnas.android_bench.runner.program import choose_program
from bpnas.android_bench.runner.session import EXIT_MODELS, MayNotStartError, NativeSession, start_error
from bpnas.android_bench.threads import check_threads
from bpnas.base.cores import own_cores
from bpnas.base.errors import UsageError
from bpnas.base.plain_text import printable

BATCH_MODELS = 64
"""So many go over together at most; see also `model_batch.MAX_BYTES`."""

_FIRST_BATCH_MODELS = 8  # nothing runs while the first one is written and pushed

_FRESH_SECONDS = 2.0
_COOL_SECONDS = 300.0
_MAX_COOL_SECONDS = 1800.0  # before a batch; after that somebody has to do something
_AGAIN_SECONDS = 0.5
_MAX_LOSSES = 2  # of the device while one and the same model runs: then it is the model's fault
_MAX_PUSHES = 5  # of one batch, if the device is lost each time
_MAX_STARTS = 3  # of the runner without a word about any model
_MAX_SLOW = 3  # models in a row on a core that does not get back to its speed


class NativeDevice(Device):
    """A device with the native runner on it.

    Args:
        remote: connected; closed with this device.
        runtime: one of `RUNTIMES`.
        options: see `DeviceOptions`.

    Raises:
        DeviceError: the device cannot be used; `profile-device doctor` tells why.
        RuntimeUnavailableError: the runtime does not start there.
        UsageError: the mask of cores makes no sense.
    """

    def __init__(self, remote: Remote, runtime: str, options: DeviceOptions) -> None:
        self._remote, self._runtime, self._options = remote, runtime, options
        self._ending = threading.Event()
        self._folder: DeviceFolder | None = None
        self._preparation: Preparation | None = None
        self._session: NativeSession | None = None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix=f"push {remote.serial}")
        self._batches = 0
        self._conditions: dict[str, float | str] = {}
        self._read_at = float("-inf")
        self._baseline_ns = 0.0
        self._slow_in_a_row = 0
        try:
            self._base = base_folder(remote.serial, options.directory)
            self._facts = read_facts(remote, self._base)
            self._affinity = _mask(options.affinity, self._facts)
            self._program = choose_program(self._facts, runtime, options)
            self._info = self._set_up()
        except BaseException:
            self.close()
            raise

    @property
    def info(self) -> DeviceInfo:
        return self._info

    @property
    def cores(self) -> int | None:
        """How many cores a model may run on, as the runner says; None where nobody tells."""
        return cores_in(self._runner.affinity) or len(self._facts.cores) or None

    def conditions(self) -> Conditions:
        return dict(self._conditions)

    def close(self) -> None:
        self._ending.set()
        session, self._session = self._session, None
        if session is not None:
            session.close()
        self._pool.shutdown(cancel_futures=True)
        try:
            self._give_back()
        finally:
            self._remote.close()

    def _give_back(self) -> None:
        preparation, self._preparation = self._preparation, None
        folder, self._folder = self._folder, None
        try:
            if preparation is not None:
                preparation.restore()
        finally:
            if folder is not None:
                folder.close()

    # --- getting ready, at the start and after a loss

    def _set_up(self) -> DeviceInfo:
        if not self._facts.writable or not self._facts.executable:
            what = "run" if self._facts.writable else "written"
            raise DeviceError(
                f"{self._remote.serial}: files in {self._base} cannot be {what} on the device; see 'profile-device "
                f"doctor --serial {self._remote.serial}'"
            )
        self._folder = folder = DeviceFolder(self._remote, self._facts, self._cores())
        self._folder.keep_bundle(self._program.name)
        self._runner = InstalledRunner(self._remote, self._base, self._program, self._facts, self._affinity)
        info = device_info(
            self._facts,
            runtime=self._runtime,
            runtime_version=self._runner.version,
            runtime_sha256=self._program.runtime_sha256,
            affinity=self._affinity,
        )
        pinned = self._affinity or "none"
        self._preparation = prepare(self._remote, self._facts, folder.token, self._options.keep_governor, pinned)
        return info

    def _cores(self) -> frozenset[int]:
        """Those of this machine that nobody else may time on meanwhile; on a phone it is all."""
        cores = frozenset(cores_of(self._affinity)) or own_cores()
        sets_governor = self._facts.root and not self._options.keep_governor
        return sharing_a_clock(cores) if sets_governor else cores

    def _come_back(self, loss: DeviceLostError) -> None:
        """Wait for the device and make it ready again.

        Raises:
            DeviceLostError: it did not come back in time.
            DeviceChangedError: it came back as another.
        """
        deadline, delay = time.monotonic() + self._options.reconnect_seconds, 0.5
        self._preparation = self._folder = None  # the device itself gives back what the connection held
        last: DeviceError = loss
        while not self._ending.wait(min(delay, max(0.0, deadline - time.monotonic()))):
            try:
                self._remote.reconnect()
                self._facts = read_facts(self._remote, self._base)
                info = self._set_up()
            except DeviceError as error:
                last = error
                if time.monotonic() > deadline:
                    break
                delay = min(2 * delay, 30.0)
                continue
            if info != self._info:
                raise DeviceChangedError(
                    f"{self._remote.serial}: another device came back in its place ({_difference(self._info, info)}); "
                    "what was measured until then is kept, measure this one into another records file"
                )
            return
        raise DeviceLostError(
            f"{self._remote.serial}: lost, and not back within {self._options.reconnect_seconds:g} s ({last}); what "
            "was measured until then is kept, call the same command again when it is back"
        )

    # --- batches

    def run(self, requests: Iterable[RunRequest], settings: RunSettings) -> Iterator[Outcome]:
        check_threads(self, settings, self._remote.serial, self._affinity)
        source = iter(requests)
        coming = self._pool.submit(self._load, source, _FIRST_BATCH_MODELS)
        try:
            while (batch := self._arrived(coming)) is not None:
                coming = self._pool.submit(self._load, source, BATCH_MODELS)
                yield from self._run_batch(batch, settings)
                self._forget(batch)
        finally:
            coming.cancel()

    def operators(self, path: Path, settings: RunSettings) -> tuple[OperatorTime, ...]:
        """The operators of `profile`; raises what that raises."""
        return self.profile(path, settings).operators

    def profile(self, path: Path, settings: RunSettings) -> Profiled:
        """How long each operator of a model takes, in a pass of its own after the timing.

        Raises:
            UsageError: the file cannot be read, or there are more threads than cores.
            DeviceError: the runtime does not tell, or refuses the model.
        """
        check_threads(self, settings, self._remote.serial, self._affinity)
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
        if not self._runner.is_ours:
            raise DeviceError(f"{path}: operators are timed by bpnas' own runner only; leave out --runner")
        batch = ModelBatch.take(iter([RunRequest(path.name, 0, path, digest)]), 1, 0, MODEL_SUFFIX[self._runtime])
        assert batch is not None
        self._push(batch)
        command, _ = self._runner.call([batch.file(0)], 0, settings, self._arguments(settings, profile=True))
        limit = 2 * settings.timeout_seconds + _COOL_SECONDS
        result = self._remote.shell(f"cd {quote(batch.place)} || exit 1\n{command}", limit)
        self._forget(batch)
        answers = [parse_line(line) for line in result.output.splitlines()]
        for answer in answers:
            if isinstance(answer, Profiled) and answer.operators:
                return answer
        reasons = [answer.unavailable for answer in answers if isinstance(answer, Profiled)]
        reasons += [answer.message for answer in answers if isinstance(answer, Refused)]
        said = printable(result.errors.strip().rpartition(b"\n")[2])
        reason = reasons[0] if reasons else said or f"exit code {result.exit_code}"
        raise DeviceError(f"{path}: no times of operators from {self._runtime} ({reason})")

    def _load(self, source: Iterator[RunRequest], most: int) -> tuple[ModelBatch | None, DeviceError | None]:
        """Take the next batch and push it. What goes wrong with the device comes back beside the batch: the requests
        are taken, and must not get lost.
        """
        batch = ModelBatch.take(source, most, self._batches, MODEL_SUFFIX[self._runtime])
        self._batches += 1
        try:
            if batch is not None:
                self._push(batch)
        except DeviceError as error:
            return batch, error
        return batch, None

    def _push(self, batch: ModelBatch) -> None:
        batch.push(self._remote, self._place(batch))

    def _place(self, batch: ModelBatch) -> str:
        return f"{self._taken().run}/{batch.number}"

    def _taken(self) -> DeviceFolder:
        if self._folder is None:
            raise DeviceLostError(f"{self._remote.serial}: not connected")
        return self._folder

    def _arrived(self, coming: Future[tuple[ModelBatch | None, DeviceError | None]]) -> ModelBatch | None:
        """The batch, on the device whatever it takes.

        Raises:
            DeviceError: it cannot be brought there.
        """
        batch, error = coming.result()
        if batch is not None and error is not None:
            self._push_again(batch, error)
        return batch

    def _push_again(self, batch: ModelBatch, error: DeviceError) -> None:
        """Push a batch where that failed with `error`, as often as there is hope.

        Raises:
            DeviceError: there is none.
        """
        for _ in range(_MAX_PUSHES):
            # For want of space it is tried once more, for now the batch before it is gone; and a device that was lost
            # may be back already, if it was missed in the other thread too.
            if not isinstance(error, DeviceLostError | DeviceSpaceError):
                break
            try:
                self._push(batch)
                return
            except DeviceLostError as loss:
                error = loss
                self._come_back(loss)
            except DeviceSpaceError as full:
                if isinstance(error, DeviceSpaceError):
                    raise
                error = full
        raise error

    def _forget(self, batch: ModelBatch) -> None:
        batch.contents.clear()
        if self._folder is not None:
            with suppress(DeviceLostError):  # then the device does it; the next push will notice
                self._folder.remove(batch.place)

    def _run_batch(self, batch: ModelBatch, settings: RunSettings) -> Iterator[Outcome]:
        failures = list(batch.failures)
        with closing(self._time_all(batch, settings)) as outcomes:
            for index in range(len(batch.requests) + 1):
                while failures and failures[0][0] == index:
                    yield failures.pop(0)[1]
                if index < len(batch.requests):
                    yield next(outcomes)

    def _time_all(self, batch: ModelBatch, settings: RunSettings) -> Generator[Outcome]:
        """An outcome for every request, through as many processes as it takes."""
        index, losses, starts = 0, 0, 0
        while index < len(batch.requests):
            started_at = time.time()
            session = None
            try:
                if batch.place != self._place(batch):  # pushed just while the connection was made anew
                    self._push(batch)
                before = self._before_batch()
                # After a loss the next one goes alone: the answer of the model before it may have been lost with the
                # connection, and so not even its name is sure.
                last = index + 1 if losses else len(batch.requests)
                session = self._session = self._start(batch, index, last, settings)
                for result in session.outcomes():
                    request = batch.requests[index]
                    index, losses, starts = index + 1, 0, 0
                    if isinstance(result, Timed) and "throttled" in result.after:
                        yield failure_of(request, "invalid", self._slowness())
                        self._stop_if_slow()
                    elif isinstance(result, Timed):
                        self._slow_in_a_row = 0
                        yield self._measurement(request, result, before, started_at, index == len(batch.requests))
                    else:
                        kind = "refused" if isinstance(result, Refused) else result.kind
                        yield failure_of(request, kind, result.message)
                    before, started_at = lasting(before), time.time()
            except DeviceLostError as error:
                if self._ending.is_set():
                    raise
                losses += 1
                if losses > _MAX_LOSSES and session is not None and session.has_started:
                    message = f"the device was lost {losses} times while this model ran"
                    yield failure_of(batch.requests[index], "crash", message)
                    index, losses = index + 1, 0
                elif losses > _MAX_LOSSES + 3:
                    raise
                self._come_back(error)
                self._push_again(batch, error)
            except MayNotStartError as error:
                starts += 1
                if starts == _MAX_STARTS or error.exit_code not in (0, EXIT_MODELS):
                    raise start_error(self._remote.serial, self._runtime, error) from None
                self._push(batch)  # the models are not as they were

    def _slowness(self) -> str:
        limit = self._options.sentinel_limit
        return f"its core stayed more than {limit:g} times slower than at the beginning, cooled down or not"

    def _stop_if_slow(self) -> None:
        self._slow_in_a_row += 1
        if self._slow_in_a_row == _MAX_SLOW:
            raise DeviceError(
                f"{self._remote.serial}: {_MAX_SLOW} models in a row were timed in vain, for {self._slowness()}; let "
                "the phone cool, close what runs on it, and call the same command again, or raise --sentinel-limit"
            )

    # --- one process

    def _before_batch(self) -> dict[str, float | str]:
        # A batch follows upon the one before: what was read at the end of that is the state now.
        if time.monotonic() - self._read_at > _FRESH_SECONDS:
            self._read_conditions()
        temperature, limit = self._conditions.get("temperature_c"), self._options.max_temperature_c
        if isinstance(temperature, float) and 0 < limit < temperature:
            wait_until_cool(
                self._remote,
                self._facts,
                limit,
                _MAX_COOL_SECONDS,
                on_wait=lambda celsius: self._conditions.update(temperature_c=celsius, waiting="too hot"),
                sleep=self._sleep,
            )
            self._read_conditions()
        return {"serial": self._remote.serial, **self._conditions}

    def _read_conditions(self) -> None:
        self._conditions = read_conditions(self._remote, self._facts, self._options.affinity)
        self._read_at = time.monotonic()

    def _sleep(self, seconds: float) -> None:
        if self._ending.wait(seconds):
            raise DeviceLostError(f"{self._remote.serial}: closed while it was waiting")

    def _start(self, batch: ModelBatch, first: int, last: int, settings: RunSettings) -> NativeSession:
        """A process for the models of a batch from number `first` to before number `last`."""
        files = [batch.file(index) for index in range(last)]
        command, parse = self._runner.call(files, first, settings, self._arguments(settings))
        folder = self._taken()
        return NativeSession(
            self._remote,
            folder.place_runner(batch.place) + command,
            [str(index) for index in range(last)],
            first,
            settings.timeout_seconds,
            _COOL_SECONDS,
            self._runner.check,
            parse,
        )

    def _arguments(self, settings: RunSettings, profile: bool = False) -> str:
        options, facts = self._options, self._facts
        zone, limit = facts.cpu_zone, options.max_temperature_c
        # What is no phone shares its cores with other work: a slow moment there is no throttling.
        guarded = facts.is_android and not facts.is_emulator and options.sentinel_limit > 0
        return runner_arguments(
            settings,
            affinity=self._affinity,
            watches=[
                (watch.name, watch.path, watch.scale)
                for watch in watch_files(facts, options.affinity)
                if watch.scale is not None or self._runner.reads_words
            ],
            hot=None if zone is None or limit <= 0 else (zone.path, zone.scale, limit),
            cool_seconds=_COOL_SECONDS,
            sentinel=(options.sentinel_limit, self._baseline_ns) if guarded else None,
            profile=profile,
        )

    def _measurement(
        self, request: RunRequest, timed: Timed, before: dict[str, float | str], started_at: float, is_last: bool
    ) -> Measurement:
        sentinel = timed.before.get("sentinel_ns")
        if not self._baseline_ns and isinstance(sentinel, float):
            self._baseline_ns = sentinel
        after = dict(timed.after)
        if is_last:  # what only the shell tells is read around a whole batch
            with suppress(DeviceError):
                self._read_conditions()
                after = {**self._conditions, **timed.after}
        self._conditions.update(timed.after)
        return Measurement(
            key=request.key,
            session=request.session,
            sha256=request.sha256,
            samples_ns=timed.samples_ns,
            repeats=timed.repeats,
            warmup_runs=timed.warmup_runs,
            warmup_ns=timed.warmup_ns,
            load_ns=timed.load_ns,
            started_at=started_at,
            conditions={"before": {**before, **timed.before}, "after": after},
        )


def open_native_device(serial: str, runtime: str, options: DeviceOptions) -> NativeDevice:
    """The device with that serial; raises what `connect` and `NativeDevice` raise.

    One that is lost on the way is tried once more: AOSP's daemon, when it wakes up and finds connections whose other
    side has given up, drops the first good one along with them.
    """

    def opened() -> NativeDevice:
        return NativeDevice(connect(serial, posixpath.dirname(options.directory or DEVICE_FOLDER)), runtime, options)

    try:
        return opened()
    except DeviceLostError:
        time.sleep(_AGAIN_SECONDS)
        return opened()


def _mask(affinity: str | None, facts: PhoneFacts) -> str:
    """The mask to pin to, without leading zeros; empty for none."""
    if affinity is None:
        return facts.big_mask if facts.is_android else ""
    if affinity == "none":
        return ""
    try:
        mask = int(affinity, 16)
    except ValueError:
        mask = 0
    if not 0 < mask < 1 << 128:
        raise UsageError(f"--affinity {affinity!r} is no mask of cores: write it in hexadecimal, as f0, or 'none'")
    return f"{mask:x}"


def _difference(old: DeviceInfo, new: DeviceInfo) -> str:
    names = [name for name in DeviceInfo.__slots__ if getattr(old, name) != getattr(new, name)]
    return "; ".join(f"{name}: {getattr(old, name)} | {getattr(new, name)}" for name in names)
