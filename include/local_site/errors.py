"""The errors of the local site.

LocalSiteError              something about the site that a person has to look at; exit code 2
├── SettingError            a setting of the environment cannot be used
├── MissingToolError        a program or package that `bin/setup` installs is not there
├── BusyPortError           another program listens on a port of the site
├── ServiceStartError       a service ended, or did not answer in time, while it was being started
└── PreparationError        the base image, the training environment or the data could not be made
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class LocalSiteError(Exception):
    """Something about the local site that a person has to look at."""


class SettingError(LocalSiteError):
    """A setting of the environment cannot be used."""


class MissingToolError(LocalSiteError):
    """A program or package that ``bin/setup`` installs is not there."""


class BusyPortError(LocalSiteError):
    """Another program listens on a port of the site."""

    def __init__(self, name: str, port: int, setting: str) -> None:
        """Name the port and the setting that changes it.

        :param name: The service that wants the port.
        :param port: The TCP port on 127.0.0.1.
        :param setting: The environment setting that chooses the port.
        """
        super().__init__(
            f"Port {port} on 127.0.0.1, which {name} needs, is used by another program. "
            f"End that program, or choose another port with {setting}, for example: {setting}={port + 1}"
        )
        self.name = name
        self.port = port
        self.setting = setting


class ServiceStartError(LocalSiteError):
    """A service ended, or did not answer in time, while it was being started."""

    def __init__(self, name: str, reason: str, log: Path, tail: str) -> None:
        """Show what the service itself said last.

        :param name: The service.
        :param reason: What happened, as half a sentence.
        :param log: The log file of the service.
        :param tail: The last lines of that file since the start.
        """
        said = "\n".join(f"    {line}" for line in tail.splitlines()) or "    (it wrote nothing)"
        super().__init__(f"{name} {reason}. The end of its log, {log}:\n{said}")
        self.name = name
        self.log = log


class PreparationError(LocalSiteError):
    """The base image, the training environment or the data could not be made."""
