"""The command line of the demo: `python -m demo run | down | status`."""

from __future__ import annotations

import argparse
import signal
import sys
from typing import TYPE_CHECKING

from demo.errors import DemoError
from demo.settings import DemoSettings
from local_site.errors import LocalSiteError

if TYPE_CHECKING:
    from types import FrameType

FAILED = 1
NOT_RUNNING = 3
INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line asks for.

    :param arguments: those of this process by default.
    :return: 0 when all is well, 1 when something failed, 3 when `status` finds something that does not run, 130 when interrupted.
    """
    parser = argparse.ArgumentParser(prog="python -m demo", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("run", help="start everything, train, and leave everything up")
    commands.add_parser("down", help="stop exactly what was started")
    commands.add_parser("status", help="say what runs; exit code 3 when something does not")
    command = {"run": _run, "down": _down, "status": _status}[parser.parse_args(arguments).command]
    # Whoever stops the demo politely gets what an interrupt at the keyboard gets.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        return command(DemoSettings.from_environment())
    except (DemoError, LocalSiteError) as error:
        print(f"\nError: {error}", file=sys.stderr)
        return FAILED
    except KeyboardInterrupt:
        print("\nInterrupted. `make demo` can simply be run again; `make down` stops what runs.", file=sys.stderr)
        return INTERRUPTED


def _run(settings: DemoSettings) -> int:
    from demo.run import Demo
    from demo.screen import Screen

    Demo(settings, Screen()).run()
    return 0


def _down(settings: DemoSettings) -> int:
    from demo import stack
    from local_site import site
    from local_site.settings import Settings

    # Airflow first: tasks that are stopped still cancel what they started at the site.
    stopped = stack.stop(settings) + site.down(Settings.from_environment())
    print(f"Ended: {', '.join(stopped)}." if stopped else "Nothing was running.")
    return 0


def _status(settings: DemoSettings) -> int:
    from demo import stack
    from local_site import site
    from local_site.settings import Settings

    states = [(state.name, state.pid) for state in stack.status(settings)]
    states += [(state.name, state.pid) for state in site.status(Settings.from_environment())]
    for name, pid in states:
        print(f"{name:<24}{f'process {pid}' if pid else 'not running'}")
    return 0 if all(pid for _, pid in states) else NOT_RUNNING


def _interrupt(_number: int, _frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
