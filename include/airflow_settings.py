"""Puts the connections, pools and variables of `airflow_settings.yaml` into Airflow, for those who do not use the Astro CLI.

    python include/airflow_settings.py load      # into Airflow's metadata database; changes nothing the second time
    python include/airflow_settings.py export    # prints AIRFLOW_CONN_* and AIRFLOW_VAR_* as shell exports; needs no database

The file has the Astro CLI's schema. ``${NAME}`` in a value is replaced by that environment variable; ``$$`` stands for one ``$``.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import yaml

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqlalchemy.orm import Session

Entry = TypeVar("Entry")

DEFAULT_FILE = Path(__file__).resolve().parents[1] / "airflow_settings.yaml"

SECTIONS = ("connections", "pools", "variables")
COLUMNS = ("conn_type", "host", "schema", "login", "password", "port", "extra")
CONNECTION_KEYS = ("conn_id", "conn_uri", *(name if name == "conn_type" else f"conn_{name}" for name in COLUMNS))
POOL_KEYS = ("pool_name", "pool_slot", "pool_description")
VARIABLE_KEYS = ("variable_name", "variable_value")

_PLACEHOLDER = re.compile(r"\$(?:\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)\}|(?P<escaped>\$))")


class SettingsFileError(Exception):
    """The settings file cannot be used; a person has to change it, or set the variable that it names."""


@dataclass(frozen=True)
class ConnectionEntry:
    """One Airflow connection.

    :param fields: Airflow's own names (``conn_type``, ``host``, ``login``, ``password``, ``schema``, ``port``, ``extra``) and
        their values; those that the file leaves out are missing.
    :param uri: the whole connection as a URI instead, or ``""``.
    """

    conn_id: str
    fields: Mapping[str, Any] = field(default_factory=dict, repr=False)
    uri: str = field(default="", repr=False)

    def as_text(self) -> str:
        """Return what an ``AIRFLOW_CONN_*`` variable holds."""
        return self.uri or json.dumps(self.fields)


@dataclass(frozen=True)
class PoolEntry:
    """One Airflow pool.

    :param slots: how many task instances may hold a slot at once.
    """

    name: str
    slots: int
    description: str


@dataclass(frozen=True)
class AirflowSettings:
    """What the file holds, every placeholder filled.

    :param variables: name → value.
    """

    connections: tuple[ConnectionEntry, ...] = ()
    pools: tuple[PoolEntry, ...] = ()
    variables: Mapping[str, str] = field(default_factory=dict, repr=False)


def read(path: Path, env: Mapping[str, str]) -> AirflowSettings:
    """Read a settings file and fill its placeholders.

    :param path: the YAML file.
    :param env: where ``${NAME}`` is looked up.
    :raises SettingsFileError: for a file that cannot be read, a key that is unknown or missing, a value of the wrong kind,
        or a placeholder that is not set.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsFileError(f"{path} cannot be read as YAML: {error}") from error
    _check_keys(content, ("airflow",), str(path))
    sections = content.get("airflow") or {}
    _check_keys(sections, SECTIONS, f"{path.name}: airflow")
    variables = [_variable(entry, env) for entry in _entries(sections, "variables", "variable_name", VARIABLE_KEYS)]
    return AirflowSettings(
        connections=tuple(
            _connection(entry, env) for entry in _entries(sections, "connections", "conn_id", CONNECTION_KEYS)
        ),
        pools=tuple(_pool(entry) for entry in _entries(sections, "pools", "pool_name", POOL_KEYS)),
        variables=dict(variables),
    )


def load(settings: AirflowSettings) -> list[str]:
    """Write the settings into Airflow's metadata database, all of them or, after an error, none.

    :return: one line per thing that was made or changed.
    """
    from airflow.utils.session import create_session

    with create_session() as session:
        return [
            *_changed(settings.connections, lambda entry: _load_connection(entry, session)),
            *_changed(settings.pools, lambda entry: _load_pool(entry, session)),
            *_changed(settings.variables.items(), lambda item: _load_variable(*item, session)),
        ]


def exports(settings: AirflowSettings) -> dict[str, str]:
    """Return the settings as environment variables; pools have none, Airflow keeps them in its database only."""
    connections = {f"AIRFLOW_CONN_{entry.conn_id.upper()}": entry.as_text() for entry in settings.connections}
    return connections | {f"AIRFLOW_VAR_{name.upper()}": value for name, value in settings.variables.items()}


def main(arguments: list[str] | None = None) -> int:
    """Run the command line; return 2 for a mistake in the file or the environment."""
    parser = argparse.ArgumentParser(description="Puts airflow_settings.yaml into Airflow.")
    parser.add_argument("command", choices=["load", "export"])
    parser.add_argument("--file", type=Path, default=DEFAULT_FILE, help="the settings file (default: %(default)s)")
    options = parser.parse_args(arguments)
    try:
        settings = read(options.file, os.environ)
    except SettingsFileError as error:
        print(f"Error: {error}", file=sys.stderr)
        return 2
    if options.command == "load":
        print("\n".join(load(settings)) or "Airflow has all of it already.")
    else:
        for name, value in exports(settings).items():
            print(f"export {name}={shlex.quote(value)}")
        for pool in settings.pools:
            print(f"# pool {pool.name} ({pool.slots}) is not exported: Airflow keeps pools in its database only")
    return 0


def _entries(sections: Mapping[str, Any], section: str, id_key: str, known: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the entries of a section, after checking that each has an id of its own and known keys only."""
    entries = sections.get(section) or []
    if not isinstance(entries, list):
        raise SettingsFileError(f"airflow.{section} must be a list, found {type(entries).__name__}.")
    seen: set[str] = set()
    for number, entry in enumerate(entries, 1):
        name = entry.get(id_key) if isinstance(entry, dict) else None
        _check_keys(entry, known, f"airflow.{section}, entry {number}" + (f" ({name})" if name else ""))
        if not isinstance(name, str) or not name.strip():
            raise SettingsFileError(f"airflow.{section}, entry {number}: {id_key} is missing.")
        if name in seen:
            raise SettingsFileError(f"airflow.{section}: {id_key} {name} stands there twice.")
        seen.add(name)
    return entries


def _check_keys(value: object, known: tuple[str, ...], where: str) -> None:
    if not isinstance(value, dict):
        raise SettingsFileError(f"{where} must hold keys and values, found {type(value).__name__}.")
    unknown = sorted(str(key) for key in value if key not in known)
    if unknown:
        raise SettingsFileError(f"{where}: unknown key {', '.join(unknown)}. Known: {', '.join(known)}.")


def _connection(entry: dict[str, Any], env: Mapping[str, str]) -> ConnectionEntry:
    conn_id = entry["conn_id"]
    where = f"connection {conn_id}"
    filled = {key: _fill(value, env, f"{where}, {key}") for key, value in entry.items()}
    uri = filled.get("conn_uri") or ""
    if uri:
        if not set(entry) <= {"conn_id", "conn_uri"}:
            raise SettingsFileError(f"{where}: conn_uri holds everything; take it or the other keys away.")
        return ConnectionEntry(conn_id, uri=uri)
    if not filled.get("conn_type"):
        raise SettingsFileError(f"{where}: conn_type is missing.")
    fields = {
        "conn_type": filled["conn_type"],
        **{
            name: str(filled[f"conn_{name}"])
            for name in ("host", "schema", "login", "password")
            if filled.get(f"conn_{name}")
        },
    }
    if filled.get("conn_port") not in (None, ""):
        fields["port"] = _number(filled["conn_port"], f"{where}, conn_port")
    if filled.get("conn_extra"):
        fields["extra"] = _extra(filled["conn_extra"], f"{where}, conn_extra")
    return ConnectionEntry(conn_id, fields)


def _extra(value: object, where: str) -> dict[str, Any]:
    """Return a connection's extra, which the Astro CLI allows as a mapping and as JSON text."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError as error:
            raise SettingsFileError(f"{where} is text, but not JSON: {error}. Write it as keys and values.") from error
    if not isinstance(value, dict):
        raise SettingsFileError(f"{where} must hold keys and values, found {type(value).__name__}.")
    return value


def _pool(entry: dict[str, Any]) -> PoolEntry:
    where = f"pool {entry['pool_name']}"
    slots = _number(entry.get("pool_slot"), f"{where}, pool_slot")
    return PoolEntry(entry["pool_name"], slots, str(entry.get("pool_description") or ""))


def _variable(entry: dict[str, Any], env: Mapping[str, str]) -> tuple[str, str]:
    name = entry["variable_name"]
    value = _fill(entry.get("variable_value"), env, f"variable {name}")
    return name, value if isinstance(value, str) else json.dumps(value)


def _number(value: object, where: str) -> int:
    try:
        return int(str(value))
    except ValueError:
        raise SettingsFileError(f"{where} must be a whole number, found {value!r}.") from None


def _fill(value: Any, env: Mapping[str, str], where: str) -> Any:
    """Replace the placeholders in a value and in everything inside it, after YAML was read: values may hold any character."""
    if isinstance(value, dict):
        return {key: _fill(item, env, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [_fill(item, env, where) for item in value]
    if not isinstance(value, str):
        return value

    def replacement(match: re.Match[str]) -> str:
        if match["escaped"]:
            return "$"
        if match["name"] not in env:
            raise SettingsFileError(
                f"{where}: the environment variable {match['name']} is not set. For the local site, first run: "
                'eval "$(python -m local_site env)"'
            )
        return env[match["name"]]

    return _PLACEHOLDER.sub(replacement, value)


def _changed(entries: Iterable[Entry], change: Callable[[Entry], str]) -> list[str]:
    return [line for entry in entries if (line := change(entry))]


def _load_connection(entry: ConnectionEntry, session: Session) -> str:
    from airflow.models.connection import Connection
    from sqlalchemy import select

    columns: dict[str, Any] = {"uri": entry.uri} if entry.uri else dict(entry.fields)
    if "extra" in columns:
        columns["extra"] = json.dumps(columns["extra"])
    wanted = Connection(conn_id=entry.conn_id, **columns)
    found = session.scalar(select(Connection).where(Connection.conn_id == entry.conn_id))
    if found is None:
        session.add(wanted)
        return f"Connection {entry.conn_id} was added."
    if all(getattr(found, name) == getattr(wanted, name) for name in COLUMNS):
        return ""
    for name in COLUMNS:
        setattr(found, name, getattr(wanted, name))
    return f"Connection {entry.conn_id} was changed."


def _load_pool(entry: PoolEntry, session: Session) -> str:
    from airflow.models.pool import Pool

    found = Pool.get_pool(entry.name, session=session)
    if found is not None and (found.slots, found.description or "") == (entry.slots, entry.description):
        return ""
    # A run that waits deferred for its remote training still uses the VM, so it keeps its slot.
    Pool.create_or_update_pool(entry.name, entry.slots, entry.description, include_deferred=True, session=session)
    return f"Pool {entry.name} was {'added' if found is None else 'changed'}."


def _load_variable(name: str, value: str, session: Session) -> str:
    from airflow.models.variable import Variable
    from sqlalchemy import select

    found = session.scalar(select(Variable).where(Variable.key == name))
    if found is not None and found.get_val() == value:
        return ""
    if found is None:
        session.add(Variable(key=name, val=value))
    else:
        found.set_val(value)
    return f"Variable {name} was {'added' if found is None else 'changed'}."


if __name__ == "__main__":
    sys.exit(main())
