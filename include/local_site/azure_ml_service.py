"""The Azure ML server of the site, as a background process."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING

from local_site import files
from local_site.probes import answers_https
from local_site.processes import Service
from local_site.settings import PROJECT

if TYPE_CHECKING:
    from pathlib import Path

    from local_site.credentials import Credentials
    from local_site.settings import Settings


def service(settings: Settings) -> Service:
    """Describe the Azure ML server as a background process.

    :param settings: The settings of the site.
    """
    argv = [sys.executable, "-m", "local_site.azure_ml", "serve"]
    argv += ["--state", str(settings.azure_ml), "--port", str(settings.azure_ml_port)]
    argv += ["--cert", str(settings.tls / "server.pem"), "--key", str(settings.tls / "server.key")]
    # Runs reach nobody but this server, and read all that they trust anew for each of their requests.
    argv += ["--ca-bundle", str(settings.tls / "ca.pem"), "--settings", str(_settings_file(settings))]
    argv += ["--print", "nothing"]  # what it prints goes into a log, where no secret belongs
    return Service(
        name="azure-ml",
        argv=tuple(argv),
        # Its own requests go to the VM only; and it starts in half the time when it may keep its byte code.
        env={"PYTHONPATH": str(PROJECT / "include"), "PYTHONDONTWRITEBYTECODE": None, "PYTHONUNBUFFERED": "1"},
        cwd=settings.state,
        log=settings.logs / "azure-ml.log",
        ready=lambda: answers_https(settings.azure_ml_port, settings.tls, "/health", "localhost"),
        port=settings.azure_ml_port,
        port_setting="LOCAL_SITE_AZURE_ML_PORT",
    )


def prepare(settings: Settings, credentials: Credentials) -> None:
    """Write who may come in, and which workspace there is.

    :param settings: The settings of the site.
    :param credentials: The secrets of the site.
    """
    settings.azure_ml.mkdir(parents=True, exist_ok=True)
    content = {
        "client_id": credentials.client_id,
        "client_secret": credentials.client_secret,
        "tenant_id": credentials.tenant_id,
        "subscription_id": credentials.subscription_id,
        "resource_group": credentials.resource_group,
        "workspace": credentials.workspace,
        "registry": {
            "address": settings.registry,
            "user": credentials.registry_user,
            "password": credentials.registry_password,
            "ca": str(settings.tls / "ca.pem"),
            "base": ":".join(settings.base_image),
        },
    }
    files.write(_settings_file(settings), json.dumps(content, indent=2), files.PRIVATE)


def _settings_file(settings: Settings) -> Path:
    return settings.state / "azure_ml_settings.json"
