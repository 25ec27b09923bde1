"""Airflow's metadata database, as far as it can be said without starting it; the system tests start it."""

from __future__ import annotations

from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy.engine import make_url

from demo import metadata_database
from demo.errors import DemoError
from demo.metadata_database import SOCKET_NAME, MetadataDatabase
from demo.settings import DemoSettings


def database(state: Path) -> MetadataDatabase:
    return MetadataDatabase(DemoSettings.from_environment({"DEMO_STATE": str(state)}))


@pytest.mark.parametrize("driver", ["psycopg2", "asyncpg"])
def test_its_address_leads_to_a_socket_whatever_the_folder_is_called(driver: str) -> None:
    state = Path("/a folder & more?")
    url = make_url(database(state).url.replace("psycopg2", driver))
    _, arguments = sqlalchemy.make_url(url).get_dialect()().create_connect_args(url)
    assert arguments["host"].startswith(f"{state}/airflow/pg-")
    assert "password" not in arguments


def test_a_path_that_is_too_long_for_a_socket_is_refused_with_the_setting_that_helps() -> None:
    with pytest.raises(DemoError, match=rf"{SOCKET_NAME} is longer than the 107 bytes .*DEMO_STATE"):
        database(Path("/" + "long" * 30))


def test_where_postgresql_is_missing_the_command_that_installs_it_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(metadata_database, "DEBIAN", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(DemoError, match=r"PostgreSQL is not installed.*bin/setup"):
        database(tmp_path)


def test_the_newest_version_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for version in ("9.6", "15", "17"):
        program = tmp_path / version / "bin" / "postgres"
        program.parent.mkdir(parents=True)
        program.write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {version}.3'\n")
        program.chmod(0o755)
    monkeypatch.setattr(metadata_database, "DEBIAN", tmp_path)
    assert make_url(database(Path("/state")).url).query["host"] == "/state/airflow/pg-17"
