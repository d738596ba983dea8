"""The key pair by which a phone knows this computer."""

from __future__ import annotations

import base64
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from adb_shell.auth.keygen import keygen
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from bpnas.android_bench.adb.keys import key_folder, load_signers
from bpnas.android_bench.errors import DeviceError
from tests.phone.legacy_auth import read_public_key, signed_by


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ANDROID_USER_HOME", str(tmp_path / "home/.android"))
    return tmp_path / "home/.android"


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def signs(public: str) -> bool:
    """Whether what is signed now is that public key's."""
    token = os.urandom(20)
    return signed_by(read_public_key(public.encode()), token, load_signers()[0].Sign(token))


def test_a_pair_is_made_once_and_kept(folder: Path) -> None:
    (signer,) = load_signers()
    assert sorted(path.name for path in folder.iterdir()) == ["adbkey", "adbkey.pub"]
    assert mode(folder / "adbkey") == 0o600
    private = (folder / "adbkey").read_bytes()
    key = serialization.load_pem_private_key(private, None)
    assert isinstance(key, RSAPrivateKey)
    numbers = key.public_key().public_numbers()
    assert (key.key_size, read_public_key(signer.GetPublicKey().encode())) == (2048, (numbers.n, numbers.e))
    assert load_signers()[0].GetPublicKey() == signer.GetPublicKey()
    assert (folder / "adbkey").read_bytes() == private
    assert signs(signer.GetPublicKey())


def test_connections_that_start_at_once_get_one_pair(folder: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        pairs = list(pool.map(lambda _: load_signers()[0].GetPublicKey(), range(4)))
    assert all(signs(public) for public in {*pairs, (folder / "adbkey.pub").read_text()})
    assert sorted(path.name for path in folder.iterdir()) == ["adbkey", "adbkey.pub"]


def test_the_key_of_the_adb_client_is_taken_as_it_is(folder: Path) -> None:
    folder.mkdir(parents=True)
    keygen(str(folder / "adbkey"))
    (folder / "adbkey").chmod(0o644)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    (signer,) = load_signers()
    assert signer.GetPublicKey().encode() == before["adbkey.pub"]
    assert mode(folder / "adbkey") == 0o600, "nobody else may read it any more"
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_lost_public_key_is_made_from_the_private_one(folder: Path) -> None:
    public = load_signers()[0].GetPublicKey()
    (folder / "adbkey.pub").unlink()
    again = load_signers()[0].GetPublicKey()
    assert base64.b64decode(again.split()[0]) == base64.b64decode(public.split()[0])
    assert (folder / "adbkey.pub").read_text() == again


def test_a_lost_private_key_takes_the_public_one_along(folder: Path) -> None:
    old = load_signers()[0].GetPublicKey()
    (folder / "adbkey").unlink()
    new = load_signers()[0].GetPublicKey()
    assert new.split()[0] != old.split()[0]
    assert signs(new)


@pytest.mark.parametrize(
    "content", [b"", b"garbage", b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", b"\xff"]
)
@pytest.mark.parametrize("with_public", [False, True])
def test_a_broken_key_is_named_and_left_alone(folder: Path, content: bytes, with_public: bool) -> None:
    folder.mkdir(parents=True)
    (folder / "adbkey").write_bytes(content)
    if with_public:
        (folder / "adbkey.pub").write_text("AAAA me@here")
    with pytest.raises(DeviceError, match=rf"{folder}/adbkey: no RSA key that can be read; move it and its \.pub away"):
        load_signers()
    assert (folder / "adbkey").read_bytes() == content
    assert len(list(folder.iterdir())) == 1 + with_public


def test_a_place_where_no_key_can_be_is_named(folder: Path) -> None:
    folder.parent.mkdir()
    folder.write_text("a file where the folder should be")
    with pytest.raises(DeviceError, match=f"{folder}/adbkey: the key for ADB cannot be used .*check its folder"):
        load_signers()
    folder.unlink()
    (folder / "adbkey").mkdir(parents=True)
    with pytest.raises(DeviceError, match=f"{folder}/adbkey: the key for ADB cannot be used"):
        load_signers()


def test_keys_lie_where_the_tools_of_the_sdk_have_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert key_folder() == folder
    for nowhere in ("", "  "):
        monkeypatch.setenv("ANDROID_USER_HOME", nowhere)
        monkeypatch.setenv("HOME", "/home/someone")
        assert key_folder() == Path("/home/someone/.android")
