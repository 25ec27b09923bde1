"""What a run finds in its environment: who it is, and where and with which token it reports."""

from __future__ import annotations

import shlex
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from local_site.azure_ml.execution.remote import RUN

if TYPE_CHECKING:
    from local_site.azure_ml.execution.definition import Definition
    from local_site.azure_ml.execution.jobs import Job
    from local_site.azure_ml.identity.tokens import Token
    from local_site.azure_ml.settings import Settings


def control_files(job: Job, definition: Definition, settings: Settings, token: Token, home: str) -> dict[str, bytes]:
    """Return the files that stand beside a run's snapshot on the machine.

    :param home: the account's home folder, for an interpreter below ``~``.
    """
    folder = f"{home}/azureml/runs/{job.run_id}"
    variables = {**_defaults(folder), **definition.variables, **_identity(job, settings, token)}
    packages = definition.packages
    interpreter = packages.interpreter(home) if packages else expand(definition.interpreter, home)
    command = shlex.join([interpreter, definition.script, *definition.arguments])
    return ({"prepare.sh": packages.script(home)} if packages else {}) | {
        "run.sh": RUN.format(folder=shlex.quote(folder), command=command).encode(),
        "environment.sh": "".join(
            f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()
        ).encode(),
        "ca-bundle.pem": settings.ca_bundle.read_bytes(),
    }


def expand(path: str, home: str) -> str:
    """Replace a leading ``~`` by the account's home folder."""
    return home + path[1:] if path == "~" or path.startswith("~/") else path


def _defaults(folder: str) -> dict[str, str]:
    """Return what a definition may set otherwise. Unbuffered, so that the log grows while the script prints."""
    bundle = f"{folder}/ca-bundle.pem"
    return {"PYTHONUNBUFFERED": "1", "REQUESTS_CA_BUNDLE": bundle, "SSL_CERT_FILE": bundle}


def _identity(job: Job, settings: Settings, token: Token) -> dict[str, str]:
    return {
        "AZUREML_RUN_ID": job.run_id,
        "AZUREML_ARM_SUBSCRIPTION": settings.subscription_id,
        "AZUREML_ARM_RESOURCEGROUP": settings.resource_group,
        "AZUREML_ARM_WORKSPACE_NAME": settings.workspace,
        "AZUREML_ARM_PROJECT_NAME": job.experiment,
        "AZUREML_EXPERIMENT_ID": job.experiment_id,
        "AZUREML_WORKSPACE_ID": settings.workspace_id,
        "AZUREML_RUN_TOKEN": token.text,
        "AZUREML_RUN_TOKEN_EXPIRY": datetime.fromtimestamp(token.expires, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "AZUREML_SERVICE_ENDPOINT": settings.base_url,
        "AZUREML_DISCOVERY_SERVICE_ENDPOINT": f"{settings.base_url}/discovery/workspaces/{settings.workspace_id}",
    }
