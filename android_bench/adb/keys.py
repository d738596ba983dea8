"""The key by which a phone knows this computer, in the place where adb itself keeps it."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from bpnas.android_bench.errors import DeviceError


class Signer(Protocol):
    """One key pair, as adb-shell's signers are."""

    def Sign(self, data: bytes) -> bytes:  # noqa: N802 - adb-shell's name
        """The signature of the 20 bytes that a phone asks to be signed."""
        ...

    def GetPublicKey(self) -> str:  # noqa: N802 - adb-shell's name
        """In Android's own format, with `user@host` behind it."""
        ...


def key_folder() -> Path:
    """`$ANDROID_USER_HOME`, else `~/.android`: the rule of the Android SDK's own tools."""
    place = os.environ.get("ANDROID_USER_HOME", "").strip()
    return Path(place) if place else Path.home() / ".android"


def load_signers() -> tuple[Signer, ...]:
    """The key pair `adbkey` of this user, made now where there is none (2048-bit RSA, readable by nobody else).

    Raises:
        DeviceError: the key cannot be read or made.
    """
    from adb_shell.auth.sign_pythonrsa import PythonRSASigner

    private = Path("~/.android/adbkey")
    try:
        private = key_folder() / "adbkey"
        if not private.exists():
            _make_private_key(private)
        if private.stat().st_mode & 0o077:
            private.chmod(0o600)
        public = private.with_name("adbkey.pub")
        if not public.exists():
            _write_public_key(private, public)
        return (PythonRSASigner.FromRSAKeyPath(str(private)),)
    except OSError as error:
        raise DeviceError(f"{private}: the key for ADB cannot be used ({error.strerror}); check its folder") from error
    except Exception as error:  # any error that a broken file causes in the decoder
        raise DeviceError(
            f"{private}: no RSA key that can be read; move it and its .pub away to get a new pair"
        ) from error


def _make_private_key(private: Path) -> None:
    from adb_shell.auth.keygen import keygen

    private.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    # Through a folder of its own, which nobody else may enter: a key must never be readable, even for a moment.
    with tempfile.TemporaryDirectory(dir=private.parent, prefix=".adbkey-") as temporary:
        made = Path(temporary) / "adbkey"
        keygen(str(made))
        made.chmod(0o600)
        # A link replaces nothing: of several connections at once, all get the key of the first.
        with suppress(FileExistsError):
            private.hardlink_to(made)
            made.with_name("adbkey.pub").replace(private.with_name("adbkey.pub"))


def _write_public_key(private: Path, public: Path) -> None:
    from adb_shell.auth.keygen import write_public_keyfile

    with tempfile.TemporaryDirectory(dir=public.parent, prefix=".adbkey-") as temporary:
        made = Path(temporary) / "adbkey.pub"
        write_public_keyfile(str(private), str(made))
        made.replace(public)
