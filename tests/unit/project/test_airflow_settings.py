"""The loader of airflow_settings.yaml."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

import airflow_settings
from airflow_settings import SettingsFileError

if TYPE_CHECKING:
    from collections.abc import Iterator

PROJECT = Path(__file__).resolve().parents[3]
AWKWARD = """it's "quoted"\nand has two lines, a $ and a \\"""


@pytest.fixture
def home(tmp_path: Path) -> dict[str, str]:
    """Return the environment of an Airflow of the test's own."""
    foreign = {name for name in os.environ if name.startswith("AIRFLOW_")}
    kept = {name: value for name, value in os.environ.items() if name not in foreign | {"PYTHONDONTWRITEBYTECODE"}}
    return {**kept, "AIRFLOW_HOME": str(tmp_path / "airflow"), "AIRFLOW__CORE__LOAD_EXAMPLES": "False"}


@pytest.fixture
def site_env() -> dict[str, str]:
    text = (PROJECT / "airflow_settings.yaml").read_text()
    names = {
        match["name"] for match in airflow_settings._PLACEHOLDER.finditer(text) if match["name"] not in (None, "NAME")
    }
    return {name: "10022" if name.endswith("_PORT") else f"value of {name}" for name in names}


def write(folder: Path, content: Any) -> Path:
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def connection(**keys: Any) -> dict[str, Any]:
    return {"airflow": {"connections": [{"conn_id": "vm", "conn_type": "ssh", **keys}]}}


def test_the_project_s_own_file_names_the_connections_that_a_site_file_expects(site_env: dict[str, str]) -> None:
    settings = airflow_settings.read(airflow_settings.DEFAULT_FILE, site_env)
    types = {entry.conn_id: entry.fields["conn_type"] for entry in settings.connections}
    assert types == {
        "stack_hub_blob": "wasb",
        "training_vm": "ssh",
        "serving_host": "ssh",
        "azure_ml": "azure_ml",
        "container_registry": "azure_container_registry",
        "residency_key": "ed25519",
    }


def test_the_project_s_own_file_holds_no_secret() -> None:
    content = yaml.safe_load(airflow_settings.DEFAULT_FILE.read_text())
    for entry in content["airflow"]["connections"]:
        for key in ("conn_login", "conn_password", "conn_host"):
            assert entry.get(key, "${X}").startswith("${"), f"{entry['conn_id']}: {key} is written out"


def test_an_unset_placeholder_is_an_error_that_names_the_variable_and_the_connection(site_env: dict[str, str]) -> None:
    del site_env["LOCAL_SITE_BLOB_KEY"]
    with pytest.raises(
        SettingsFileError, match=r"connection stack_hub_blob, conn_password: .*LOCAL_SITE_BLOB_KEY is not set"
    ):
        airflow_settings.read(airflow_settings.DEFAULT_FILE, site_env)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"airflow": {"conections": []}}, "unknown key conections. Known: connections, pools, variables"),
        ({"connections": []}, "unknown key connections. Known: airflow"),
        (connection(conn_pasword="x"), r"entry 1 \(vm\): unknown key conn_pasword. Known: conn_id, .*conn_password"),
        (connection(conn_port="ssh"), "connection vm, conn_port must be a whole number, found 'ssh'"),
        (connection(conn_extra="{"), "connection vm, conn_extra is text, but not JSON"),
        (connection(conn_extra=["a"]), "connection vm, conn_extra must hold keys and values, found list"),
        (connection(conn_type=""), "connection vm: conn_type is missing"),
        (connection(conn_uri="ssh://a@b"), "connection vm: conn_uri holds everything"),
        ({"airflow": {"connections": [{"conn_type": "ssh"}]}}, "connections, entry 1: conn_id is missing"),
        ({"airflow": {"connections": {"vm": {}}}}, "airflow.connections must be a list, found dict"),
        ({"airflow": {"connections": ["vm"]}}, "connections, entry 1 must hold keys and values, found str"),
        ({"airflow": {"pools": [{"pool_name": "p", "pool_slot": "many"}]}}, "pool p, pool_slot must be a whole number"),
        (
            {"airflow": {"variables": [{"variable_name": "v"}, {"variable_name": "v"}]}},
            "variable_name v stands there twice",
        ),
        (["airflow"], "must hold keys and values, found list"),
    ],
)
def test_a_mistake_in_the_file_is_named(tmp_path: Path, content: Any, message: str) -> None:
    with pytest.raises(SettingsFileError, match=message):
        airflow_settings.read(write(tmp_path, content), {})


@pytest.mark.parametrize("text", ["airflow: [", "\tairflow:"])
def test_a_file_that_is_not_yaml_is_named(tmp_path: Path, text: str) -> None:
    path = tmp_path / "settings.yaml"
    path.write_text(text)
    with pytest.raises(SettingsFileError, match=r"settings\.yaml cannot be read as YAML"):
        airflow_settings.read(path, {})


def test_a_file_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(SettingsFileError, match=r"none\.yaml"):
        airflow_settings.read(tmp_path / "none.yaml", {})


def test_values_with_quotes_and_line_breaks_reach_airflow_unchanged(tmp_path: Path) -> None:
    path = write(
        tmp_path,
        connection(conn_password="${SECRET}", conn_extra={"private_key": "${SECRET}", "deep": {"a": ["${SECRET}"]}}),
    )
    settings = airflow_settings.read(path, {"SECRET": AWKWARD})
    from airflow.sdk import Connection

    found = Connection.from_json(settings.connections[0].as_text(), conn_id="vm")
    assert found.password == AWKWARD
    assert found.extra_dejson == {"private_key": AWKWARD, "deep": {"a": [AWKWARD]}}


def test_a_doubled_dollar_sign_stands_for_one(tmp_path: Path) -> None:
    settings = airflow_settings.read(write(tmp_path, connection(conn_password="a$${B}$c")), {"B": "x"})
    assert settings.connections[0].fields["password"] == "a${B}$c"


def test_secrets_are_not_in_the_representation_of_the_settings(tmp_path: Path) -> None:
    content = connection(conn_password="${SECRET}", conn_extra={"key": "${SECRET}"})
    content["airflow"]["variables"] = [{"variable_name": "v", "variable_value": "${SECRET}"}]
    assert "hush" not in repr(airflow_settings.read(write(tmp_path, content), {"SECRET": "hush"}))


def test_exports_are_understood_by_a_shell_and_by_airflow(tmp_path: Path, home: dict[str, str]) -> None:
    content = connection(conn_host="h", conn_port="${PORT}", conn_extra={"key": "${SECRET}"})
    content["airflow"]["variables"] = [{"variable_name": "who", "variable_value": {"a": "${SECRET}"}}]
    home |= {"SECRET": AWKWARD, "PORT": "22"}
    script = (
        f'eval "$({sys.executable} include/airflow_settings.py export --file {write(tmp_path, content)})"; '
        f"{sys.executable} -c \"import json, os; print(json.dumps([os.environ[n] for n in ('AIRFLOW_CONN_VM', 'AIRFLOW_VAR_WHO')]))\""
    )
    done = subprocess.run(["sh", "-ec", script], cwd=PROJECT, env=home, capture_output=True, text=True, check=True)
    vm, who = (json.loads(value) for value in json.loads(done.stdout))
    assert vm == {"conn_type": "ssh", "host": "h", "port": 22, "extra": {"key": AWKWARD}}
    assert who == {"a": AWKWARD}


LOAD_TWICE = """
import json, sys
from pathlib import Path
import airflow_settings
from airflow.utils.db import upgradedb
from airflow.utils.session import create_session
from airflow.models.connection import Connection
from airflow.models.pool import Pool
from airflow.models.variable import Variable

upgradedb()
told = []
for name in sys.argv[1:]:
    told.append(airflow_settings.load(airflow_settings.read(Path(name), {"SECRET": "it's \\"x\\"\\n"})))
with create_session() as session:
    vm = session.query(Connection).filter_by(conn_id="vm").one()
    pool = session.query(Pool).filter_by(pool="p").one()
    variables = {one.key: one.get_val() for one in session.query(Variable)}
    found = [vm.conn_type, vm.host, vm.password, vm.port, json.loads(vm.extra), pool.slots, pool.include_deferred, variables]
print(json.dumps([told, found]))
"""


def _files(folder: Path) -> Iterator[Path]:
    """Yield a settings file, and one with everything in it changed."""
    for number, (port, slots) in enumerate([("22", 1), ("2222", 3)]):
        content = connection(conn_host="h", conn_password="${SECRET}", conn_port=port, conn_extra={"key": "${SECRET}"})
        content["airflow"]["pools"] = [{"pool_name": "p", "pool_slot": slots, "pool_description": "d"}]
        content["airflow"]["variables"] = [{"variable_name": "v", "variable_value": f"v{port}"}]
        subfolder = folder / str(number)
        subfolder.mkdir()
        yield write(subfolder, content)


def test_loading_adds_then_changes_nothing_then_changes_what_differs(tmp_path: Path, home: dict[str, str]) -> None:
    first, second = map(str, _files(tmp_path))
    home["PYTHONPATH"] = str(PROJECT / "include")
    command = [sys.executable, "-c", LOAD_TWICE, first, first, second]
    done = subprocess.run(command, cwd=PROJECT, env=home, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told, found = json.loads(done.stdout.splitlines()[-1])
    assert told == [
        ["Connection vm was added.", "Pool p was added.", "Variable v was added."],
        [],
        ["Connection vm was changed.", "Pool p was changed.", "Variable v was changed."],
    ]
    secret = 'it\'s "x"\n'
    assert found == ["ssh", "h", secret, 2222, {"key": secret}, 3, True, {"v": "v2222"}]


def test_the_command_line_says_what_is_wrong_and_ends_with_2(home: dict[str, str]) -> None:
    command = [sys.executable, "include/airflow_settings.py", "export"]
    env = {name: value for name, value in home.items() if not name.startswith(("LOCAL_SITE", "AZUREML", "ARM_"))}
    done = subprocess.run(command, cwd=PROJECT, env=env, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert "LOCAL_SITE_BLOB_ENDPOINT is not set" in done.stderr
