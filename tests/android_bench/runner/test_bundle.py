"""Bundles: built from sources and wheels, named after their content, and believed only as long as they are unharmed."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bpnas.android_bench.device import RUNTIMES
from bpnas.android_bench.errors import DeviceError
from bpnas.android_bench.runner.build import arch_of_this_machine
from bpnas.android_bench.runner.bundle import Bundle, build_bundle, bundles_folder, default_bundle
from bpnas.android_bench.runner.wheels import RuntimeWheel, runtime_wheel
from bpnas.base.errors import UsageError

HOST = arch_of_this_machine()


def write_wheel(wheel: RuntimeWheel, folder: Path, library: bytes | None = b"machine code") -> Path:
    """A wheel that pip takes, with little in it."""
    name = wheel.project.replace("-", "_")
    info = f"{name}-{wheel.version}.dist-info"
    files = {
        f"{name}/__init__.py": b"",
        f"{name}/LICENSE": f"licence of {wheel.project}".encode(),
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {wheel.project}\nVersion: {wheel.version}\n".encode(),
        f"{info}/WHEEL": f"Wheel-Version: 1.0\nTag: cp311-cp311-manylinux_2_28_{wheel.machine}\n".encode(),
    }
    if library is not None:
        files[wheel.member.replace("*", wheel.version)] = library
    files[f"{info}/RECORD"] = "".join(f"{file},,\n" for file in files).encode()
    path = folder / f"{name}-{wheel.version}-cp311-cp311-manylinux_2_28_{wheel.machine}.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, content in files.items():
            archive.writestr(file, content)
    return path


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheels")
    for runtime in RUNTIMES:
        for arch in ("arm64", "x86_64"):
            write_wheel(runtime_wheel(runtime, arch), folder)
    return folder


@pytest.fixture(scope="module")
def built(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    """A bundle for this machine; not to be changed."""
    for program in ("cmake", "make", "g++"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed, so the runner cannot be compiled")
    return build_bundle("host", tmp_path_factory.mktemp("bundles"), wheels=wheels)


@pytest.fixture
def quick_tools(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tools that build a runner of a few bytes in no time."""
    folder = tmp_path_factory.mktemp("tools")
    (folder / "g++").write_text("#!/bin/sh\nexit 1\n")
    (folder / "cmake").write_text("""#!/bin/sh
[ "$1" = -S ] || exit 0
mkdir -p "$4" && cd "$4" && echo program > bpnas-runner && echo 1 > version.txt
""")
    for tool in folder.iterdir():
        tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


@pytest.fixture
def copied(built: Bundle, tmp_path: Path) -> Path:
    """A copy of it to damage."""
    return Path(shutil.copytree(built.directory, tmp_path / built.directory.name))


def test_a_bundle_holds_what_its_manifest_says(built: Bundle) -> None:
    assert built.arch == HOST
    assert built.directory.name == f"bundle-{HOST}-{built.sha256[:16]}"
    names = {p.relative_to(built.directory).as_posix() for p in built.directory.rglob("*") if p.is_file()}
    assert names == {*built.files, "manifest.json"}
    for name, file in built.files.items():
        path = built.directory / name
        content = path.read_bytes()
        assert (hashlib.sha256(content).hexdigest(), len(content)) == (file.sha256, file.size)
        assert path.stat().st_mode & 0o777 == file.mode
    assert built.files[built.runner].mode == 0o755
    assert built == Bundle.load(built.directory)
    assert list(built.directory.parent.iterdir()) == [built.directory]


def test_a_bundle_has_both_runtimes_and_all_licences(built: Bundle) -> None:
    for runtime in RUNTIMES:
        wheel = runtime_wheel(runtime, HOST)
        assert built.runtimes[runtime].version == f"{wheel.project} {wheel.version}"
        assert (built.directory / built.library(runtime)).read_bytes() == b"machine code"
        licence = built.directory / "licenses" / f"{wheel.project}-LICENSE"
        assert licence.read_text() == f"licence of {wheel.project}"
    assert "Apache License" in (built.directory / "licenses" / "bpnas-LICENSE").read_text()


def test_the_runner_in_it_runs(built: Bundle) -> None:
    launcher = [str(built.directory / word) if word in (".", *built.files) else word for word in built.launcher]
    library = built.directory / built.library("tflite")
    command = [*launcher, built.directory / built.runner, "--runtime", "tflite", "--library", library, "--probe"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (3, "")  # "machine code" is none
    assert "cannot be loaded" in done.stderr


@pytest.mark.slow
def test_the_same_inputs_give_the_same_bundle(built: Bundle, wheels: Path, tmp_path: Path) -> None:
    again = build_bundle(HOST, tmp_path, wheels=wheels)
    assert (again.sha256, again.files) == (built.sha256, built.files)


def test_what_is_there_and_good_stays(quick_tools: None, wheels: Path, tmp_path: Path) -> None:
    bundle = build_bundle("host", tmp_path, wheels=wheels)
    runner, manifest = bundle.directory / bundle.runner, bundle.directory / "manifest.json"
    for path in (runner, manifest):
        os.utime(path, (0, 0))
    assert build_bundle("host", tmp_path, wheels=wheels) == bundle
    assert runner.stat().st_mtime == 0
    assert manifest.stat().st_mtime > 0, "it is the newest now"
    runner.write_bytes(b"damaged")
    assert build_bundle("host", tmp_path, wheels=wheels) == bundle
    assert list(tmp_path.iterdir()) == [bundle.directory]


def test_a_bundle_may_have_one_runtime(quick_tools: None, wheels: Path, tmp_path: Path) -> None:
    both = build_bundle("host", tmp_path, wheels=wheels)
    one = build_bundle("host", tmp_path, runtimes=["onnxruntime"], wheels=wheels)
    assert list(one.runtimes) == ["onnxruntime"] and one.sha256 != both.sha256
    with pytest.raises(DeviceError, match=rf"lacks tflite; build one .* --arch {HOST} --runtime tflite"):
        one.library("tflite")


# --- loading


def rewrite(directory: Path, change: Callable[[dict[str, Any]], None], rehash: bool = True) -> None:
    """Change the manifest, and make its hash right again."""
    path = directory / "manifest.json"
    values = json.loads(path.read_text())
    change(values)
    if rehash:
        values.pop("sha256", None)
        values["sha256"] = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(values))


def test_a_changed_or_missing_file_is_named(copied: Path) -> None:
    (copied / "bpnas-runner").write_bytes(b"something else")
    with pytest.raises(DeviceError, match=r"bpnas-runner: is not as it was built .* build it again"):
        Bundle.load(copied)
    (copied / "bpnas-runner").unlink()
    with pytest.raises(DeviceError, match=r"bpnas-runner: is not there; build it again"):
        Bundle.load(copied)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"files": {}}', '{"files": 7}'])
def test_a_manifest_that_is_none(text: str, copied: Path) -> None:
    (copied / "manifest.json").write_text(text)
    with pytest.raises(DeviceError, match=r"manifest.json: is no manifest of a bundle"):
        Bundle.load(copied)


def test_a_manifest_that_was_changed(copied: Path) -> None:
    rewrite(copied, lambda values: values["launcher"].append("rm"), rehash=False)
    with pytest.raises(DeviceError, match=r"manifest.json: is not as it was built"):
        Bundle.load(copied)


def test_a_name_that_leads_out_of_the_bundle(copied: Path) -> None:
    for name in ("../bpnas-runner", "/etc/passwd", "licenses/../../x", "", "a\nb"):

        def add(values: dict[str, Any], name: str = name) -> None:
            values["files"] = {**values["files"], name: values["files"]["bpnas-runner"]}

        shutil.copy(copied / "manifest.json", copied / "good")
        rewrite(copied, add)
        with pytest.raises(DeviceError, match="is no manifest of a bundle"):
            Bundle.load(copied)
        shutil.move(copied / "good", copied / "manifest.json")
    assert Bundle.load(copied)


def test_the_bundle_that_was_built_last_is_the_default_although_the_clock_was_set_back(
    quick_tools: None, wheels: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = build_bundle("host", bundles_folder(), wheels=wheels)
    later = time.time_ns() + 10**15
    os.utime(first.directory / "manifest.json", ns=(later, later))
    second = build_bundle("host", bundles_folder(), ["tflite"], wheels=wheels)
    assert second.directory != first.directory
    assert default_bundle("host") == second
    build_bundle("host", bundles_folder(), wheels=wheels)
    assert default_bundle("host") == first


def test_a_folder_that_is_no_bundle(tmp_path: Path) -> None:
    with pytest.raises(
        DeviceError, match=r"manifest.json: is not there; name a folder that 'profile-device bundle' has made"
    ):
        Bundle.load(tmp_path)


def test_the_newest_bundle_is_the_default(copied: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert bundles_folder() == tmp_path / "cache" / "bpnas" / "bundles"
    assert default_bundle("host") is None
    for age, name in ((1, "old"), (3, "new"), (2, "middle")):
        target = bundles_folder() / f"bundle-{HOST}-{name}"
        shutil.copytree(copied, target)
        os.utime(target / "manifest.json", (age, age))
    found = default_bundle(HOST)
    assert found is not None and found.directory.name == f"bundle-{HOST}-new"
    assert default_bundle("arm64" if HOST == "x86_64" else "x86_64") is None
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert bundles_folder() == tmp_path / "home" / ".cache" / "bpnas" / "bundles"


# --- what can be missing


@pytest.mark.parametrize(
    ("arch", "runtimes", "message"),
    [
        ("mips", RUNTIMES, "arch 'mips' is unknown"),
        ("arm64", ["caffe"], "runtime 'caffe' is unknown"),
        ("arm64", [], "at least one runtime"),
    ],
)
def test_wrong_usage(arch: str, runtimes: list[str], message: str, wheels: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=message):
        build_bundle(arch, tmp_path, runtimes=runtimes, wheels=wheels)


def test_a_missing_tool_is_named_with_its_package(
    wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tools, out = tmp_path / "tools", tmp_path / "out"
    tools.mkdir()
    monkeypatch.setenv("PATH", str(tools))
    with pytest.raises(DeviceError, match=r"cmake is missing.* 'apt-get install cmake'"):
        build_bundle("host", out, wheels=wheels)
    (tools / "cmake").write_text("#!/bin/sh\n")
    (tools / "cmake").chmod(0o755)
    with pytest.raises(DeviceError, match=r"g\+\+ is missing.* 'apt-get install g\+\+'"):
        build_bundle("host", out, wheels=wheels)
    if HOST != "arm64":
        with pytest.raises(DeviceError, match=r"'apt-get install g\+\+-aarch64-linux-gnu'"):
            build_bundle("arm64", out, wheels=wheels)
    assert list(out.iterdir()) == []
    (tools / "g++").symlink_to(tools / "cmake")
    monkeypatch.delenv("CMAKE_GENERATOR", raising=False)
    with pytest.raises(DeviceError, match=r"make is missing.* 'apt-get install make'"):
        build_bundle("host", out, wheels=wheels)


def test_a_compiler_that_fails_is_quoted(wheels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("cmake", "g++"):
        (tmp_path / name).write_text("#!/bin/sh\necho 'CMake Error: no \033[1mluck' >&2\nexit 7\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(DeviceError, match=r"cmake failed with exit code 7: CMake Error: no .\[1mluck$"):
        build_bundle("host", tmp_path / "out", wheels=wheels)


def test_a_wheel_that_is_missing_broken_or_without_a_library(tmp_path: Path) -> None:
    wheel = runtime_wheel("tflite", "arm64")
    for damage, message in (
        (lambda: None, rf"holds no wheel of ai-edge-litert=={wheel.version} for aarch64 .*leave out --wheels"),
        (lambda: write_wheel(wheel, tmp_path).write_bytes(b"no zip"), "is no whole wheel"),
        (lambda: write_wheel(wheel, tmp_path, library=None), "has no C library ai_edge_litert/"),
    ):
        damage()
        with pytest.raises(DeviceError, match=message):
            build_bundle("arm64", tmp_path / "out", runtimes=["tflite"], wheels=tmp_path)
    assert list((tmp_path / "out").iterdir()) == []


def test_wheels_are_fetched_with_pip(quick_tools: None, wheels: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    with pytest.raises(DeviceError, match=r"pip could not fetch .* \(ERROR: .*; .* with --wheels"):
        build_bundle("host", tmp_path)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("PIP_FIND_LINKS", str(wheels))
    assert build_bundle("host", tmp_path) == build_bundle("host", tmp_path, wheels=wheels)
