"""Start the server, print how to reach it, or control it.

::

    python -m local_site.azure_ml --state DIR --port N        starts the server and prints how to reach it
    python -m local_site.azure_ml env --state DIR --port N    prints that again
    python -m local_site.azure_ml control --state DIR --port N journal | faults | fault | run | queue | tokens | reset
"""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from local_site.azure_ml.control import command
from local_site.azure_ml.settings import Settings, SettingsError, kept_settings, make_settings

COMMANDS = ("serve", "env", "control")


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    :param arguments: those of this process by default; without a command, the server is started.
    :return: the exit status: 2 when the settings are wrong or the port is busy, 1 when the server refuses.
    """
    words = sys.argv[1:] if arguments is None else arguments
    if words and words[0].startswith("-") and words[0] not in {"-h", "--help"}:
        words = ["serve", *words]
    options = _parser().parse_args(words)
    try:
        return {"serve": _serve, "env": _env, "control": _control}[options.command](options)
    except SettingsError as error:
        print(f"azure_ml: {error}", file=sys.stderr)
        return 2


def _serve(options: argparse.Namespace) -> int:
    from local_site.azure_ml.server import serve  # the other commands need none of it and answer at once

    state = options.state.resolve()
    certificate, key, bundle = _tls(options, state)
    settings = make_settings(state, options.port, bundle, options.settings)
    announcements = {"exports": _exports(settings), "json": _json(settings), "nothing": ""}
    return serve(settings, certificate, key, announcements[options.print])


def _tls(options: argparse.Namespace, state: Path) -> tuple[Path, Path, Path]:
    """Return the certificate, its key and what clients trust: as given, or the server's own, made once."""
    given = (options.cert, options.key, options.ca_bundle)
    if all(given):
        return options.cert.resolve(), options.key.resolve(), options.ca_bundle.resolve()
    if any(given):
        raise SettingsError("--cert, --key and --ca-bundle belong together: give all three, or none.")
    from local_site import certificates

    folder = state / "tls"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    certificates.ensure(folder)
    return folder / "server.pem", folder / "server.key", folder / "trust.pem"


def _env(options: argparse.Namespace) -> int:
    settings = kept_settings(options.state.resolve(), options.port)
    print(_json(settings) if options.json else _exports(settings))
    return 0


def _control(options: argparse.Namespace) -> int:
    return command.run(kept_settings(options.state.resolve(), options.port), options)


def _exports(settings: Settings) -> str:
    return "\n".join(f"export {name}={shlex.quote(value)}" for name, value in settings.exports().items())


def _json(settings: Settings) -> str:
    return json.dumps(settings.exports(), indent=2)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m local_site.azure_ml", description="Azure ML on loopback.")
    commands = parser.add_subparsers(dest="command", required=True)
    serve = commands.add_parser("serve", help="run the server until it gets SIGTERM; the default")
    env = commands.add_parser("env", help="print the environment that the Azure ML SDK needs, as shell exports")
    control = commands.add_parser("control", help="look at a running server, and make it fail or forget")
    for each in (serve, env, control):
        each.add_argument("--state", type=Path, required=True, help="the folder that holds all the server keeps")
        each.add_argument("--port", type=int, required=True, help="the TCP port on 127.0.0.1")
    serve.add_argument("--cert", type=Path, help="the server's certificate chain, PEM; its own by default")
    serve.add_argument("--key", type=Path, help="its private key, PEM")
    serve.add_argument("--ca-bundle", type=Path, help="every authority that clients must trust, PEM")
    serve.add_argument("--settings", type=Path, help="JSON file with ids, secret and names; the rest is made up once")
    serve.add_argument(
        "--print",
        choices=("exports", "json", "nothing"),
        default="exports",
        help="what to print when it can be reached",
    )
    env.add_argument("--json", action="store_true", help="print JSON instead")
    command.add_arguments(control)
    return parser


if __name__ == "__main__":
    sys.exit(main())
