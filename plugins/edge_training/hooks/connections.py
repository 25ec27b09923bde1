"""Reads an Airflow connection by an allow-list, so that a misspelt setting is an error and not a silent default."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airflow.sdk import BaseHook
from airflow.sdk.exceptions import AirflowException
from airflow.sdk.log import mask_secret

from edge_training.exceptions import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Collection

    from airflow.sdk import Connection

_FIELDS = ("host", "port", "login", "password")


@dataclass(frozen=True)
class ConnectionSettings:
    """What an Airflow connection holds; its ``repr`` shows no secret.

    :param conn_id: the connection's id.
    :param conn_type: its type, one of those that the hook accepts.
    :param host: host name, address or URL, as the hook documents it; ``""`` when it is blank.
    :param port: port, or ``None`` when it is blank.
    :param login: user or account name; ``""`` when it is blank.
    :param password: password or key; ``""`` when it is blank.
    :param extra: the extras, only allowed keys, values as they stand in the connection's JSON.
    """

    conn_id: str
    conn_type: str
    host: str = ""
    port: int | None = None
    login: str = ""
    password: str = field(default="", repr=False)
    extra: dict[str, Any] = field(default_factory=dict, repr=False)

    def text(self, key: str, default: str = "") -> str:
        """Return an extra as stripped text.

        :param key: the extra's name.
        :param default: what a missing or blank extra stands for.
        :raises ConfigurationError: when its value is not text.
        """
        value = self.extra.get(key)
        if value is None:
            return default
        if not isinstance(value, str):
            raise ConfigurationError(
                f"Extra '{key}' of connection '{self.conn_id}' must be text, found {type(value).__name__}."
            )
        return value.strip() or default


def read_connection(
    conn_id: str,
    conn_types: Collection[str],
    allowed_extras: Collection[str],
    *,
    required: Collection[str] = (),
    secret_extras: Collection[str] = (),
) -> ConnectionSettings:
    """Read a connection and refuse what the hook would not understand.

    :param conn_id: the connection's id in Airflow.
    :param conn_types: the connection types that the hook works with.
    :param allowed_extras: every key that the connection's extra may have.
    :param required: fields (``host``, ``port``, ``login``, ``password``) or extras that must not be blank.
    :param secret_extras: extras whose values Airflow shall mask in logs although their names do not sound secret.
    :raises ConfigurationError: when the connection is missing, of another type, holds an unknown extra, or lacks a
        required field.
    """
    connection = _find(conn_id, conn_types)
    extra = _extras(conn_id, connection.extra, allowed_extras)
    conn_type = connection.conn_type or ""
    if conn_type not in conn_types:
        raise ConfigurationError(
            f"Connection '{conn_id}' has type '{conn_type}', expected {_listed(conn_types)}. "
            "Change its type under Admin > Connections."
        )
    settings = ConnectionSettings(
        conn_id=conn_id,
        conn_type=conn_type,
        host=(connection.host or "").strip(),
        port=connection.port,
        login=(connection.login or "").strip(),
        password=connection.password or "",
        extra=extra,
    )
    _mask([settings.password, *(extra.get(key) for key in secret_extras)])
    missing = [name for name in required if not _value(settings, name)]
    if missing:
        raise ConfigurationError(
            f"Connection '{conn_id}' lacks {_listed(missing)}: fill in under Admin > Connections "
            "(what is not a field of the form belongs into its extra)."
        )
    return settings


def _find(conn_id: str, conn_types: Collection[str]) -> Connection:
    try:
        return BaseHook.get_connection(conn_id)
    except (AirflowException, ValueError) as error:
        # The error's text is left out: for a malformed connection it may quote the connection, password included.
        raise ConfigurationError(
            f"Airflow has no readable connection '{conn_id}' ({type(error).__name__}). Add it with type "
            f"{_listed(conn_types)} under Admin > Connections, in airflow_settings.yaml, or as JSON in the environment "
            f"variable AIRFLOW_CONN_{conn_id.upper()}."
        ) from None


def _extras(conn_id: str, text: str | None, allowed: Collection[str]) -> dict[str, Any]:
    if not text or not text.strip():
        return {}
    try:
        extra = json.loads(text)
    except ValueError:
        raise ConfigurationError(
            f"The extra of connection '{conn_id}' is not valid JSON; it must be an object."
        ) from None
    if not isinstance(extra, dict):
        raise ConfigurationError(
            f"The extra of connection '{conn_id}' must be a JSON object, found {type(extra).__name__}."
        )
    mask_secret(extra)
    if unknown := sorted(set(extra) - set(allowed)):
        raise ConfigurationError(
            f"Connection '{conn_id}' has unknown extra {_listed(unknown)}; known are {_listed(sorted(allowed))}. "
            "Correct the spelling or remove it."
        )
    return extra


def _mask(secrets: list[Any]) -> None:
    for secret in secrets:
        if isinstance(secret, str) and secret:
            mask_secret(secret)


def _value(settings: ConnectionSettings, name: str) -> object:
    return getattr(settings, name) if name in _FIELDS else settings.extra.get(name)


def _listed(names: Collection[str]) -> str:
    return ", ".join(f"'{name}'" for name in names) or "nothing"
