"""Become a program that adopts whatever its descendants leave behind: `python subreaper.py PROGRAM ARGUMENT ...`.

So a process that left its parent and its session on the training VM can still be found, and ended, with the VM. Where
the VM has a process namespace of its own, the kernel does this.
"""

from __future__ import annotations

import ctypes
import os
import sys

_PR_SET_CHILD_SUBREAPER = 36

if __name__ == "__main__":
    # The property survives the exec. Without it everything works, except that such a process would go on.
    ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    os.execv(sys.argv[1], sys.argv[1:])  # noqa: S606 - an argument list, not a shell
