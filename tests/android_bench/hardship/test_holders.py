"""One holder per phone and per core: whoever comes second, however close, is told who holds it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from bpnas.android_bench.errors import DeviceError
from bpnas.android_bench.local.held_cores import HeldCores, holder_of_cores, sharing_a_clock
from bpnas.android_bench.phone.conditions import read_conditions
from bpnas.android_bench.phone.device_folder import DeviceFolder
from bpnas.android_bench.phone.facts import read_facts
from bpnas.android_bench.serials import connect
from tests.folder_phone import FolderPhone, facts_of, prepared_phone
from tests.patience import PATIENCE
from tests.phone.adb_client import AdbServer
from tests.phone.chaos import check_clean, check_records, model_contents, part_keys, start_host, write_backbone
from tests.phone.chaos import write_fake_runner as write_runner
from tests.phone.daemon import Adbd, wait_until
from tests.phone.identity import BIG_KHZ, LITTLE_KHZ

StartAdbd = Callable[..., Adbd]
THIS = rf"@\S*, process {os.getpid()}, since 20\d\d-\d\d-\d\d \d\d:\d\d UTC"


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bpnas.android_bench.local.held_cores.PATIENCE_SECONDS", 0.0)


# --- phones


def holds(phone: FolderPhone) -> list[Path]:
    return list((phone.root / "data/local/tmp").glob(".bpnas-hold-*"))


def test_of_many_that_come_at_once_only_one_has_the_phone(rooted: FolderPhone) -> None:
    """With a folder of its own each, as `--directory` gives it."""
    contenders, inside, seen = 6, [], []
    start, errors = threading.Barrier(contenders), []

    def contend(number: int) -> None:
        try:
            facts = read_facts(rooted, f"{rooted.base}-{number}")
            start.wait()
            folder = DeviceFolder(rooted, facts, patience_seconds=PATIENCE)
            inside.append(number)
            seen.append(tuple(inside))
            time.sleep(0.02)
            inside.remove(number)
            folder.close()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=contend, args=(number,)) for number in range(contenders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert sorted(seen) == [(number,) for number in range(contenders)]
    assert holds(rooted) == []


def test_the_second_one_is_told_who_holds_the_phone_and_since_when(rooted: FolderPhone) -> None:
    with closing(DeviceFolder(rooted, facts_of(rooted))):
        with pytest.raises(DeviceError, match=rf"folder: another campaign is timing on this device \(.*{THIS}; "):
            DeviceFolder(rooted, read_facts(rooted, f"{rooted.base}-other"), patience_seconds=0.0)
        assert len(holds(rooted)) == 1
    assert holds(rooted) == []


def test_a_holder_that_died_holds_nothing(rooted: FolderPhone) -> None:
    DeviceFolder(rooted, facts_of(rooted))
    os.killpg(rooted.streams[0]._process.pid, signal.SIGKILL)  # type: ignore[attr-defined]
    rooted.streams[0]._process.wait()  # type: ignore[attr-defined]
    assert len(holds(rooted)) == 1
    DeviceFolder(rooted, facts_of(rooted), patience_seconds=0.0).close()
    assert holds(rooted) == []


def test_a_runner_begins_only_when_the_one_before_it_has_ended(rooted: FolderPhone) -> None:
    with closing(DeviceFolder(rooted, facts_of(rooted))) as folder:
        place = Path(folder.run, "0")
        place.mkdir()
        runners = []
        for number in range(2):
            stream = rooted.stream(f"{folder.place_runner(str(place))}trap '' HUP TERM\necho {number}; exec sleep 600")
            assert stream.read(PATIENCE) == f"{number}\n".encode()
            runners.append(int(Path(folder.run, f"runner-{number + 1}").read_text()))
        # It is dead, and nobody has asked yet how it ended.
        assert Path(f"/proc/{runners[0]}/cmdline").read_bytes() == b""
        wait_until(lambda: Path(f"/proc/{runners[1]}/cmdline").read_bytes() == b"sleep\x00600\x00")


def test_a_runner_that_comes_late_gives_way_to_the_one_asked_for_after_it(rooted: FolderPhone) -> None:
    with closing(DeviceFolder(rooted, facts_of(rooted))) as folder:
        place = Path(folder.run, "0")
        place.mkdir()
        given_up, wanted = (f"{folder.place_runner(str(place))}echo at work; exec sleep 600" for _ in range(2))
        stream = rooted.stream(wanted)
        assert stream.read(PATIENCE) == b"at work\n"
        late = rooted.shell(given_up, PATIENCE)
        assert (late.exit_code, late.output) == (1, b"")
        runner = int(Path(folder.run, "runner-2").read_text())
        wait_until(lambda: Path(f"/proc/{runner}/cmdline").read_bytes() == b"sleep\x00600\x00")
        stream.close()


@pytest.mark.parametrize(
    ("moment", "late"), [("echo $$", "wait_for_it && echo $$"), ("for noted in ../", "wait_for_it\nfor noted in ../")]
)
@pytest.mark.parametrize("end", ["the campaign is over", "the connection is gone"])
def test_a_runner_that_comes_late_finds_the_run_ended(
    rooted: FolderPhone, tmp_path: Path, end: str, moment: str, late: str
) -> None:
    folder = DeviceFolder(rooted, facts_of(rooted))
    holder = rooted.streams[-1]
    place, go = Path(folder.run, "0"), tmp_path / "go"
    place.mkdir()
    script = folder.place_runner(str(place))
    assert script.count(moment) == 1
    wait = f"wait_for_it() {{ echo there; until [ -e {go} ]; do sleep 0.01; done; }}\n"
    stream = rooted.stream(f"{wait}{script.replace(moment, late)}echo at work; exec sleep 600")
    assert stream.read(PATIENCE) == b"there\n"
    if end == "the campaign is over":
        folder.close()
    else:
        holder._process.stdin.close()  # type: ignore[attr-defined]
    wait_until(lambda: not any(Path(rooted.base).glob("run-*")))
    go.touch()
    assert stream.read(PATIENCE) == b""
    assert stream.exit_code != 0


@pytest.mark.parametrize("when", ["before", "meanwhile"])
def test_what_a_killed_host_did_not_push_whole_is_removed(rooted: FolderPhone, when: str) -> None:
    half = rooted.root / "data/local/tmp/.bpnas-governors.0a1b2c3d.tmp"
    if when == "before":
        half.touch()
    folder = DeviceFolder(rooted, facts_of(rooted))
    if when == "meanwhile":
        half.touch()
        rooted.streams[-1]._process.stdin.close()  # type: ignore[attr-defined]
    wait_until(lambda: not half.exists())
    folder.close()


def test_files_that_are_no_holds_hold_nothing(rooted: FolderPhone) -> None:
    place = rooted.root / "data/local/tmp"
    alive, token = os.getpid(), "0" * 16
    names = (
        f"{alive}-{token}",
        f"{alive}-",
        f"{alive}-e",
        f"-{token}",
        "x",
        f"1;reboot-{token}",
        f"{alive}-{'*' * 16}",
    )
    for name in names:
        (place / f".bpnas-hold-{name}").write_text("$(reboot)\n")
    DeviceFolder(rooted, facts_of(rooted), patience_seconds=0.0).close()


def test_the_governor_is_the_first_ones_until_it_is_done(rooted: FolderPhone) -> None:
    facts = facts_of(rooted)
    with closing(DeviceFolder(rooted, facts)) as first, prepared_phone(rooted, facts, first.token):
        during = rooted.governors()
        with pytest.raises(DeviceError):
            DeviceFolder(rooted, read_facts(rooted, f"{rooted.base}-other"), patience_seconds=0.0)
        assert rooted.governors() == during and "performance" in during
    assert set(rooted.governors()) == {"schedutil"}


def test_by_whichever_way_a_phone_is_reached_it_is_one_phone(
    start_adbd: StartAdbd, adb_server: AdbServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    adbd = start_adbd(uid=os.getuid())
    with ExitStack() as stack:
        direct = stack.enter_context(closing(connect(adbd.serial)))
        stack.enter_context(closing(DeviceFolder(direct, read_facts(direct, f"{adbd.directory}/one"))))
        adb_server.connect(adbd.serial)
        monkeypatch.setenv("ANDROID_ADB_SERVER_PORT", str(adb_server.port))
        served = stack.enter_context(closing(connect(adbd.serial)))
        assert type(served._connection) is not type(direct._connection)  # type: ignore[attr-defined]
        facts = read_facts(served, f"{adbd.directory}/two")
        with pytest.raises(DeviceError, match=THIS):
            DeviceFolder(served, facts, patience_seconds=0.0)


@pytest.mark.slow
def test_two_campaigns_at_once_with_folders_of_their_own_take_turns(start_adbd: StartAdbd, tmp_path: Path) -> None:
    """Begun in the same moment; the one that loses ends with one sentence, and measures all when it is called again."""
    adbd = start_adbd(uid=os.getuid())
    folders = tmp_path / "one", tmp_path / "two"
    for folder in folders:
        folder.mkdir()
    contents = model_contents(part_keys(write_backbone(tmp_path)), seconds=0.04)  # together longer than the patience
    hosts = {}
    for folder in folders:
        options = ("--runner", write_runner(folder), "--directory", f"{adbd.directory}/bpnas-{folder.name}")
        hosts[folder] = start_host(folder, adbd, contents, *options, patience_seconds=1.0)
    ended = {folder: (*host.communicate(timeout=PATIENCE), host.returncode) for folder, host in hosts.items()}
    codes = sorted(code for _, _, code in ended.values())
    assert codes in ([0, 0], [0, 1]), ended
    for folder, (_, error, code) in ended.items():
        if code:
            (other,) = set(folders) - {folder}
            assert f"process {hosts[other].pid}, since " in error.splitlines()[-1]
            again = start_host(folder, adbd, contents, "--runner", write_runner(folder))
            out, error = again.communicate(timeout=PATIENCE)
            assert again.returncode == 0, (out, error)
        check_records(folder / "r.sqlite", contents)
    check_clean(adbd)


def test_the_governor_of_a_record_is_read(start_adbd: StartAdbd) -> None:
    adbd = start_adbd(uid=0, cores=(LITTLE_KHZ, BIG_KHZ), mounts=True)
    with closing(connect(adbd.serial)) as remote:
        facts = read_facts(remote, f"{adbd.directory}/bpnas")
        with closing(DeviceFolder(remote, facts)) as folder, prepared_phone(remote, facts, folder.token):
            assert read_conditions(remote, facts)["governor"] == "performance"
            adbd.identity.set_sys("devices/system/cpu/cpu1/cpufreq/scaling_governor", "powersave")
            assert read_conditions(remote, facts)["governor"] == "powersave"


# --- cores of this machine; these numbers are of none that exists, so that nothing else is in the way

CHILD = """
import subprocess, sys
from bpnas.android_bench.local.held_cores import HeldCores
held = HeldCores([4001, 4002])
if sys.argv[1] == "passed on":
    subprocess.Popen(["sleep", "600"], pass_fds=held.descriptors, stdout=subprocess.DEVNULL)
print("held", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def child(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    """A process that holds cores 4001 and 4002."""
    how = getattr(request, "param", "kept")
    command = [sys.executable, "-P", "-c", CHILD, how]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, **pipes, text=True, start_new_session=True) as process:  # type: ignore[call-overload]
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def test_a_core_has_one_holder_and_others_are_free(child: subprocess.Popen[str], impatient: None) -> None:
    with closing(HeldCores([4000, 4003])):
        for cores in ([4001], [4002], [4000, 4001], [4002, 4003]):
            with pytest.raises(DeviceError) as refused:
                HeldCores(cores)
            assert f", process {child.pid if cores != [4000, 4001] else os.getpid()}, since 20" in str(refused.value)
    assert f"process {child.pid}, since" in holder_of_cores([4002])
    assert holder_of_cores([4000]) == holder_of_cores([4003]) == ""


def test_cores_are_free_when_their_holder_dies(child: subprocess.Popen[str]) -> None:
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    HeldCores([4001, 4002], patience_seconds=0.0).close()


@pytest.mark.parametrize("child", ["passed on"], indirect=True)
def test_cores_are_held_until_what_runs_on_them_has_ended(child: subprocess.Popen[str], impatient: None) -> None:
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    with pytest.raises(DeviceError):
        HeldCores([4001])
    os.killpg(child.pid, signal.SIGKILL)
    wait_until(lambda: not holder_of_cores([4001]))
    HeldCores([4001, 4002]).close()


def test_one_that_waits_gets_the_cores_when_they_are_free() -> None:
    first = HeldCores([4010])
    threading.Timer(0.3, first.close).start()
    HeldCores([4010], patience_seconds=PATIENCE).close()


def test_cores_that_share_a_clock_are_known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert sharing_a_clock([4000]) == {4000}  # where nothing is told
    assert {0} <= sharing_a_clock([0])


def test_where_there_are_no_such_sockets_a_lock_file_does_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, impatient: None
) -> None:
    monkeypatch.setattr("bpnas.android_bench.local.held_cores.sys.platform", "darwin")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    with closing(HeldCores([4000, 4001])) as held:
        assert held.descriptors == ()
        with pytest.raises(DeviceError, match="core 4001 is held by another campaign"):
            HeldCores([4001, 4002])
    HeldCores([4001, 4002]).close()


OPTIONS = [(), ("--runner", "RUNNER"), ("--runner", "RUNNER", "--directory", "OTHER")]


@pytest.mark.parametrize("options", OPTIONS, ids=" ".join)
def test_a_second_campaign_on_this_machine_is_refused(
    options: tuple[str, ...],
    cli: Callable[..., object],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    impatient: None,
) -> None:
    from bpnas.base.cores import own_cores

    monkeypatch.chdir(tmp_path)
    places = {"RUNNER": str(write_runner(tmp_path)), "OTHER": str(tmp_path / "other")}
    arguments = ("--serial", "local", "--input-size", "32", *(places.get(word, word) for word in options))
    with closing(HeldCores(own_cores())):
        done = cli("profile-device", *arguments)
        assert done.exit_code == 1  # type: ignore[attr-defined]
        assert f", process {os.getpid()}, since 20" in done.stderr  # type: ignore[attr-defined]
        doctor = cli("profile-device", "doctor", "--serial", "local")
        assert "another run of bpnas is at work here (" in doctor.stdout  # type: ignore[attr-defined]
        assert f", process {os.getpid()}, since 20" in doctor.stdout  # type: ignore[attr-defined]
