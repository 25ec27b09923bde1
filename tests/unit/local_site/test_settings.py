"""What the settings and the secrets of a local site promise."""

from __future__ import annotations

import base64
import stat
import subprocess
from typing import TYPE_CHECKING

import pytest

from local_site.__main__ import main
from local_site.credentials import Credentials
from local_site.errors import LocalSiteError, SettingError
from local_site.settings import PROJECT, Settings

if TYPE_CHECKING:
    from pathlib import Path

EXPORTED = {
    "ARM_CLOUD_METADATA_URL",
    "AZUREML_CURRENT_CLOUD",
    "AZURE_CONFIG_DIR",
    "REQUESTS_CA_BUNDLE",
    "LOCAL_SITE_CA",
    "LOCAL_SITE_BLOB_ENDPOINT",
    "LOCAL_SITE_BLOB_ACCOUNT",
    "LOCAL_SITE_BLOB_KEY",
    "LOCAL_SITE_BLOB_CONTAINER",
    "LOCAL_SITE_VM_HOST",
    "LOCAL_SITE_VM_PORT",
    "LOCAL_SITE_VM_USER",
    "LOCAL_SITE_VM_KEY_FILE",
    "LOCAL_SITE_VM_HOST_KEY",
    "LOCAL_SITE_SERVING_PORT",
    "LOCAL_SITE_REGISTRY",
    "LOCAL_SITE_REGISTRY_USER",
    "LOCAL_SITE_REGISTRY_PASSWORD",
    "LOCAL_SITE_AZURE_ML_URL",
    "LOCAL_SITE_TENANT_ID",
    "LOCAL_SITE_CLIENT_ID",
    "LOCAL_SITE_CLIENT_SECRET",
    "LOCAL_SITE_SUBSCRIPTION_ID",
    "LOCAL_SITE_RESOURCE_GROUP",
    "LOCAL_SITE_WORKSPACE",
    "LOCAL_SITE_RESIDENCY_KEY_FILE",
}


def test_without_settings_everything_lives_in_the_project() -> None:
    settings = Settings.from_environment({})
    assert settings.state == PROJECT / ".local/site"
    assert settings.cache == PROJECT / ".local/cache"
    assert settings.registry == "127.0.0.1:10500"


@pytest.mark.parametrize("value", ["blob", "0", "65536", "-1", "10443.5"])
def test_a_port_that_is_none_is_named_with_its_setting(value: str) -> None:
    with pytest.raises(SettingError, match=r"LOCAL_SITE_BLOB_PORT .* 1 to 65535"):
        Settings.from_environment({"LOCAL_SITE_BLOB_PORT": value})


def test_two_services_on_one_port_are_refused() -> None:
    with pytest.raises(SettingError, match=r"LOCAL_SITE_BLOB_PORT and LOCAL_SITE_AZURE_ML_PORT are both 10444"):
        Settings.from_environment({"LOCAL_SITE_BLOB_PORT": "10444"})


def test_the_exports_are_exactly_the_agreed_ones(tmp_path: Path) -> None:
    Credentials.ensure(tmp_path)
    exports = Settings.from_environment({"LOCAL_SITE_STATE": str(tmp_path)}).exports()
    assert set(exports) == EXPORTED
    assert all(exports.values())
    assert exports["LOCAL_SITE_BLOB_ENDPOINT"] == "https://127.0.0.1:10443/edgedata"
    assert exports["LOCAL_SITE_VM_HOST_KEY"].startswith("ssh-ed25519 AAAA")


def test_a_site_that_was_never_started_has_no_exports(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LOCAL_SITE_STATE", str(tmp_path))
    assert main(["env"]) == 2
    output = capsys.readouterr()
    assert output.out == ""
    assert "python -m local_site up" in output.err


def test_a_shell_reads_any_value_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    state = tmp_path / "it's a $HOME; `date`"
    Credentials.ensure(state)
    monkeypatch.setenv("LOCAL_SITE_STATE", str(state))
    assert main(["env"]) == 0
    script = capsys.readouterr().out + 'printf %s "$LOCAL_SITE_CA"'
    read = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True)
    assert read.stdout == f"{state}/tls/ca.pem"


def test_secrets_are_made_once_and_differ_between_sites(tmp_path: Path) -> None:
    first = Credentials.ensure(tmp_path / "one")
    assert Credentials.ensure(tmp_path / "one") == first
    other = Credentials.ensure(tmp_path / "two")
    assert other.storage_key != first.storage_key
    assert other.client_key != first.client_key
    assert len(base64.b64decode(first.storage_key)) == 64


def test_only_the_owner_can_read_a_secret(tmp_path: Path) -> None:
    credentials = Credentials.ensure(tmp_path)
    for path in (tmp_path / "secrets.json", credentials.client_key_file, tmp_path / "vm/host_key"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_openssh_accepts_the_client_key(tmp_path: Path) -> None:
    credentials = Credentials.ensure(tmp_path)
    argv = ["ssh-keygen", "-y", "-f", str(credentials.client_key_file)]
    read = subprocess.run(argv, capture_output=True, text=True, check=True)
    assert read.stdout.split()[:2] == credentials.client_key.split()[:2]


@pytest.mark.parametrize("content", ["", "{}", "[]", "no json"])
def test_damaged_secrets_are_named_with_the_way_out(tmp_path: Path, content: str) -> None:
    (tmp_path / "secrets.json").write_text(content)
    with pytest.raises(LocalSiteError, match=r"secrets.json does not hold .* Remove the folder"):
        Credentials.ensure(tmp_path)


def test_an_unknown_service_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_SITE_STATE", str(tmp_path))
    assert main(["up", "--only", "blobs"]) == 2
    assert not list(tmp_path.iterdir())
