"""The command line, started by path in a snapshot.

::

    python edge_run/__main__.py --grant PATH --fingerprint sha256:... [--param NAME=VALUE ...]     a run
    python -I edge_run/__main__.py scan ...        search files for training data (scan.command)
    python -I edge_run/__main__.py wipe            remove what killed runs left (wipe)
"""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    # Started by its path, Python puts this folder on the path, where our modules would be found by their bare names.
    here = Path(__file__).resolve().parent
    sys.path[:] = [str(here.parent), *(entry for entry in sys.path if Path(entry).resolve() != here)]
    sys.stdout.reconfigure(encoding="utf-8", errors="backslashreplace")  # type: ignore[union-attr]  # it is the real one

    if sys.argv[1:] == ["wipe"]:
        from edge_run import wipe

        sys.exit(wipe.main())
    if sys.argv[1:2] == ["scan"]:
        from edge_run.scan import command

        sys.exit(command.main(sys.argv[2:]))

    from edge_run.runner import main

    sys.exit(main(sys.argv[1:], Path.cwd()))
