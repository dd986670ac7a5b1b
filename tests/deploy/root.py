"""A folder as the root of a file system: what is mounted in it, and how a program starts in it.

Needs root, and a mount namespace of its own (`unshare --mount`), in which all of it ends.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path

_DEVICES = ("null", "zero", "full", "random", "urandom")
_OF_THE_MACHINE = ("/etc/hosts", "/etc/resolv.conf")


def mount(*arguments: str | Path) -> None:
    """Raises CalledProcessError, with what mount said on stderr."""
    subprocess.run(["mount", *map(str, arguments)], check=True)


def mount_devices(root: Path) -> None:
    (root / "dev").mkdir(exist_ok=True)
    mount("-t", "tmpfs", "-o", "mode=755,nosuid", "tmpfs", root / "dev")
    for name in _DEVICES:
        (root / "dev" / name).touch()
        mount("--bind", f"/dev/{name}", root / "dev" / name)


def mount_network(root: Path, pip_certificates: str | None) -> str | None:
    """Names and certificates as this machine has them; returns where the latter are in `root`."""
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
    """All of it; what is mounted in it afterwards is as that is."""
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
    """What starts it as process 1 of its own process namespace, with nothing of our environment.

    With a `user` (uid:gid) it has no capabilities and can't gain any.
    """
    as_user: list[str] = []
    if user is not None:
        uid, _, gid = user.partition(":")
        as_user = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--clear-groups"]
        as_user += ["--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        as_user += ["--pdeathsig=SIGKILL"]  # which a change of user would take away
    return [
        *("unshare", "--pid", "--fork", "--kill-child=SIGKILL", f"--mount-proc={root}/proc"),
        *("chroot", str(root), *as_user, "env", "--ignore-environment", f"--chdir={directory}"),
        *(f"{name}={value}" for name, value in environment.items()),
        *command,
    ]
