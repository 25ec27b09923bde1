"""The program's entry: one command, its order as JSON on standard input, its result as the last line of standard output."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from edge_training.deployment.host.errors import HostError

_ERROR_STATUS = 3


def run() -> None:
    """Do one command.

    ``front`` and ``keep`` take the folder of a deployment as an argument and do not end by themselves; all others take an order.
    """
    os.umask(0o077)
    # What is started from here works in other folders.
    sys.argv[0] = str(Path(sys.argv[0]).resolve())
    name, *arguments = sys.argv[1:]
    if name in {"front", "keep"}:
        from edge_training.deployment.host import front, unit

        return front.main(*arguments) if name == "front" else unit.keep(*arguments)
    from edge_training.deployment.host.commands import COMMANDS

    # Told to end, it leaves through its `finally`s, so that what it started ends with it.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    try:
        result = COMMANDS[name](json.load(sys.stdin))
    except HostError as error:
        print(json.dumps({"error": error.to_json()}))
        sys.exit(_ERROR_STATUS)
    print(json.dumps(result))
    return None
