"""Where bpnas works on this machine: nobody else may have put anything there, or what is there is not touched."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result

from bpnas.android_bench.errors import DeviceError
from bpnas.android_bench.local.private_folder import cache_folder, private_folder
from bpnas.android_bench.phone.facts import base_folder
from bpnas.android_bench.runner.bundle import default_bundle
from tests.phone.chaos import write_fake_runner

Cli = Callable[..., Result]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where private folders go."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache/bpnas"


def test_it_is_made_for_this_user_alone_and_not_among_the_temporary_files(cache: Path) -> None:
    previous = os.umask(0)
    try:
        folder = private_folder()
    finally:
        os.umask(previous)
    assert folder == cache / "local" == Path(base_folder("local"))
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert private_folder() == folder


def test_a_relative_cache_is_ignored_and_no_home_is_said(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache/bpnas"

    def nowhere() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr("bpnas.android_bench.local.private_folder.Path.home", nowhere)
    with pytest.raises(DeviceError, match="set HOME or XDG_CACHE_HOME"):
        cache_folder()


def plant(folder: Path, how: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder as somebody else would make it, with programs in it; returns what must be said of it."""
    made = folder if how != "link" else folder.with_name("elsewhere")
    made.mkdir(mode=0o700, parents=True)
    for name in ("restore.sh", "bpnas-runner", "probe.1"):
        (made / name).write_text(f"#!/bin/sh\n# bpnas\ntouch {folder.parent}/pwned\n")
        (made / name).chmod(0o755)
    if how == "link":
        folder.symlink_to(made)
        return "is no folder but a link"
    if how == "of another user":
        monkeypatch.setattr("bpnas.android_bench.local.private_folder.os.geteuid", lambda: os.getuid() + 1)
        return "belongs to another user"
    if how == "open to all":
        folder.chmod(0o777)
        return "others may write to the folder"
    if how == "open to a group":
        folder.chmod(0o770)
        return "others may write to the folder"
    folder.parent.chmod(0o777)
    return "others may exchange the folder"


WAYS = ["link", "of another user", "open to all", "open to a group", "within an open folder"]


@pytest.mark.parametrize("how", WAYS)
@pytest.mark.parametrize("place", ["default", "--directory"])
def test_a_folder_that_may_be_somebody_elses_is_refused_and_nothing_in_it_is_run(
    how: str, place: str, cache: Path, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = cache / "local" if place == "default" else tmp_path / "x/work"
    said = plant(folder, how, monkeypatch)
    before = sorted(folder.iterdir())
    options = () if place == "default" else ("--directory", str(folder))
    monkeypatch.chdir(tmp_path)
    runner = ("--runner", write_fake_runner(tmp_path), "--input-size", "32")
    for command in (("profile-device", "doctor"), ("profile-device", *runner)):
        done = cli(*command, "--serial", "local", *options)
        assert done.exit_code == 1, done.output
        text = " ".join((done.stdout if command[-1] == "doctor" else done.stderr).split())
        assert said in text and str(folder) in text and "--directory" in text
    assert sorted(folder.iterdir()) == before
    assert not (folder.parent / "pwned").exists()


@pytest.mark.parametrize("what", ["a file", "below a file"])
def test_what_is_no_folder_is_said(what: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DeviceError, match="file"):
        private_folder(tmp_path / "file" if what == "a file" else tmp_path / "file/work")


def test_a_bundle_that_others_may_have_put_there_is_not_taken(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_bundle("arm64") is None
    folder = cache / "bundles"
    folder.mkdir(parents=True)
    folder.chmod(0o775)  # a group of this user's own, as many systems make one
    assert default_bundle("arm64") is None
    folder.chmod(0o777)
    with pytest.raises(DeviceError, match=f"others may write to the folder {folder}"):
        default_bundle("arm64")
    folder.chmod(0o755)
    monkeypatch.setattr("bpnas.android_bench.local.private_folder.os.geteuid", lambda: os.getuid() + 1)
    with pytest.raises(DeviceError, match="belongs to another user"):
        default_bundle("arm64")


@pytest.mark.parametrize("home", ["", "here"])
def test_a_home_that_is_no_place_is_none(home: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", home)
    with pytest.raises(DeviceError, match="set HOME or XDG_CACHE_HOME"):
        private_folder()
    assert list(tmp_path.iterdir()) == []
