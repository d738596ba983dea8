"""Fetch what the tests of phones run against: python tests/phone/prepare.py DIR

Debian's adbd, for this machine and for ARM64, with the libraries that it needs (unpacked, never installed); the wheels
of the runtimes that go into bundles; a shim that keeps adbd on the loopback interface. What cannot be had goes with its
reason into DIR/missing.json, and the tests that need it skip with that reason. The exit status is 0 all the same, and
what is there already is not fetched again.

DIR/amd64/, DIR/arm64/   the daemon: usr/lib/..., as Debian lays it out, and bindlo.so
DIR/wheels/              those that bundles for ARM64 and for this machine are made of, for build_bundle(wheels=...)
DIR/missing.json         {part: reason}; parts are `adbd`, `arm64`, `wheels`, `mounts` and `emulation`
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent

RELEASE = "trixie"  # the first with an adbd
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
DAEMON = """adbd android-libbase android-libboringssl android-libcutils android-liblog libbrotli1 libbsd0 libc6 libcap2
    libgcc-s1 liblz4-1 libmd0 libprotobuf32t64 libstdc++6 libsystemd0 libxxhash0 libzstd1 zlib1g""".split()
PACKAGES = {"amd64": DAEMON, "arm64": [*DAEMON, "busybox-static"]}
COMPILERS = {"amd64": ("cc", "gcc"), "arm64": ("aarch64-linux-gnu-gcc",)}

BUNDLE_ARCHES = ("arm64", "x86_64")

BINFMT = Path("/proc/sys/fs/binfmt_misc")
OUR_ENTRY = "bpnas-aarch64"  # beside the usual `qemu-aarch64`, over which the later one goes
AARCH64_MAGIC = (
    r"\x7f\x45\x4c\x46\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
    r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
)


class CannotPrepareError(Exception):
    """Why a part cannot be had, in one sentence."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("directory", type=Path, metavar="DIR")
    directory: Path = parser.parse_args().directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    parts: dict[str, Callable[[], None]] = {
        "adbd": lambda: daemon(directory, "amd64"),
        "arm64": lambda: daemon(directory, "arm64"),
        "wheels": lambda: wheels(directory / "wheels"),
        "mounts": mounts,
        "emulation": emulation,
    }
    missing = {}
    with (directory / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several test environments may start at once
        for part, prepare in parts.items():
            try:
                prepare()
            except (CannotPrepareError, OSError) as error:
                missing[part] = str(error)
                print(f"phone parts: no {part}: {error}", file=sys.stderr)
        text = json.dumps(missing, indent=2)
        (directory / "missing.json").write_text(text)


# --- the daemon


def daemon(directory: Path, arch: str) -> None:
    """Debian's adbd and its libraries in `directory/arch`, with the shim."""
    if arch == "amd64" and platform.machine() != "x86_64":
        raise CannotPrepareError(f"the daemon is run natively on x86-64 only, and this machine is {platform.machine()}")
    if shutil.which("setpriv") is None:
        raise CannotPrepareError("setpriv is missing: install the package util-linux")
    wanted = " ".join(PACKAGES[arch])
    with made_once(directory / arch, wanted) as place:
        if place is not None:
            compile_shim(place / "bindlo.so", arch)
            with tempfile.TemporaryDirectory(dir=directory) as debs:
                apt(directory, "download", *(f"{package}:{arch}" for package in PACKAGES[arch]), cwd=Path(debs))
                for deb in Path(debs).glob("*.deb"):
                    call("dpkg-deb", "-x", deb, place)


def apt(directory: Path, *arguments: str, cwd: Path | None = None) -> None:
    """`apt-get` as an ordinary user would call it on lists of its own; this machine's lists and packages stay as they
    are."""
    if shutil.which("apt-get") is None or shutil.which("dpkg-deb") is None:
        raise CannotPrepareError("apt-get and dpkg-deb are needed to fetch Debian's adbd, and this machine has none")
    if not KEYRING.exists():
        raise CannotPrepareError(f"{KEYRING} is missing: install the package debian-archive-keyring")
    home = directory / "apt"
    for part in ("lists/partial", "cache/archives/partial"):
        (home / part).mkdir(parents=True, exist_ok=True)
    sources = home / "sources.list"
    sources.write_text(f"deb [signed-by={KEYRING}] {mirror()} {RELEASE} main\n")
    options = {
        "Dir::Etc::sourcelist": sources,
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": home / "lists",
        "Dir::State::status": "/dev/null",
        "Dir::Cache": home / "cache",
        "APT::Architecture": "amd64",
        "APT::Architectures": "amd64,arm64",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
        "Acquire::Retries": "1",
        "Acquire::http::Timeout": "20",
        "Acquire::https::Timeout": "20",
    }
    command = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    command += ["-oAPT::Architectures::=amd64", "-oAPT::Architectures::=arm64"]
    update_once(*command)
    call(*command, *arguments, cwd=cwd)


@cache
def update_once(*command: str) -> None:
    call(*command, "-oAPT::Update::Error-Mode=any", "update")


def mirror() -> str:
    """Where Debian comes from: BPNAS_DEBIAN_MIRROR, else where this machine gets its own."""
    if chosen := os.environ.get("BPNAS_DEBIAN_MIRROR"):
        return chosen
    places = [Path("/etc/apt/sources.list"), *sorted(Path("/etc/apt/sources.list.d").glob("*"))]
    for place in places:
        if place.suffix in (".list", ".sources") and place.is_file():
            for line in place.read_text(errors="replace").splitlines():
                if found := re.match(r"\s*(?:deb\s|URIs:).*?(https?://\S+/debian)/?(?:\s|$)", line):
                    return found[1]
    raise CannotPrepareError("this machine's apt knows no Debian mirror: set BPNAS_DEBIAN_MIRROR to the URL of one")


def compile_shim(target: Path, arch: str) -> None:
    for compiler in COMPILERS[arch]:
        if shutil.which(compiler):
            call(compiler, "-O2", "-Wall", "-Werror", "-shared", "-fPIC", "-o", target, HERE / "bindlo.c")
            return
    package = {"amd64": "gcc", "arm64": "gcc-aarch64-linux-gnu"}[arch]
    raise CannotPrepareError(f"no compiler for {arch}: install the package {package}")


# --- the runtimes


def wheels(place: Path) -> None:
    """What `build_bundle` asks for, so that no test needs the network."""
    try:
        from bpnas.android_bench.errors import DeviceError
        from bpnas.android_bench.runner.wheels import download_wheel, runtime_wheel
    except ImportError as error:
        raise CannotPrepareError(f"bpnas knows which wheels there are, and is not installed here ({error})") from None
    os.environ.update(PIP_RETRIES="1", PIP_TIMEOUT="20")  # a machine without network is to learn so soon
    try:
        wanted = [runtime_wheel(runtime, arch) for arch in BUNDLE_ARCHES for runtime in ("onnxruntime", "tflite")]
        with made_once(place, "\n".join(wheel.pattern for wheel in wanted)) as folder:
            for wheel in wanted if folder is not None else ():
                download_wheel(wheel, folder)
    except DeviceError as error:
        raise CannotPrepareError(str(error)) from None


# --- the emulator


def mounts() -> None:
    """Mounting, out of everyone else's sight."""
    if os.geteuid() != 0:
        raise CannotPrepareError("a phone's /sys, /proc and /dev are mounted, which takes root")
    call("unshare", "--mount", "--propagation", "private", "mount", "--bind", HERE, HERE)


def emulation() -> None:
    """ARM64 programs start as if they were this machine's own, in a chroot too: needs root, qemu and binfmt_misc."""
    mounts()
    qemu = shutil.which("qemu-aarch64-static")
    if qemu is None:
        raise CannotPrepareError("qemu-aarch64-static is missing: install the package qemu-user-static")
    if not (BINFMT / "register").exists():
        call("mount", "-t", "binfmt_misc", "binfmt_misc", BINFMT)
    # F: the kernel opens the emulator now, and so finds it from within a chroot. P: programs keep the name that they
    # were called by, which tells busybox what to be.
    if not any(entry_serves(BINFMT / name) for name in ("qemu-aarch64", OUR_ENTRY)):
        (BINFMT / "register").write_text(f":{OUR_ENTRY}:M::{AARCH64_MAGIC}:{qemu}:OPF")


def entry_serves(entry: Path) -> bool:
    """Whether that entry of binfmt_misc is there, is on and has the flags that a chroot needs."""
    if not entry.exists():
        return False
    state = entry.read_text()
    flags = re.search(r"^flags: (\w*)", state, re.MULTILINE)
    return state.startswith("enabled") and flags is not None and {"F", "P"} <= set(flags[1])


# --- all of them


@contextmanager
def made_once(place: Path, wanted: str) -> Iterator[Path | None]:
    """A folder to fill, which becomes `place` once it is full; None where `place` is there and holds what is wanted."""
    stamp = "wanted.txt"
    if (place / stamp).is_file() and (place / stamp).read_text() == wanted:
        yield None
        return
    with tempfile.TemporaryDirectory(dir=place.parent) as scratch:
        folder = Path(scratch) / place.name
        folder.mkdir()
        yield folder
        (folder / stamp).write_text(wanted)
        shutil.rmtree(place, ignore_errors=True)
        folder.rename(place)


def call(*command: str | Path, cwd: Path | None = None) -> None:
    words = [str(word) for word in command]
    try:
        done = subprocess.run(words, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CannotPrepareError(f"{words[0]} failed: {error}") from None
    if done.returncode != 0:
        said = " ".join((done.stderr or done.stdout).split())[-300:]
        raise CannotPrepareError(f"{words[0]} failed with exit code {done.returncode}: {said}")


if __name__ == "__main__":
    main()
