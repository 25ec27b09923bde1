"""The command line of the local site: `python -m local_site up | down | status | env | prepare`."""

from __future__ import annotations

import argparse
import sys
import time

from local_site import site
from local_site.errors import LocalSiteError
from local_site.settings import Settings

_NOT_RUNNING = 3
_ERROR = 2
_INTERRUPTED = 130


def main(argv: list[str] | None = None) -> int:
    """Do what the command line asks for.

    :param argv: The arguments; those of this process by default.
    :return: The exit code: 0 when all is well, 2 for an error, 3 when `status` finds a service that does not run.
    """
    arguments = _parser().parse_args(argv)
    command = {"up": _up, "down": _down, "status": _status, "env": _env, "prepare": _prepare}[arguments.command]
    try:
        return command(Settings.from_environment(), arguments)
    except LocalSiteError as error:
        print(f"Error: {error}", file=sys.stderr)
        return _ERROR
    except OSError as error:
        # A full disk, a folder of somebody else: `error` names the file.
        print(f"Error: {error}", file=sys.stderr)
        return _ERROR
    except KeyboardInterrupt:
        print("Interrupted. What this call started was ended again.", file=sys.stderr)
        return _INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local_site", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    up = commands.add_parser("up", help="start what is not running yet")
    up.add_argument("--only", type=_list, metavar="NAMES", help=f"some of {','.join(site.NAMES)}")
    commands.add_parser("down", help="end everything that was started, and only that")
    commands.add_parser("status", help="say what runs; exit code 3 when something does not")
    commands.add_parser("env", help='print shell exports, for: eval "$(python -m local_site env)"')
    prepare = commands.add_parser("prepare", help="make the base image and the training environment")
    prepare.add_argument("--only", type=_list, metavar="NAMES", help="some of base-image,training-env")
    return parser


def _list(text: str) -> list[str]:
    return [name.strip() for name in text.split(",") if name.strip()]


def _up(settings: Settings, arguments: argparse.Namespace) -> int:
    begin = time.monotonic()
    states = site.up(settings, arguments.only)
    _print_table(states)
    print(f"\nThe local site is up after {time.monotonic() - begin:.1f} s. End it with: python -m local_site down")
    return 0


def _down(settings: Settings, _: argparse.Namespace) -> int:
    stopped = site.down(settings)
    print(f"Ended: {', '.join(stopped)}." if stopped else "The local site was not running.")
    return 0


def _status(settings: Settings, _: argparse.Namespace) -> int:
    states = site.status(settings)
    _print_table(states)
    return 0 if all(state.pid for state in states) else _NOT_RUNNING


def _env(settings: Settings, _: argparse.Namespace) -> int:
    for name, value in settings.exports().items():
        quoted = value.replace("'", "'\\''")
        print(f"export {name}='{quoted}'")
    return 0


def _prepare(settings: Settings, arguments: argparse.Namespace) -> int:
    site.prepare(settings, arguments.only)
    return 0


def _print_table(states: list[site.State]) -> None:
    for state in states:
        process = f"process {state.pid}" if state.pid else "not running"
        print(f"{state.name:<10}{state.title:<26}{state.address:<36}{process}")


if __name__ == "__main__":
    sys.exit(main())
