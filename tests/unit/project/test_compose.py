"""The compose file and the Dockerfile: all that can be said about them without a container engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[3]
FILE = PROJECT / "docker-compose.yaml"
SECRET = re.compile(r"PASSWORD|SECRET|FERNET_KEY|TOKEN")
AIRFLOW = {"api-server", "scheduler", "dag-processor", "triggerer", "worker", "init"}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    content: dict[str, Any] = yaml.safe_load(FILE.read_text())
    return content


def test_it_is_valid_by_the_compose_specification() -> None:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_compose_accepts_it(tmp_path: Path) -> None:
    command, content = _compose_command(), FILE.read_text()
    if command is None:
        pytest.skip("There is no Docker Compose here: checked against the Compose specification's schema only.")
    if command == ["docker-compose"]:
        # Compose 1, which Debian packages, knows all of the file but its name.
        content = re.sub(r"^name: .*\n", "", content, count=1, flags=re.MULTILINE)
    file = tmp_path / FILE.name
    file.write_text(content)
    env = {**os.environ, **dict.fromkeys(re.findall(r"\$\{([A-Z_]+):\?", content), "x")}
    command += ["--project-directory", str(PROJECT), "--file", str(file), "config", "--quiet"]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _compose_command() -> list[str] | None:
    for command in (["docker", "compose"], ["docker-compose"]):
        if (
            shutil.which(command[0])
            and not subprocess.run([*command, "version"], capture_output=True, check=False).returncode
        ):
            return command
    return None


def test_it_has_all_of_airflow_and_what_celery_needs(compose: dict[str, Any]) -> None:
    assert set(compose["services"]) == AIRFLOW | {"postgres", "redis", "local-site"}
    for name in AIRFLOW:
        assert compose["services"][name]["environment"]["AIRFLOW__CORE__EXECUTOR"] == "CeleryExecutor"


def test_no_secret_has_a_value_or_a_default_in_it(compose: dict[str, Any]) -> None:
    found = 0
    for service in compose["services"].values():
        for name, value in (service.get("environment") or {}).items():
            # File names and user lists have words of secrets in their names, but are none.
            if SECRET.search(name) and not name.endswith(("_PASSWORDS_FILE", "_USERS")):
                assert re.fullmatch(r"\$\{[A-Z_]+(:\?[^}]*)?\}", value), f"{name}: {value}"
                found += 1
    assert found
    for secret in re.findall(r"://\w*:([^@]+)@", FILE.read_text()):
        assert secret.startswith("${"), secret


def test_every_variable_that_must_be_set_says_where_that_is_explained_and_is(compose: dict[str, Any]) -> None:
    required = dict(re.findall(r"\$\{([A-Z_]+):\?([^}]*)\}", FILE.read_text()))
    guide = (PROJECT / "docs/operating.md").read_text()
    for name, message in required.items():
        assert message == f"set {name}, see docs/operating.md"
        assert name in guide


def test_ports_are_published_on_this_machine_only(compose: dict[str, Any]) -> None:
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]
    assert ports
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_every_service_that_stays_says_whether_it_is_healthy(compose: dict[str, Any]) -> None:
    assert [name for name, service in compose["services"].items() if "healthcheck" not in service] == ["init"]


def test_services_wait_for_the_state_that_they_need_of_others(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        for other, condition in service.get("depends_on", {}).items():
            wanted = "service_completed_successfully" if other == "init" else "service_healthy"
            assert condition["condition"] == wanted, f"{name} on {other}"


def test_only_what_speaks_with_the_site_shares_its_network(compose: dict[str, Any]) -> None:
    sharing = {name for name, service in compose["services"].items() if "network_mode" in service}
    assert sharing == {"triggerer", "worker"}


def stages() -> list[str]:
    return re.findall(r"^FROM .* AS ([\w-]+)$", (PROJECT / "Dockerfile").read_text(), re.MULTILINE)


def test_every_build_target_is_a_stage_of_the_dockerfile(compose: dict[str, Any]) -> None:
    targets = {service["build"]["target"] for service in compose["services"].values() if "build" in service}
    assert targets == {"airflow", "local-site"}
    assert targets <= set(stages())
    assert stages()[-1] == "airflow"


def test_every_build_argument_is_one_of_the_dockerfile(compose: dict[str, Any]) -> None:
    declared = set(re.findall(r"^ARG (\w+)", (PROJECT / "Dockerfile").read_text(), re.MULTILINE))
    for service in compose["services"].values():
        assert set(service.get("build", {}).get("args", {})) <= declared


def test_everything_that_the_dockerfile_copies_exists_and_is_in_the_build_context() -> None:
    text = (PROJECT / "Dockerfile").read_text()
    ignored = {
        line for line in (PROJECT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")
    }
    sources = [
        word
        for line in re.findall(r"^COPY (.*)$", text, re.MULTILINE)
        if "--from=" not in line
        for word in [part for part in line.split() if not part.startswith("--")][:-1]
    ]
    assert "requirements.lock" in sources
    for source in sources:
        assert (PROJECT / source).exists(), source
        assert source not in ignored, source


def test_every_package_of_packages_txt_is_one_of_debian_s() -> None:
    names = (PROJECT / "packages.txt").read_text().split()
    assert names
    assert all(re.fullmatch(r"[a-z0-9][a-z0-9+.-]+", name) for name in names)
    if shutil.which("apt-cache") is None:
        pytest.skip("There is no apt-cache here: only the form of the names was checked.")
    for name in names:
        done = subprocess.run(["apt-cache", "show", "--no-all-versions", name], capture_output=True, check=False)
        assert done.returncode == 0, name
