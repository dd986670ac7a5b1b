"""Uses a folder as the root of a file system: mounts in it, and starts programs in it.

Requires root, and a separate mount namespace (`unshare --mount`), which ends all mounts.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_DEVICES = ("null", "zero", "full", "random", "urandom")
_OF_THE_MACHINE = ("/etc/hosts", "/etc/resolv.conf")


def mount(*arguments: str | Path) -> None:
    """Mount. Raises CalledProcessError, with the error of mount on stderr."""
    subprocess.run(["mount", *map(str, arguments)], check=True)


def mount_devices(root: Path) -> None:
    (root / "dev").mkdir(exist_ok=True)
    mount("-t", "tmpfs", "-o", "mode=755,nosuid", "tmpfs", root / "dev")
    for name in _DEVICES:
        (root / "dev" / name).touch()
        mount("--bind", f"/dev/{name}", root / "dev" / name)


def mount_network(root: Path, pip_certificates: str | None) -> str | None:
    """Provide this machine's host names and certificates; return the path of these in `root`."""
    for name in _OF_THE_MACHINE:
        if Path(name).exists():
            (root / name[1:]).touch()
            mount("--bind", "-o", "ro", name, root / name[1:])
    if pip_certificates is None:
        return None
    (root / "run/certificates.pem").touch()
    mount("--bind", "-o", "ro", os.path.realpath(pip_certificates), root / "run/certificates.pem")
    return "/run/certificates.pem"


def make_read_only(root: Path) -> None:
    """Make the root read-only; later mounts in it are unaffected."""
    mount("--bind", root, root)
    mount("-o", "remount,bind,ro", root)


def command_in(
    root: Path,
    command: Sequence[str],
    *,
    environment: Mapping[str, str],
    directory: str = "/",
    user: str | None = None,
) -> list[str]:
    """Return a command that runs process 1 of a new process namespace, without our environment.

    With a `user` (uid:gid), it has no capabilities and cannot gain any.
    """
    as_user: list[str] = []
    if user is not None:
        uid, _, gid = user.partition(":")
        as_user = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        as_user += ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        as_user += ["--pdeathsig=SIGKILL"]  # which a change of user would reset
    return [
        *("unshare", "--pid", "--fork", "--kill-child=SIGKILL", f"--mount-proc={root}/proc"),
        *("chroot", str(root), *as_user, "env", "--ignore-environment", f"--chdir={directory}"),
        *(f"{name}={value}" for name, value in environment.items()),
        *command,
    ]
