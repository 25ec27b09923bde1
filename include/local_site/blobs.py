"""The blob storage of the site: Azurite over https, filled with the training data."""

from __future__ import annotations

import datetime as dt
from typing import TYPE_CHECKING

from local_site import data
from local_site.errors import MissingToolError
from local_site.probes import answers_https
from local_site.processes import Service
from local_site.settings import PROJECT

if TYPE_CHECKING:
    from azure.storage.blob import ContainerClient

    from local_site.credentials import Credentials
    from local_site.settings import Settings

# What Azure Stack Hub accepts, from its 2008 update on; newer ones are refused there.
API_VERSION = "2019-07-07"

_FRESH_FOR = dt.timedelta(hours=12)


def service(settings: Settings, credentials: Credentials) -> Service:
    """Describe the blob storage as a background process.

    :param settings: The settings of the site.
    :param credentials: The secrets of the site.
    :raises MissingToolError: Azurite is not installed.
    """
    program = PROJECT / "node_modules/.bin/azurite-blob"
    if not program.exists():
        raise MissingToolError(
            "Azurite, the blob storage, is not installed in node_modules. Install it with: bin/setup"
        )
    argv = [str(program), "--blobHost", "127.0.0.1", "--blobPort", str(settings.blob_port)]
    argv += ["--location", str(settings.state / "blob"), "--silent", "--disableTelemetry"]
    argv += ["--cert", str(settings.tls / "server.pem"), "--key", str(settings.tls / "server.key")]
    return Service(
        name="blob",
        argv=tuple(argv),
        env={"AZURITE_ACCOUNTS": f"{settings.blob_account}:{credentials.storage_key}", "NODE_OPTIONS": None},
        cwd=settings.state,
        log=settings.logs / "blob.log",
        ready=lambda: answers_https(settings.blob_port, settings.tls, f"/{settings.blob_account}?comp=list"),
        port=settings.blob_port,
        port_setting="LOCAL_SITE_BLOB_PORT",
    )


def container(settings: Settings, credentials: Credentials) -> ContainerClient:
    """Return a client of the container that holds the training data; whoever asks for it closes it.

    :param settings: The settings of the site.
    :param credentials: The secrets of the site.
    """
    from azure.storage.blob import ContainerClient

    return ContainerClient(
        settings.blob_endpoint,
        settings.blob_container,
        credential={"account_name": settings.blob_account, "account_key": credentials.storage_key},
        api_version=API_VERSION,
        connection_verify=str(settings.tls / "ca.pem"),
    )


def fill(settings: Settings, credentials: Credentials) -> None:
    """Put the training data into the storage, as far as it is not there.

    The newest month counts as delivered just now: a delivery that is half a day old or older is repeated, as the
    storage of a site that is in use always has a recent one.

    :param settings: The settings of the site.
    :param credentials: The secrets of the site.
    """
    from azure.core.exceptions import ResourceExistsError

    with container(settings, credentials) as client:
        try:
            client.create_container()
        except ResourceExistsError:
            held = {blob.name: blob.last_modified for blob in client.list_blobs(settings.blob_prefix)}
        else:
            held = {}
        names = [
            f"{settings.blob_prefix}{name}" for name in (*(f"{month}.csv" for month in data.MONTHS), "schema.json")
        ]
        newest = f"{settings.blob_prefix}{data.MONTHS[-1]}.csv"
        wanted = [name for name in names if name not in held]
        if newest in held and held[newest] < dt.datetime.now(dt.UTC) - _FRESH_FOR:
            wanted.append(newest)
        if wanted:
            contents = data.blobs()
            for name in wanted:
                client.upload_blob(name, contents[name.removeprefix(settings.blob_prefix)], overwrite=True)
