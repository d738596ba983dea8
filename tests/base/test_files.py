"""Files are whole or not there."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from bpnas.base.errors import BpnasError, SpaceError
from bpnas.base.files import append, write_atomically
from tests.small_limits import limited


@pytest.fixture
def umask():
    before = os.umask(0o022)
    yield os.umask
    os.umask(before)


def names(folder: Path) -> list[str]:
    return sorted(os.listdir(folder))  # noqa: PTH208 - with hidden ones


@pytest.mark.parametrize("content", [b"", b"abc", os.urandom(3_000_000)], ids=["empty", "short", "long"])
def test_a_new_file(tmp_path: Path, content: bytes) -> None:
    write_atomically(tmp_path / "model.onnx", content)
    assert (tmp_path / "model.onnx").read_bytes() == content
    assert names(tmp_path) == ["model.onnx"]


def test_the_path_may_be_text_without_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_atomically("model.onnx", b"abc")
    assert (tmp_path / "model.onnx").read_bytes() == b"abc"


def test_an_old_file_is_replaced(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"a longer old content")
    write_atomically(file, b"new")
    assert file.read_bytes() == b"new"
    assert names(tmp_path) == ["model.onnx"]


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_permissions_are_those_of_any_new_file(tmp_path: Path, umask, mask: int, mode: int) -> None:
    umask(mask)
    write_atomically(tmp_path / "model.onnx", b"abc")
    assert stat.S_IMODE((tmp_path / "model.onnx").stat().st_mode) == mode
    assert umask(mask) == mask, "the process's own umask is as it was"


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT])
@pytest.mark.parametrize("fails", ["write", "fsync", "replace", "mkstemp"])
def test_no_space_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fails: str, code: int
) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"old")

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(code, os.strerror(code))

    if fails == "write":
        real_open = os.fdopen
        monkeypatch.setattr("os.fdopen", lambda handle, mode: _FullFile(real_open(handle, mode)))
    else:
        monkeypatch.setattr({"mkstemp": "tempfile.mkstemp"}.get(fails, f"os.{fails}"), full)
    with pytest.raises(SpaceError, match=r"model\.onnx: no space left on the disk") as caught:
        write_atomically(file, b"new")
    monkeypatch.undo()
    assert isinstance(caught.value, BpnasError)
    assert caught.value.exit_code == 1
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == ["model.onnx"]


class _FullFile:
    """A file on a disk that has no room, like /dev/full."""

    def __init__(self, file) -> None:
        self.file = file

    def __enter__(self) -> _FullFile:
        return self

    def __exit__(self, *args: object) -> None:
        self.file.close()

    def write(self, content: bytes) -> None:
        with Path("/dev/full").open("wb", buffering=0) as full:
            full.write(content)


def test_other_errors_are_not_taken_for_a_full_disk(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as absent:
        write_atomically(tmp_path / "absent" / "model.onnx", b"abc")
    (tmp_path / "folder").mkdir()
    with pytest.raises(IsADirectoryError) as folder:
        write_atomically(tmp_path / "folder", b"abc")
    assert absent.value.filename == str(tmp_path / "absent" / "model.onnx"), "and not a temporary name"
    assert folder.value.filename == str(tmp_path / "folder") and folder.value.filename2 is None
    assert names(tmp_path) == ["folder"]


def test_an_interrupt_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"old")

    def interrupted(handle: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(file, b"new")
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == ["model.onnx"]


def test_a_reader_sees_one_whole_content_or_the_other(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    contents = [bytes([digit]) * 200_000 for digit in range(4)]
    write_atomically(file, contents[0])
    done = threading.Event()
    seen: set[bytes] = set()

    def read() -> None:
        while not done.is_set():
            seen.add(file.read_bytes())

    reader = threading.Thread(target=read)
    reader.start()
    try:
        for _ in range(25):
            for content in contents:
                write_atomically(file, content)
    finally:
        done.set()
        reader.join()
    assert seen
    assert seen <= set(contents)


def test_what_is_appended_is_whole_or_not_there(tmp_path: Path) -> None:
    file = tmp_path / "log.jsonl"
    append(file, b"one\n")
    append(file, b"two\n")
    with limited("FSIZE", 10), pytest.raises(SpaceError, match=r"log\.jsonl: would be larger than .* \(10 bytes\)"):
        append(file, b"three\n")
    assert file.read_bytes() == b"one\ntwo\n"
    append(file, b"three\n")
    assert file.read_bytes() == b"one\ntwo\nthree\n"


@pytest.mark.parametrize("error", [OSError(errno.ENOSPC, "full"), OSError(errno.EIO, "broken"), KeyboardInterrupt()])
def test_what_could_not_be_seen_to_the_disk_is_taken_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    file = tmp_path / "log.jsonl"
    append(file, b"one\n")

    def fails(handle: int) -> None:
        raise error

    monkeypatch.setattr("os.fsync", fails)
    with pytest.raises((SpaceError, OSError, KeyboardInterrupt)) as caught:
        append(file, b"two\n")
    assert isinstance(caught.value, KeyboardInterrupt) or str(file) in str(caught.value)
    assert file.read_bytes() == b"one\n"


def test_a_file_beyond_the_limit_of_the_process_leaves_the_old_one(tmp_path: Path) -> None:
    file = tmp_path / "model.onnx"
    file.write_bytes(b"old")
    with limited("FSIZE", 10), pytest.raises(SpaceError, match=r"model\.onnx: would be larger .*ulimit -f unlimited"):
        write_atomically(file, b"x" * 11)
    assert file.read_bytes() == b"old"
    assert names(tmp_path) == ["model.onnx"]


def test_a_name_as_long_as_a_name_may_be(tmp_path: Path) -> None:
    file = tmp_path / f"{'x' * 250}.csv"
    write_atomically(file, b"abc")
    assert file.read_bytes() == b"abc"
