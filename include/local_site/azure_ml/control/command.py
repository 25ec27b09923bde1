"""``python -m local_site.azure_ml control``: the control endpoints for people."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from local_site.azure_ml.settings import SettingsError

if TYPE_CHECKING:
    import argparse

    from local_site.azure_ml.settings import Settings

TIMEOUT_SECONDS = 60
Request = tuple[str, str, dict[str, Any] | None]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Describe what there is to control."""
    actions = parser.add_subparsers(dest="action", required=True)
    journal = actions.add_parser("journal", help="the newest requests, one a line")
    journal.add_argument("--last", type=int, default=50, help="how many")
    journal.add_argument("--clear", action="store_true", help="forget them instead")
    faults = actions.add_parser("faults", help="the faults that wait for their calls")
    faults.add_argument("--clear", action="store_true", help="take them back instead")
    fault = actions.add_parser("fault", help="make the next calls of a route fail")
    fault.add_argument("kind", help="status, delay, reset or lost_response")
    fault.add_argument("path", help="a regular expression, found anywhere in the path")
    fault.add_argument("--method", help="the HTTP method; any by default")
    fault.add_argument("--calls", type=int, help="how many calls; one by default")
    fault.add_argument("--status", type=int, help="for status; 503 by default")
    fault.add_argument("--retry-after", type=int, help="seconds, sent along with a status")
    fault.add_argument("--seconds", type=float, help="for delay; 1 by default")
    run = actions.add_parser("run", help="put a run into a state by hand")
    run.add_argument("run_id")
    run.add_argument("status", help="Queued makes a submitted run start again")
    run.add_argument("--code", help="the code of its error")
    run.add_argument("--message", help="the message of its error")
    actions.add_parser("queue", help="which runs are trained and which wait, per compute")
    tokens = actions.add_parser("tokens", help="how long tokens are good")
    tokens.add_argument("--client-seconds", type=int, help="for tokens that clients get from now on")
    tokens.add_argument("--run-seconds", type=int, help="for tokens that runs get from now on")
    tokens.add_argument("--revoke", action="store_true", help="every token given until now is expired")
    actions.add_parser("reset", help="end every run and forget everything but snapshots and settings")


def run(settings: Settings, options: argparse.Namespace) -> int:
    """Send one request to the server and print its answer.

    :return: 0, or 1 when the server refuses.
    :raises SettingsError: when nothing answers there.
    """
    import requests

    method, path, body = _request(options)
    with requests.Session() as session:
        session.trust_env = False
        url = f"{settings.base_url}/_control/{path}"
        try:
            answer = session.request(method, url, json=body, verify=str(settings.ca_bundle), timeout=TIMEOUT_SECONDS)
        except requests.ConnectionError as error:
            raise SettingsError(f"Nothing answers at {settings.base_url}; is the server running there?") from error
    content = answer.json()
    if not answer.ok:
        print(f"azure_ml: {content['error']['message']}", file=sys.stderr)
        return 1
    _print(options, content)
    return 0


def _request(options: argparse.Namespace) -> Request:
    match options.action:
        case "journal" | "faults":
            return "DELETE" if options.clear else "GET", options.action, None
        case "fault":
            return (
                "POST",
                "faults",
                _given(options, "kind", "path", "method", "calls", "status", "retry_after", "seconds"),
            )
        case "run":
            error = _given(options, "code", "message")
            return (
                "POST",
                f"runs/{options.run_id}/status",
                {"status": options.status} | ({"error": error} if error else {}),
            )
        case "tokens":
            return "POST", "tokens", _given(options, "client_seconds", "run_seconds", "revoke")
        case "reset":
            return "POST", "reset", {}
    return "GET", options.action, None


def _given(options: argparse.Namespace, *names: str) -> dict[str, Any]:
    values = {name: getattr(options, name) for name in names}
    return {name: value for name, value in values.items() if value is not None and value is not False}


def _print(options: argparse.Namespace, content: dict[str, Any]) -> None:
    if options.action != "journal" or options.clear:
        print(json.dumps(content, indent=2))
        return
    for one in content["requests"][-options.last :]:
        fault = f"  [{one['fault']}]" if one["fault"] else ""
        print(f"{one['time']}  {one['status']:>3}  {one['seconds']:8.4f} s  {one['method']:<6} {one['path']}{fault}")
