"""A device that the native runner times models on: a phone over ADB, or this machine.

Models go over in batches: while the runner works on one batch, the next one is pushed. One process times a whole batch
and answers with one line a model as it goes; only a model that kills or hangs it costs another start.
"""

from __future__ import annotations

import hashlib
import posixpath
import time
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing, suppress
from pathlib import Path

from bpnas.android_bench.device import DEVICE_FOLDER, Conditions, Device, DeviceInfo, DeviceOptions
from bpnas.android_bench.errors import DeviceError, DeviceLostError
from bpnas.android_bench.measurement import Feed, Measurement, Outcome, RunRequest, RunSettings
from bpnas.android_bench.memory import option_text, with_remedy
from bpnas.android_bench.phone.conditions import lasting, read_conditions, wait_until_cool, watch_files
from bpnas.android_bench.phone.hardware import cores_in
from bpnas.android_bench.remote import Remote, quote
from bpnas.android_bench.runner.batch import ModelBatch, failure_of
from bpnas.android_bench.runner.batch_feed import BatchFeed
from bpnas.android_bench.runner.held_device import HeldDevice
from bpnas.android_bench.runner.installed import NEW_RUNNER
from bpnas.android_bench.runner.lines import Profiled, Refused, Timed, parse_line, runner_arguments
from bpnas.android_bench.runner.session import EXIT_MODELS, MayNotStartError, NativeSession, start_error
from bpnas.android_bench.serials import connect
from bpnas.android_bench.threads import check_threads
from bpnas.base.errors import UsageError
from bpnas.base.plain_text import printable

_FRESH_SECONDS = 2.0
_COOL_SECONDS = 300.0
_MAX_COOL_SECONDS = 1800.0  # before a batch; after that somebody has to do something
_AGAIN_SECONDS = 0.5
_MAX_LOSSES = 2  # of the device while one and the same model runs: then it is the model's fault
_MAX_STARTS = 3  # of the runner without a word about any model
_MAX_SLOW = 3  # models in a row on a core that does not get back to its speed


class NativeDevice(Device):
    """A device with the native runner on it; takes and raises what `HeldDevice` does."""

    def __init__(self, remote: Remote, runtime: str, options: DeviceOptions) -> None:
        self._held = HeldDevice(remote, runtime, options)
        self._feed = BatchFeed(self._held)
        self._session: NativeSession | None = None
        self._conditions: dict[str, float | str] = {}
        self._read_at = float("-inf")
        self._baseline_ns = 0.0
        self._slow_in_a_row = 0

    @property
    def info(self) -> DeviceInfo:
        return self._held.info

    @property
    def cores(self) -> int | None:
        """How many cores a model may run on, as the runner says; None where nobody tells."""
        return cores_in(self._held.runner.affinity) or len(self._held.facts.cores) or None

    def conditions(self) -> Conditions:
        return dict(self._conditions)

    def close(self) -> None:
        self._held.ending.set()
        session, self._session = self._session, None
        if session is not None:
            session.close()
        self._feed.close()
        self._held.close()

    def run(self, requests: Iterable[RunRequest], settings: RunSettings) -> Iterator[Outcome]:
        self._check_threads(settings)
        with closing(self._feed.batches(requests)) as batches:
            for batch in batches:
                yield from self._run_batch(batch, settings)

    def profile(
        self, path: Path, settings: RunSettings, feeds: Sequence[Feed] = (), data: Sequence[str] = ()
    ) -> Profiled:
        """How long each operator of a model takes, in a pass of its own after the timing.

        Args:
            path: of its file.
            settings: of the timing.
            feeds, data: as in `RunRequest`.

        Raises:
            UsageError: the file cannot be read, or there are more threads than cores.
            DeviceError: the runtime does not tell, or refuses the model.
        """
        self._check_threads(settings)
        held = self._held
        try:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
        if not held.runner.is_ours:
            raise DeviceError(f"{path}: operators are timed by bpnas' own runner only; leave out --runner")
        batch = self._feed.take(iter([RunRequest(path.name, 0, path, digest, tuple(feeds), tuple(data))]), 1)
        assert batch is not None
        for _, failure in batch.failures:
            raise DeviceError(f"{path}: {failure.message}")
        self._feed.push(batch)
        command, _ = held.runner.call([batch.file(0)], 0, settings, self._arguments(settings, profile=True))
        limit = 2 * settings.timeout_seconds + _COOL_SECONDS
        result = held.remote.shell(f"cd {quote(batch.place)} || exit 1\n{command}", limit)
        self._feed.remove(batch)
        answers = [parse_line(line) for line in result.output.splitlines()]
        for answer in answers:
            if isinstance(answer, Profiled) and answer.operators:
                return answer
        reasons = [answer.unavailable for answer in answers if isinstance(answer, Profiled)]
        reasons += [answer.message for answer in answers if isinstance(answer, Refused)]
        said = printable(result.errors.strip().rpartition(b"\n")[2])
        reason = reasons[0] if reasons else said or f"exit code {result.exit_code}"
        raise DeviceError(f"{path}: no times of operators from {held.runtime} ({reason})")

    def _check_threads(self, settings: RunSettings) -> None:
        check_threads(self, settings, self._held.remote.serial, self._held.affinity)

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
                self._feed.keep(batch)
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
                        yield failure_of(request, kind, self._with_remedy(result.message))
                    before, started_at = lasting(before), time.time()
            except DeviceLostError as error:
                if self._held.ending.is_set():
                    raise
                losses += 1
                if losses > _MAX_LOSSES and session is not None and session.has_started:
                    message = f"the device was lost {losses} times while this model ran"
                    yield failure_of(batch.requests[index], "crash", message)
                    index, losses = index + 1, 0
                elif losses > _MAX_LOSSES + 3:
                    raise
                self._held.come_back(error)
                self._feed.push_again(batch, error)
            except MayNotStartError as error:
                starts += 1
                if starts == _MAX_STARTS or error.exit_code not in (0, EXIT_MODELS):
                    raise start_error(self._held.remote.serial, self._held.runtime, error) from None
                self._feed.push(batch)  # the models are not as they were

    def _with_remedy(self, message: str) -> str:
        runner = self._held.runner
        if runner.is_ours and not runner.reads_feeds and "float32" in message:
            return f"{message}, or {NEW_RUNNER}"  # older ones fill nothing else
        return with_remedy(message, self._held.options.max_memory_gb)

    def _slowness(self) -> str:
        limit = self._held.options.sentinel_limit
        return f"its core stayed more than {limit:g} times slower than at the beginning, cooled down or not"

    def _stop_if_slow(self) -> None:
        self._slow_in_a_row += 1
        if self._slow_in_a_row == _MAX_SLOW:
            raise DeviceError(
                f"{self._held.remote.serial}: {_MAX_SLOW} models in a row were timed in vain, for {self._slowness()}; "
                "let the phone cool, close what runs on it, and call the same command again, or raise --sentinel-limit"
            )

    def _before_batch(self) -> dict[str, float | str]:
        held = self._held
        # A batch follows the one before at once: what was read at the end of that is the state now.
        if time.monotonic() - self._read_at > _FRESH_SECONDS:
            self._read_conditions()
        temperature, limit = self._conditions.get("temperature_c"), held.options.max_temperature_c
        if isinstance(temperature, float) and 0 < limit < temperature:
            wait_until_cool(
                held.remote,
                held.facts,
                limit,
                _MAX_COOL_SECONDS,
                on_wait=lambda celsius: self._conditions.update(temperature_c=celsius, waiting="too hot"),
                sleep=held.wait,
            )
            self._read_conditions()
        return {"serial": held.remote.serial, **self._conditions}

    def _read_conditions(self) -> None:
        held = self._held
        self._conditions = read_conditions(held.remote, held.facts, held.options.affinity)
        self._read_at = time.monotonic()

    def _start(self, batch: ModelBatch, first: int, last: int, settings: RunSettings) -> NativeSession:
        """A process for the models of a batch from number `first` to before number `last`."""
        held = self._held
        files = [batch.file(index) for index in range(last)]
        command, parse = held.runner.call(files, first, settings, self._arguments(settings))
        return NativeSession(
            held.remote,
            held.folder.place_runner(batch.place) + command,
            [str(index) for index in range(last)],
            first,
            settings.timeout_seconds,
            _COOL_SECONDS,
            held.runner.check,
            parse,
        )

    def _arguments(self, settings: RunSettings, profile: bool = False) -> str:
        held, options, facts = self._held, self._held.options, self._held.facts
        zone, limit = facts.cpu_zone, options.max_temperature_c
        # What is no phone shares its cores with other work: a slow moment there is no throttling.
        guarded = facts.is_android and not facts.is_emulator and options.sentinel_limit > 0
        return runner_arguments(
            settings,
            affinity=held.affinity,
            watches=[
                (watch.name, watch.path, watch.scale)
                for watch in watch_files(facts, options.affinity)
                if watch.scale is not None or held.runner.reads_words
            ],
            hot=None if zone is None or limit <= 0 else (zone.path, zone.scale, limit),
            cool_seconds=_COOL_SECONDS,
            sentinel=(options.sentinel_limit, self._baseline_ns) if guarded else None,
            profile=profile,
            max_memory=option_text(options.max_memory_gb) if held.runner.reads_feeds else "",
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
    """The device with that serial; raises what `connect` and `HeldDevice` raise.

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
