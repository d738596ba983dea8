"""Campaigns on a real adbd with faults at random moments: nothing may be lost, doubled, wrong, or left behind.

    python benchmarks/soak.py [--runs 200] [--seed 0] [--bundle DIR]

Every run is a small campaign of `profile-device`, called again as a person would until it is complete. Each gets one or
two faults: of the daemon, the connection, the runner, the host, its wall clock, the disk, a second campaign that wants
the same phone; and often a model that does not behave. Never do two runners work at once. The fake runner's numbers
tell models apart; with --bundle real models are timed by the real runner, and all behave. Needs the parts that
tests/phone/prepare.py fetches, in BPNAS_PHONE_PARTS. Exit status 1 if anything was not as it should be.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

# Only in this process, which never imports what would take the folder `tables` for its own.
sys.path.append(str(Path(__file__).parents[1]))

import pytest

from tests.phone.chaos import (
    check_clean,
    check_numbers,
    count_measured,
    fill_disk,
    model_contents,
    part_keys,
    start_host,
    state,
    write_backbone,
    write_fake_runner,
)
from tests.phone.daemon import Adbd, start_native, wait_until
from tests.phone.parts import copy_daemon, phone_parts
from tests.phone.proxy import Proxy
from tests.records_factory import read_everything

DISK_BYTES = 48 << 20
MAX_CALLS = 8
CALL_SECONDS = 120.0
BAD_MODELS = {
    "model crashes": ("signal:11", "signal:6", "crash:1", "signal:9"),
    "model hangs": ("timeout", "hang"),
    "model prints garbage": ("only:\\x00\\xff{\\n", "flip", "other", f"long:{20 << 20}", "lines"),
    "model kills the daemon": ("daemon:9",),
    "model stops the daemon": ("daemon:19",),
}


@dataclass
class Run:
    """One campaign.

    Attributes:
        bad: key of the model that misbehaves, or empty.
        kinds: names of the faults that are to happen.
        struck: of those that did; a campaign may be over before.
        calls: of the command.
    """

    rng: random.Random
    folder: Path
    daemon: Adbd
    proxy: Proxy
    contents: dict[str, str] | None
    program: tuple[str | Path, ...]
    bad: str
    kinds: list[str]
    struck: list[str] = field(default_factory=list)
    calls: int = 0
    host: subprocess.Popen[str] | None = None
    rivals: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def records(self) -> Path:
        return self.folder / "r.sqlite"

    @property
    def rival_folder(self) -> Path:
        return self.folder / "rival"


# --- faults, each in its own time


def kill_daemon(run: Run) -> None:
    run.daemon.kill()
    time.sleep(run.rng.uniform(0.0, 1.5))
    run.daemon.restart()


def stop_daemon(run: Run) -> None:
    run.daemon.stop()
    time.sleep(run.rng.uniform(0.1, 5.0))
    run.daemon.cont()


def restart_daemon(run: Run) -> None:
    run.daemon.restart()


def reset_connection(run: Run) -> None:
    run.proxy.reset()


def kill_runner(run: Run) -> None:
    with suppress(TimeoutError):
        wait_until(lambda: bool(runners(run)), 3.0)
    for pid in runners(run):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def runners(run: Run) -> list[int]:
    """What times models right now: not the shell that is about to become it."""
    return [
        pid for pid, command in run.daemon.children().items() if "--list now" in command and "head -n" not in command
    ]


def kill_host(run: Run) -> None:
    assert run.host is not None
    run.host.kill()


def interrupt_host(run: Run) -> None:
    assert run.host is not None
    with suppress(TimeoutError):  # before it talks to the device it is still loading itself
        wait_until(lambda: bool(run.daemon.children()), 3.0)
    run.host.send_signal(run.rng.choice([signal.SIGINT, signal.SIGTERM, signal.SIGHUP]))


def terminate_host(run: Run) -> None:
    """Whatever it is at: loading itself, measuring, or cleaning up."""
    assert run.host is not None
    run.host.send_signal(signal.SIGTERM)


def let_drip(run: Run) -> None:
    run.proxy.drip(run.rng.uniform(0.5, 5.0))


def start_rival(run: Run) -> None:
    """Another campaign with a folder of its own there, straight to the daemon."""
    run.rival_folder.mkdir(exist_ok=True)
    options = (*run.program, "--directory", f"{run.daemon.directory}/bpnas-rival")
    with (run.rival_folder / "host.log").open("a") as log:
        started = start_host(run.rival_folder, run.daemon, run.contents, *options, log=log, patience_seconds=1.0)
    run.rivals.append(started)


def fill_up_disk(run: Run) -> None:
    film = fill_disk(run.daemon)
    time.sleep(run.rng.uniform(0.1, 2.0))
    film.unlink(missing_ok=True)


def jump(run: Run) -> None:
    """The wall clock of the host is set forward or back, by seconds or years, and perhaps corrected."""
    clock = run.folder / "clock"
    for wrong_by in [run.rng.choice([-1, 1]) * 10 ** run.rng.uniform(0.0, 9.0), 0.0][: run.rng.choice([1, 2])]:
        draft = clock.with_name("clock.new")
        draft.write_text(str(wrong_by))
        draft.rename(clock)
        time.sleep(run.rng.uniform(0.0, 0.5))


FAULTS: dict[str, Callable[[Run], None]] = {
    "daemon killed": kill_daemon,
    "daemon stopped": stop_daemon,
    "daemon restarted": restart_daemon,
    "connection reset": reset_connection,
    "runner killed": kill_runner,
    "host killed": kill_host,
    "host interrupted": interrupt_host,
    "host terminated": terminate_host,
    "connection drips": let_drip,
    "second campaign": start_rival,
    "disk full": fill_up_disk,
    "wall clock jumps": jump,
}


# --- one run


def one_run(run: Run) -> None:
    """A campaign to its end, with faults on the way, and a look at what is left.

    Raises:
        AssertionError: something is not as it should be.
    """
    keys = part_keys(write_backbone(run.folder))
    moments = [(name, random_moment(run, len(keys))) for name in run.kinds if name in FAULTS]
    run.struck += [name for name in run.kinds if name not in FAULTS]
    while True:
        run.calls += 1
        assert run.calls <= MAX_CALLS, f"not complete after {MAX_CALLS} calls"
        code, said = call(run, moments)
        assert "Traceback" not in said, said
        # A signal may also come while the command is still loading, or between its last word and the process' end.
        over = code == -signal.SIGKILL or (code < 0 and (not said or "Next: build-table" in said))
        assert over or said.count("Error: ") == (code != 0), (code, said)
        measured = count_measured(run.records)
        if measured == len(keys) - bool(run.bad):
            break
        assert code != 0, f"said to be complete with {measured} of {len(keys)}"
    check_records(run, keys)
    check_rivals(run)
    check_clean(run.daemon)
    assert code == -signal.SIGKILL or not (run.folder / ".r.sqlite.models").exists(), "model files are left"


def random_moment(run: Run, parts: int) -> Callable[[], bool]:
    """Some time after this, or once some models are measured."""
    if run.rng.random() < 0.5:
        after, started = run.rng.uniform(0.0, 2.0), time.monotonic()
        return lambda: time.monotonic() - started >= after
    count = run.rng.randrange(parts - 1)
    return lambda: count_measured(run.records) >= count


def call(run: Run, moments: list[tuple[str, Callable[[], bool]]]) -> tuple[int, str]:
    """`profile-device` once, and the faults whose moments come meanwhile; its exit code, and what it said."""
    path = run.folder / "host.log"
    with path.open("w") as log:
        run.host = start_host(run.folder, run.daemon, run.contents, *run.program, serial=run.proxy.serial, log=log)
        deadline = time.monotonic() + CALL_SECONDS
        while run.host.poll() is None:
            if time.monotonic() > deadline:
                run.host.kill()
                run.host.wait()
                raise AssertionError(f"no end within {CALL_SECONDS:g} s: {path.read_text()}")
            if moments and moments[0][1]():
                name, _ = moments.pop(0)
                run.struck.append(name)
                FAULTS[name](run)
            mend(run.daemon)
            check_alone(run)
            time.sleep(0.005)
    return run.host.returncode, path.read_text()


def mend(daemon: Adbd) -> None:
    """What a model did to the daemon is over after a while."""
    condition = state(daemon)
    if condition == "Z":
        daemon.restart()
    elif condition == "T":
        time.sleep(2.0)
        daemon.cont()


def check_rivals(run: Run) -> None:
    """A second campaign had the phone for itself, or was told who has it; what it measured is right."""
    deadline = time.monotonic() + CALL_SECONDS
    for rival in run.rivals:
        while (code := rival.poll()) is None:
            assert time.monotonic() < deadline, "a second campaign does not end"
            mend(run.daemon)
            time.sleep(0.05)
        said = (run.rival_folder / "host.log").read_text()
        assert code in (0, 1) and "Traceback" not in said, (code, said)
        failed = " failed" in said or "models in a row" in said or "space" in said
        failed = failed or ("disk full" in run.kinds and "cannot be written on the device; see 'profile-dev" in said)
        assert code == 0 or bool(run.bad) or failed or "another campaign is timing on this device (" in said, said
    if run.contents is not None and run.rivals:
        check_numbers(run.rival_folder / "r.sqlite", run.contents)


def check_alone(run: Run) -> None:
    """No two runners work at once. Processes are read one after the other: two that are seen twice overlapped."""
    at_work = runners(run)
    if len(at_work) > 1:
        again = run.daemon.children()
        assert len(still := set(at_work) & set(runners(run))) <= 1, {pid: again.get(pid) for pid in still}


def check_records(run: Run, keys: list[str]) -> None:
    _, measured, failed = read_everything(run.records)
    assert Counter(one.key for _, one in measured) == Counter(set(keys) - {run.bad})
    if run.contents is not None:
        check_numbers(run.records, run.contents)
    innocent = [one for _, one in failed if one.key != run.bad]
    # A runner that is killed from outside looks like one that its model killed, until it is tried again.
    allowed = run.kinds.count("runner killed")
    assert len(innocent) <= allowed and all(one.kind == "crash" for one in innocent), innocent


def prepare(rng: random.Random, folder: Path, daemon: Adbd, proxy: Proxy, kinds: list[str], bundle: Path | None) -> Run:
    """A campaign to which these faults shall happen, and perhaps one more."""
    if bundle is not None:
        program: tuple[str | Path, ...] = ("--bundle", bundle, "--warmup-runs", "1", "--warmup-seconds", "0.01")
        return Run(rng, folder, daemon, proxy, None, (*program, "--runs", "3", "--seconds", "0.02"), "", kinds)
    keys = part_keys(write_backbone(folder))
    contents, bad = model_contents(keys, seconds=rng.choice([0.01, 0.03, 0.06])), ""
    if rng.random() < 0.3:  # long enough on its way that a fault meets it there
        contents[rng.choice(keys)] = f"ok:{'x' * rng.randrange(1 << 20, 16 << 20)}"
    if rng.random() < 0.5:
        kind, bad = rng.choice(list(BAD_MODELS)), rng.choice(keys)
        contents[bad] = rng.choice(BAD_MODELS[kind])
        kinds.append(kind)
    return Run(rng, folder, daemon, proxy, contents, ("--runner", write_fake_runner(folder)), bad, kinds)


# --- all runs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first run, to repeat one")
    parser.add_argument("--bundle", type=Path, help="made by 'profile-device bundle --arch host'")
    given = parser.parse_args()
    try:
        parts = phone_parts("adbd", "mounts")
    except pytest.skip.Exception as reason:
        sys.exit(f"no phone: {reason}")
    began, tally, at_once, calm, wrong = time.monotonic(), Counter[str](), Counter[str](), 0, 0
    with tempfile.TemporaryDirectory(prefix="bpnas-soak-") as name:
        scratch = Path(name)
        scratch.chmod(0o755)
        copy_daemon(parts, "amd64", scratch / "adbd")
        for number in range(given.first, given.first + given.runs):
            rng = random.Random(f"{given.seed}/{number}")
            with tempfile.TemporaryDirectory(dir=scratch) as folder:
                kinds, calls, fault = soak(rng, Path(folder), scratch / "adbd", given.bundle)
            tally.update(kinds)
            at_once.update(kinds if calls == 1 else [])
            calm += not kinds
            wrong += bool(fault)
            what = ", ".join(kinds) or "over before anything happened"
            print(f"{number:5}  {calls} calls  {what}{f'  WRONG: {fault}' if fault else ''}", flush=True)
    print(f"\n{'fault':24} {'runs':>5} {'complete in the first call':>28}")
    for kind, count in sorted(tally.items()):
        print(f"{kind:24} {count:5} {at_once[kind]:28}")
    print(f"{given.runs} runs, {calm} of them without a fault, seed {given.seed}, {time.monotonic() - began:.0f} s")
    print(f"{wrong} of them wrong")
    sys.exit(1 if wrong else 0)


def soak(rng: random.Random, folder: Path, program: Path, bundle: Path | None) -> tuple[list[str], int, str]:
    """One run: what struck, how many calls it took, and what was wrong."""
    (folder / "phone").mkdir()
    uid = os.getuid()  # the fake runner is a script of this Python, which others may not be allowed to run
    kinds = rng.choices(list(FAULTS), k=rng.choice([1, 1, 2]))
    disk_bytes = DISK_BYTES if "disk full" in kinds else None
    with (
        start_native(program, folder / "phone", uid, disk_bytes) as daemon,
        closing(Proxy(daemon.port)) as proxy,
    ):
        run = prepare(rng, folder, daemon, proxy, kinds, bundle)
        try:
            one_run(run)
        except (AssertionError, TimeoutError) as fault:
            place = traceback.extract_tb(fault.__traceback__)[-1]
            return run.struck, run.calls, f"{fault} ({place.line})"
        finally:
            for host in filter(None, (run.host, *run.rivals)):
                host.kill()
                host.wait()
    return run.struck, run.calls, ""


if __name__ == "__main__":
    main()
