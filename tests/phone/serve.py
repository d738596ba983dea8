"""A phone to try things on, without one: keeps a real daemon on the loopback interface until it is interrupted.

    python tests/phone/serve.py [--arm64] [--uid N]

Native and quick, or with --arm64 a whole ARM64 phone under qemu (needs root). Prints its serial and a folder on it, for
`profile-device --serial SERIAL --directory FOLDER/bpnas`. The parts are those of `prepare.py`, in BPNAS_PHONE_PARTS.
"""

from __future__ import annotations

import argparse
import signal
import sys
import tempfile
from pathlib import Path

# Only in this process, which never imports what would take the folder `tables` for its own.
sys.path.insert(0, str(Path(__file__).parents[2]))

import pytest

from tests.phone.arm64 import build_root, start_arm64
from tests.phone.daemon import SHELL_UID, start_native
from tests.phone.parts import copy_daemon, phone_parts


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arm64", action="store_true")
    parser.add_argument("--uid", type=int, default=SHELL_UID, help="user of the native daemon's shells")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bpnas-phone-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        try:
            if given.arm64:
                identity = build_root(phone_parts("arm64", "mounts", "emulation"), folder / "root")
                phone = start_arm64(identity, folder / "log")
            else:
                copy_daemon(phone_parts("adbd"), "amd64", folder / "adbd")
                (folder / "phone").mkdir()
                phone = start_native(folder / "adbd", folder / "phone", given.uid)
        except pytest.skip.Exception as reason:
            sys.exit(f"no phone: {reason}")
        with phone:
            # Only now, for the phone would inherit it: blocked signals wait until they are asked for.
            ends = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}
            signal.pthread_sigmask(signal.SIG_BLOCK, ends)
            print(phone.serial, phone.directory, flush=True)
            signal.sigwait(ends)


if __name__ == "__main__":
    main()
