"""The services of a running local site, each reached as any program would reach it."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest
import requests
from azure.storage.blob import BlobServiceClient

from local_site.blobs import API_VERSION
from local_site.data import MONTHS
from local_site.settings import PROJECT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.running_site import RunningSite

AS_ROOT = os.geteuid() == 0
MANIFEST = "application/vnd.oci.image.manifest.v1+json"


@pytest.fixture
def storage(local_site: RunningSite) -> Iterator[BlobServiceClient]:
    env = local_site.env
    credential = {"account_name": env["LOCAL_SITE_BLOB_ACCOUNT"], "account_key": env["LOCAL_SITE_BLOB_KEY"]}
    with BlobServiceClient(
        env["LOCAL_SITE_BLOB_ENDPOINT"],
        credential=credential,
        api_version=API_VERSION,
        connection_verify=env["LOCAL_SITE_CA"],
    ) as client:
        yield client


@pytest.fixture
def registry(local_site: RunningSite) -> Iterator[requests.Session]:
    with requests.Session() as session:
        session.trust_env = False
        session.verify = local_site.env["LOCAL_SITE_CA"]
        session.auth = (local_site.env["LOCAL_SITE_REGISTRY_USER"], local_site.env["LOCAL_SITE_REGISTRY_PASSWORD"])
        yield session


def _url(local_site: RunningSite, path: str) -> str:
    return f"https://{local_site.env['LOCAL_SITE_REGISTRY']}/v2/{path}"


def test_the_storage_holds_one_blob_per_month_and_the_schema(
    local_site: RunningSite, storage: BlobServiceClient
) -> None:
    with storage.get_container_client(local_site.env["LOCAL_SITE_BLOB_CONTAINER"]) as container:
        names = {blob.name for blob in container.list_blobs("breast-cancer/")}
    assert names == {f"breast-cancer/{month}.csv" for month in MONTHS} | {"breast-cancer/schema.json"}


def test_a_blob_comes_back_as_it_was_sent_and_every_request_names_the_version_of_stack_hub(
    storage: BlobServiceClient,
) -> None:
    versions: list[str] = []

    def note(request: Any) -> None:
        versions.append(request.http_request.headers["x-ms-version"])

    with storage.get_container_client("round-trip") as container:
        container.create_container(raw_request_hook=note)
        container.upload_blob("blob", b"content", raw_request_hook=note)
        assert container.download_blob("blob", raw_request_hook=note).readall() == b"content"
        container.delete_container(raw_request_hook=note)
    assert versions == ["2019-07-07"] * len(versions)
    assert len(versions) >= 4


def test_an_anonymous_request_reads_no_blob(local_site: RunningSite) -> None:
    env = local_site.env
    url = f"{env['LOCAL_SITE_BLOB_ENDPOINT']}/{env['LOCAL_SITE_BLOB_CONTAINER']}/breast-cancer/schema.json"
    with requests.Session() as session:
        session.trust_env = False
        assert session.get(url, verify=env["LOCAL_SITE_CA"]).status_code in (401, 403, 404)


def test_a_client_that_does_not_know_the_private_ca_refuses_the_servers(local_site: RunningSite) -> None:
    env = local_site.env
    with requests.Session() as session:
        session.trust_env = False
        for url in (env["LOCAL_SITE_BLOB_ENDPOINT"], _url(local_site, "")):
            with pytest.raises(requests.exceptions.SSLError):
                session.get(url)


def test_the_registry_holds_the_base_image_and_its_layer_is_whole(
    local_site: RunningSite, registry: requests.Session
) -> None:
    answer = registry.get(_url(local_site, "base/python/manifests/3.11-bookworm"), headers={"Accept": MANIFEST})
    assert answer.status_code == 200
    manifest = answer.json()
    config = registry.get(_url(local_site, f"base/python/blobs/{manifest['config']['digest']}")).json()
    assert config["os"] == "linux"
    (layer,) = manifest["layers"]
    blob = registry.get(_url(local_site, f"base/python/blobs/{layer['digest']}")).content
    assert f"sha256:{hashlib.sha256(blob).hexdigest()}" == layer["digest"]
    assert len(blob) == layer["size"]


@pytest.mark.parametrize("password", [None, "wrong"])
def test_the_registry_refuses_a_wrong_password(local_site: RunningSite, password: str | None) -> None:
    with requests.Session() as session:
        session.trust_env = False
        if password is not None:
            session.auth = (local_site.env["LOCAL_SITE_REGISTRY_USER"], password)
        answer = session.get(_url(local_site, "_catalog"), verify=local_site.env["LOCAL_SITE_CA"])
    assert answer.status_code == 401


def test_the_account_logs_in_with_its_key_and_finds_the_training_environment(local_site: RunningSite) -> None:
    done = local_site.ssh("echo $HOME; cd ~ && ./training-env/bin/python -c 'import sklearn, skl2onnx; print(42)'")
    assert (done.returncode, done.stderr) == (0, "")
    home, answer = done.stdout.split()
    assert answer == "42"
    assert home == ("/home/edge-vm" if AS_ROOT else str(local_site.settings.vm / "home"))


def test_a_sandbox_without_network_can_be_made_on_the_vm(local_site: RunningSite) -> None:
    done = local_site.ssh("bwrap --ro-bind / / --proc /proc --dev /dev --unshare-all cat /proc/net/dev")
    assert (done.returncode, done.stderr) == (0, "")
    interfaces = [line.partition(":")[0].strip() for line in done.stdout.splitlines() if ":" in line]
    assert interfaces == ["lo"]


def test_nobody_logs_in_with_another_key(local_site: RunningSite, tmp_path: Path) -> None:
    key_file = tmp_path / "key"
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(key_file)], check=True)
    done = local_site.ssh("true", key_file=key_file)
    assert done.returncode == 255
    assert "Permission denied (publickey)" in done.stderr


@pytest.mark.skipif(not AS_ROOT, reason="only as root the VM is another account on a machine of its own")
class TestAsRoot:
    def test_the_account_is_nobody_else(self, local_site: RunningSite) -> None:
        done = local_site.ssh("id -un; id -Gn; id -u")
        name, groups, uid = done.stdout.splitlines()
        assert (name, groups) == ("edge-vm", "edge-vm")
        assert int(uid) != os.geteuid()

    def test_the_account_sees_neither_the_project_nor_any_home_nor_the_host_s_tmp(
        self, local_site: RunningSite
    ) -> None:
        places = f"{PROJECT} {local_site.settings.state} {local_site.settings.cache} /root /tmp /home"
        done = local_site.ssh(f"for each in {places}; do ls -A $each 2>/dev/null; done; true")
        assert done.stdout.split() == ["edge-vm"]

    def test_the_account_sees_no_process_of_the_host(self, local_site: RunningSite) -> None:
        done = local_site.ssh("cat /proc/[0-9]*/cmdline | tr '\\0' ' '")
        assert "sshd" in done.stdout
        assert "local_site" not in done.stdout
        assert "azurite" not in done.stdout

    def test_the_training_environment_cannot_be_changed(self, local_site: RunningSite) -> None:
        done = local_site.ssh("touch ~/training-env/lib/new || echo refused")
        assert done.stdout.strip() == "refused"

    def test_the_account_cannot_reach_the_keys_of_its_ssh_server(self, local_site: RunningSite) -> None:
        done = local_site.ssh(
            "cat /run/training-vm/host_key || echo refused; id -u > /run/training-vm/x || echo refused"
        )
        assert done.stdout.split() == ["refused", "refused"]

    def test_processes_that_lost_their_parent_do_not_pile_up(self, local_site: RunningSite) -> None:
        local_site.ssh("for i in 1 2 3; do setsid sh -c 'sleep 0.01 &' ; done; sleep 0.3")
        done = local_site.ssh("cat /proc/[0-9]*/stat | grep -c ') Z ' ; true")
        assert done.stdout.strip() == "0"


def test_the_printed_variables_work_in_a_shell(local_site: RunningSite) -> None:
    script = f'eval "$({sys.executable} -m local_site env)"; {sys.executable} -c "import json, os; print(json.dumps(dict(os.environ)))"'
    done = subprocess.run(
        ["sh", "-c", script], env=local_site.environment(), cwd=PROJECT, capture_output=True, text=True, check=True
    )
    read = json.loads(done.stdout)
    assert {name: read[name] for name in local_site.env} == local_site.env


def test_the_variables_reach_this_process_only_when_they_are_asked_for(local_site_env: dict[str, str]) -> None:
    assert {name: os.environ[name] for name in local_site_env} == local_site_env


def test_status_tells_that_everything_runs(local_site: RunningSite) -> None:
    done = local_site.command("status")
    assert done.returncode == 0
    assert "not running" not in done.stdout
    assert local_site.env["LOCAL_SITE_AZURE_ML_URL"] in done.stdout
