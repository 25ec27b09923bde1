"""Where namespaces are forbidden: the VM's own file system, of which only what the plan names can be opened, and no network.

What this cannot do is said in docs/security.md: names and sizes of the VM's files can still be asked for one by one.
"""

from __future__ import annotations

import os

from edge_run.sandboxes import kernel, landlock, seccomp
from edge_run.sandboxes.namespaces import SETTINGS, SYSTEM

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

_READABLE = ("/usr", *SYSTEM, *SETTINGS, "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/sys/devices/system/cpu")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full", "/dev/random", "/dev/urandom")


def check() -> None:
    """Refuse early what would fail later.

    :raises OSError: when the kernel has no Landlock; without it the script could read the whole account.
    """
    landlock.version()


def move_in(spec: dict[str, Any]) -> None:
    """Give up, for this process and all that come from it, everything but what the plan names.

    :param spec: the plan; see :mod:`edge_run.sandboxes.launch`.
    :raises OSError: when the kernel cannot do it.
    """
    # What runs here later keeps this process's number, and libraries look up there what they have loaded.
    rules = [(path, landlock.READ) for path in (*_READABLE, f"/proc/{os.getpid()}")]
    rules += [(path, landlock.READ | landlock.WRITE) for path in _DEVICES]
    rules += [(path, landlock.READ) for path, _ in spec["read_only"]]
    rules += [(path, landlock.READ | landlock.WRITE) for path, _ in spec["writable"]]
    kernel.give_up_privileges()
    landlock.restrict(rules)
    seccomp.restrict(signals=landlock.version() >= landlock.SCOPES_SINCE)
