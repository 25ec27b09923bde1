"""What a blob connection says about the storage account, and the permission to read one blob that is signed with it."""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, quote, urlencode, urlsplit

from edge_training.exceptions import ConfigurationError

if TYPE_CHECKING:
    from edge_training.hooks.connections import ConnectionSettings

# From this version on, the text that is signed has a line for the encryption scope.
_ENCRYPTION_SCOPE_SINCE = "2020-12-06"
_READ_ONLY = frozenset("rl")


@dataclass(frozen=True)
class BlobAccount:
    """A storage account: where it is and what it is spoken to with; its ``repr`` shows no secret.

    :param endpoint: ``https://account.blob.region.fqdn[:port]`` or ``https://host:port/account``, no trailing slash.
    :param name: the account's name.
    :param key: the account key in base64, or ``""`` when there is a SAS.
    :param sas: the shared access signature without ``?``, or ``""`` when there is a key.
    """

    endpoint: str
    name: str
    key: str = field(default="", repr=False)
    sas: str = field(default="", repr=False)

    def blob_url(self, container: str, blob: str) -> str:
        """Return a blob's address, without any permission.

        :param container: the blob container.
        :param blob: the blob's full name.
        """
        return f"{self.endpoint}/{container}/{quote(blob, safe='/~')}"

    @property
    def sas_expiry(self) -> datetime | None:
        """Return when the account's SAS ends, or ``None`` when there is no SAS or it does not say."""
        values = parse_qs(self.sas).get("se")
        return _parse_time(values[0]) if values else None


def account_from_connection(settings: ConnectionSettings) -> BlobAccount:
    """Read the storage account from a connection.

    :param settings: the connection: host (endpoint), login (account) and one of password (account key),
        extra ``sas_token`` or extra ``connection_string``.
    :raises ConfigurationError: when the endpoint is not one of a Stack Hub, or there is not exactly one credential.
    """
    sas, text = settings.text("sas_token").lstrip("?"), settings.text("connection_string")
    given = [
        name
        for name, value in (("password", settings.password), ("sas_token", sas), ("connection_string", text))
        if value
    ]
    where = f"connection '{settings.conn_id}'"
    if len(given) != 1:
        raise ConfigurationError(
            f"{where.capitalize()} must have exactly one of password (account key), extra sas_token and extra "
            f"connection_string; found {', '.join(given) or 'none'}."
        )
    if text:
        return _from_connection_string(text, where)
    endpoint, name = _endpoint(settings.host, settings.port, where)
    if settings.login and settings.login != name:
        raise ConfigurationError(
            f"The login of {where} is '{settings.login}' but its host names the storage account '{name}': they must agree."
        )
    return BlobAccount(endpoint=endpoint, name=name, key=_checked_key(settings.password, where), sas=sas)


def _from_connection_string(text: str, where: str) -> BlobAccount:
    pairs = (part.split("=", 1) for part in text.strip().strip(";").split(";"))
    values = {pair[0].strip().lower(): pair[1].strip() for pair in pairs if len(pair) == 2}
    name, suffix = values.get("accountname", ""), values.get("endpointsuffix", "")
    host = values.get("blobendpoint") or (f"https://{name}.blob.{suffix}" if name and suffix else "")
    if not host:
        raise ConfigurationError(
            f"The connection_string of {where} needs BlobEndpoint, or AccountName and EndpointSuffix "
            "(Stack Hub: region.fqdn, such as local.azurestack.external)."
        )
    endpoint, found = _endpoint(host, None, where)
    key, sas = values.get("accountkey", ""), values.get("sharedaccesssignature", "").lstrip("?")
    if bool(key) == bool(sas):
        raise ConfigurationError(
            f"The connection_string of {where} must hold either AccountKey or SharedAccessSignature."
        )
    return BlobAccount(endpoint=endpoint, name=name or found, key=_checked_key(key, where), sas=sas)


def _endpoint(host: str, port: int | None, where: str) -> tuple[str, str]:
    """Return the endpoint's address and the account it names, of either style."""
    url = urlsplit(host if "://" in host else f"https://{host}")
    if url.scheme != "https" or not url.hostname or url.query:
        raise ConfigurationError(
            f"The host of {where} must be the blob endpoint over https, https://account.blob.region.fqdn or "
            "https://host:port/account, without a query."
        )
    address = f"https://{url.netloc}" + (f":{port}" if port and ":" not in url.netloc else "")
    if account := url.path.strip("/"):
        if "/" in account:
            raise ConfigurationError(f"The host of {where} must end with the account's name, without a container.")
        return f"{address}/{account}", account
    account, dot, rest = url.hostname.partition(".")
    if not dot or not rest.startswith("blob."):
        raise ConfigurationError(
            f"The host of {where} names no storage account: expected https://account.blob.region.fqdn or "
            "https://host:port/account."
        )
    return address, account


def _checked_key(key: str, where: str) -> str:
    try:
        base64.b64decode(key, validate=True)
    except binascii.Error:
        raise ConfigurationError(
            f"The account key of {where} is not valid base64: copy it again from the Stack Hub portal."
        ) from None
    return key


def sign_read_url(account: BlobAccount, container: str, blob: str, expires: datetime, api_version: str) -> str:
    """Return an address with which anybody can read one blob until it expires, and nothing else.

    The permission is a service SAS made here because the SDK's ``generate_blob_sas`` always signs for its newest version, which
    a Stack Hub refuses. The text that is signed is the one that Microsoft documents for "Create a service SAS", version
    2018-11-09 and later. With a SAS in the connection nothing can be signed: that SAS itself is handed on if it can only read.

    :param account: the storage account.
    :param container: the blob container.
    :param blob: the blob's full name.
    :param expires: when the permission ends, with time zone.
    :param api_version: the version to sign for, one that the store accepts.
    :raises ConfigurationError: when the connection's own SAS allows more than reading and listing, or ends too early.
    """
    if account.sas:
        _check_handed_on(account, expires)
    query = account.sas or _signed_query(account, container, blob, expires, api_version)
    return f"{account.blob_url(container, blob)}?{query}"


def _signed_query(account: BlobAccount, container: str, blob: str, expires: datetime, api_version: str) -> str:
    end = expires.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    resource = f"/blob/{account.name}/{container}/{blob}"
    no_start = no_identifier = no_address = no_snapshot = no_scope = ""
    lines = ["r", no_start, end, resource, no_identifier, no_address, "https", api_version, "b", no_snapshot]
    if api_version >= _ENCRYPTION_SCOPE_SINCE:
        lines.append(no_scope)
    lines += [""] * 5  # response headers (rscc, rscd, rsce, rscl, rsct), none overridden
    digest = hmac.new(base64.b64decode(account.key), "\n".join(lines).encode(), hashlib.sha256).digest()
    signature = base64.b64encode(digest).decode()
    # No start time: it would fail on a store whose clock is behind ours.
    return urlencode({"sv": api_version, "sr": "b", "sp": "r", "spr": "https", "se": end, "sig": signature})


def _check_handed_on(account: BlobAccount, expires: datetime) -> None:
    allowed = set(parse_qs(account.sas).get("sp", [""])[0])
    if not allowed or not allowed <= _READ_ONLY or "r" not in allowed:
        raise ConfigurationError(
            f"The SAS for storage account '{account.name}' allows '{''.join(sorted(allowed)) or 'an unknown set'}', and the "
            "training VM may only be given one that reads: use a SAS with permissions 'rl', or the account key."
        )
    if account.sas_expiry is None or account.sas_expiry < expires:
        raise ConfigurationError(
            f"The SAS for storage account '{account.name}' ends before the training may ({expires:%Y-%m-%d %H:%M} UTC): "
            "renew it, or shorten the grant's lifetime."
        )


def _parse_time(text: str) -> datetime | None:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
