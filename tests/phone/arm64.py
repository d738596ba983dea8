"""A phone to be mistaken for: the ARM64 daemon in a chroot that has what Android has and nothing of this machine's.

There is no C library in it but the daemon's own, so what runs there brings everything along, as on a phone.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from tests.patience import PATIENCE
from tests.phone.daemon import PRIVATE_MOUNTS, SHELL_UID, Adbd
from tests.phone.identity import Identity
from tests.phone.parts import copy_daemon, loader

DAEMON_HOME = "apex/com.android.adbd"
DIRECTORY = "data/local/tmp"
HOST_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"

# Nothing of this machine's is mounted, and processes of its other users are not seen, as on Android. Devices are made
# anew, for a bind mount would hand out this machine's terminals.
MOUNTS = """
root=$1
shift
mount --bind "$root" "$root"
mount -t proc -o hidepid=2 proc "$root/proc"
mount -t tmpfs -o size=1m,mode=0755 tmpfs "$root/dev"
mkdir "$root/dev/pts"
mount -t devpts -o newinstance,mode=0620,ptmxmode=0666 devpts "$root/dev/pts"
umask 0
mknod "$root/dev/null" c 1 3
mknod "$root/dev/zero" c 1 5
mknod "$root/dev/full" c 1 7
mknod "$root/dev/random" c 1 8
mknod "$root/dev/urandom" c 1 9
mknod "$root/dev/tty" c 5 0
ln -s pts/ptmx "$root/dev/ptmx"
cp "$root/cpuinfo" "$root/dev/cpuinfo"
mount --bind "$root/dev/cpuinfo" "$root/proc/cpuinfo"
ln -s /proc/self/fd "$root/dev/fd"
exec "$@"
"""

# As the kernel of an S9 prints it; one such paragraph for each core.
CPUINFO = """processor\t: {number}
BogoMIPS\t: 38.40
Features\t: fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp
CPU implementer\t: 0x51
CPU architecture: 8
CPU variant\t: 0x{variant}
CPU part\t: 0x{part}
CPU revision\t: 12

"""


def build_root(parts: Path, root: Path, cores: Sequence[int] | None = None) -> Identity:
    """The files of the phone in `root`; its processor cores are those of `Identity`."""
    root.mkdir()
    root.chmod(0o755)
    for folder in ("dev", "proc", "sys", "system/bin", "system/etc", DIRECTORY):
        (root / folder).mkdir(parents=True)
    (root / "bin").symlink_to("system/bin")
    (root / "etc").symlink_to("system/etc")
    users = {"root": 0, "shell": SHELL_UID}
    lines = [f"{name}:x:{uid}:{uid}::/:/system/bin/sh\n" for name, uid in users.items()]
    (root / "system/etc/passwd").write_text("".join(lines))
    (root / DIRECTORY).chmod(0o771)
    os.chown(root / DIRECTORY, SHELL_UID, SHELL_UID)
    shutil.copy(parts / "arm64/usr/bin/busybox", root / "system/bin/busybox")
    # It installs itself, and so shows that ARM64 programs run in there.
    install = ["chroot", root, "/system/bin/busybox", "--install", "-s", "/system/bin"]
    subprocess.run(install, check=True, env={"PATH": HOST_PATH}, timeout=PATIENCE)
    copy_daemon(parts, "arm64", root / DAEMON_HOME)
    identity = Identity(root, "arm64-v8a", cores)
    paragraphs = [
        CPUINFO.format(number=number, variant="6" if big else "7", part="802" if big else "803")
        for number, big in enumerate(identity.big_cores())
    ]
    (root / "cpuinfo").write_text("".join(paragraphs) + "Hardware\t: Qualcomm Technologies, Inc SDM845\n")
    return identity


def start_arm64(identity: Identity, log: Path) -> Adbd:
    """The daemon in that root, as Android's user `shell`."""
    home = identity.root / DAEMON_HOME
    inside = Path("/", DAEMON_HOME)
    daemon = [inside / loader(home).name, "--library-path", inside, "--preload", inside / "bindlo.so", inside / "adbd"]
    user = f"--userspec={SHELL_UID}:{SHELL_UID}"
    environment = {
        "ANDROID_DATA": "/data",
        "ANDROID_ROOT": "/system",
        "HOME": "/",
        "PATH": f"/system/bin:{HOST_PATH}",  # the mounts and the chroot are this machine's programs
        # The oldest with the S9's instructions. The default, `max`, has others that a phone lacks and that take long.
        "QEMU_CPU": "cortex-a76",
    }
    return Adbd(
        [*PRIVATE_MOUNTS, MOUNTS, "sh", identity.root, "chroot", user, "--groups=", identity.root, *daemon],
        f"/{DIRECTORY}",
        identity,
        log,
        environment,
        host_directory=identity.root / DIRECTORY,
        patience_seconds=60.0,
    )
