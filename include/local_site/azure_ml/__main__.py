"""Start the server, or print how to reach it.

::

    python -m local_site.azure_ml serve --state DIR --port N --cert PEM --key PEM --ca-bundle PEM [--settings FILE]
    python -m local_site.azure_ml env --state DIR --port N [--json]
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from local_site.azure_ml.settings import SettingsError, kept_settings, make_settings


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    :return: the exit status: 2 when the settings are wrong or the port is busy.
    """
    options = _parser().parse_args(arguments)
    try:
        return _env(options) if options.command == "env" else _serve(options)
    except SettingsError as error:
        print(f"azure_ml: {error}", file=sys.stderr)
        return 2


def _serve(options: argparse.Namespace) -> int:
    from local_site.azure_ml.server import serve  # `env` needs none of it and answers at once

    settings = make_settings(options.state.resolve(), options.port, options.ca_bundle.resolve(), options.settings)
    return serve(settings, options.cert, options.key)


def _env(options: argparse.Namespace) -> int:
    exports = kept_settings(options.state.resolve(), options.port).exports()
    if options.json:
        print(json.dumps(exports, indent=2))
    else:
        print("\n".join(f"export {name}={shlex.quote(value)}" for name, value in exports.items()))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local_site.azure_ml", description="Azure ML on loopback.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="run the server until it gets SIGTERM")
    env = commands.add_parser("env", help="print the environment that the Azure ML SDK needs, as shell exports")
    for command in (serve, env):
        command.add_argument("--state", type=Path, required=True, help="the folder that holds all the server keeps")
        command.add_argument("--port", type=int, required=True, help="the TCP port on 127.0.0.1")
    serve.add_argument("--cert", type=Path, required=True, help="the server's certificate chain, PEM")
    serve.add_argument("--key", type=Path, required=True, help="its private key, PEM")
    serve.add_argument("--ca-bundle", type=Path, required=True, help="every authority that clients must trust, PEM")
    serve.add_argument("--settings", type=Path, help="JSON file with ids, secret and names; the rest is made up once")
    env.add_argument("--json", action="store_true", help="print JSON instead")
    return parser


if __name__ == "__main__":
    sys.exit(main())
