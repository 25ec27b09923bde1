"""``wipe``: removes what runs that were killed have left on the VM, and nothing of those that live.

::

    python -I DIR/edge_run/__main__.py wipe

Prints exactly one line of JSON (``files`` and ``bytes`` that were removed, or ``error_code`` and ``error``), and ends with status 0 or 2.
It imports little, so that any Python of the VM will do.
"""

from __future__ import annotations

import json
from pathlib import Path

from edge_run.errors import EdgeRunError
from edge_run.workspace import sweep

VERSION = 1


def main() -> int:
    """Do it, print one line, and return the exit status."""
    answer: dict[str, int | str]
    try:
        wiped = sweep(Path.home())
        answer = {"files": wiped.files, "bytes": wiped.bytes}
    except EdgeRunError as error:
        answer = {"error_code": error.code, "error": str(error)}
    except OSError as error:
        answer = {"error_code": "Internal", "error": f"Wiping itself failed ({error.strerror})."}
    print(json.dumps({"version": VERSION, **answer}, sort_keys=True))
    return 2 if "error" in answer else 0
