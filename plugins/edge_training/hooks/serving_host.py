"""A host that serves models, over SSH: the program of :mod:`edge_training.deployment.host` does the work there."""

from __future__ import annotations

import hashlib
import json
import shlex
from typing import TYPE_CHECKING, Any

from edge_training.deployment.errors import from_host
from edge_training.deployment.program import program
from edge_training.exceptions import ComputeError, ConfigurationError, DeploymentError
from edge_training.hooks.training_vm import TrainingVMHook

if TYPE_CHECKING:
    from collections.abc import Mapping

_NO_PROGRAM_STATUS = 96
_ERROR_STATUS = 3
_FOLDER = ".edge-training/serving"


class ServingHostHook(TrainingVMHook):
    """Logs in to a host that serves models.

    The connection is like that of a training VM, and may be the same; extra ``serving_port`` is the port that a deployment takes when the
    site file does not name one.

    :param conn_id: the Airflow connection's id.
    :param python: an interpreter on the host, Python 3.11 or later; nothing but its standard library is needed.
    :raises ConfigurationError: by every method, when the connection is wrong.
    :raises ComputeError: by methods that only log in, when that fails.
    """

    default_conn_name = "serving_host"
    hook_name = "Serving host"
    extras = TrainingVMHook.extras | {"serving_port"}

    def __init__(self, conn_id: str = default_conn_name, python: str = "python3") -> None:
        super().__init__(conn_id)
        self.python = python

    @property
    def label(self) -> str:
        """Return the host as people write it: ``account@address:port``."""
        return f"{self.user}@{self.host}:{self.port}"

    @property
    def serving_port(self) -> int:
        """Return the port that a deployment takes on this host.

        :raises ConfigurationError: when the connection names none.
        """
        text = str(self.connection.extra.get("serving_port", "")).strip()
        if not text.isdecimal() or not 0 < int(text) < 65536:
            raise ConfigurationError(
                f"Connection '{self.conn_id}' has extra serving_port '{text}', expected a TCP port from 1 to 65535; or name the port in "
                "the site file (deployment.targets, port)."
            )
        return int(text)

    def order(
        self, command: str, order: Mapping[str, Any], reference: str, timeout_seconds: float = 600.0
    ) -> dict[str, Any]:
        """Have something done on the host, and return what came of it.

        :param command: ``pull``, ``verify``, ``deploy``, ``status`` or ``stop``.
        :param order: what belongs to it; it goes to the program's standard input and nowhere else, for it may hold a login.
        :param reference: the image that it is about, for errors.
        :param timeout_seconds: how long it may take.
        :raises DeploymentError: when the host cannot be reached or cannot do it; what served there still does.
        :raises ImageError: when the image or its registry is at fault.
        """
        name, content = program()
        path = f"{_FOLDER}/{name}"
        digest = hashlib.sha256(content).hexdigest()
        line = (
            f'cd "$HOME" && echo {shlex.quote(f"{digest}  {path}")} | sha256sum -c --status 2>/dev/null || exit {_NO_PROGRAM_STATUS}; '
            f"exec {shlex.quote(self.python)} -I {shlex.quote(path)} {shlex.quote(command)}"
        )
        stdin = json.dumps(dict(order)).encode()
        try:
            result = self.run(line, stdin=stdin, timeout_seconds=timeout_seconds)
            if result.status == _NO_PROGRAM_STATUS:
                self.put_file(content, f"{self.home()}/{path}")
                result = self.run(line, stdin=stdin, timeout_seconds=timeout_seconds)
        except ComputeError as error:
            raise DeploymentError(
                f"{error} Image {reference} was not put into service there.", retryable=True
            ) from error
        return self._read(result.status, result.stdout, result.stderr, reference)

    def _read(self, status: int, stdout: str, stderr: str, reference: str) -> dict[str, Any]:
        try:
            told = json.loads(stdout.strip().splitlines()[-1])
        except (ValueError, IndexError):
            told = None
        if status == 0 and isinstance(told, dict):
            return told
        if status == _ERROR_STATUS and isinstance(told, dict):
            raise from_host(told["error"], self.label, reference)
        raise DeploymentError(
            f"Host {self.label} (connection '{self.conn_id}') ended with exit status {status} over image {reference}: "
            f"{stderr.strip()[-1000:] or 'it said nothing'}",
            retryable=True,
        )

    def _failure(self, happened: str) -> ComputeError:
        return ComputeError(f"Serving host {self.label} (connection '{self.conn_id}') {happened}.")
