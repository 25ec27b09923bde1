"""The program for hosts, as it is packed, with real images: try out, deploy, swap, and all that can go wrong on the way."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.integration.deployment.support import REPOSITORY, Load, answers, ask, probe, push_image, refused_port
from tests.integration.images.support import Registry, blob_files, free_port
from tests.zstd_program import add_zstd_program

if TYPE_CHECKING:
    from tests.integration.deployment.support import Host

Images = tuple[str, str, str]


def instances(host: Host, name: str) -> dict[str, Any]:
    found: dict[str, Any] = host.run("status", name=name).value["instances"]
    return found


def processes_of(host: Host) -> list[int]:
    """Return the processes that have the host's home in their command line."""
    found = []
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit() and int(folder.name) != os.getpid():
            try:
                line = (folder / "cmdline").read_bytes()
            except OSError:
                continue
            if str(host.home).encode() in line:
                found.append(int(folder.name))
    return found


def wait_until(what: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.05)


def test_an_image_is_tried_out_and_nothing_of_it_is_left(host: Host, images: Images) -> None:
    found = host.run("verify", digest=images[0], probe=probe(1), requests=20).value
    assert (found["compared"], found["layers"], found["isolation"]) == (2, 3, "bubblewrap")
    assert found["cold_start_seconds"] > 0
    assert 0 < found["p50_seconds"] <= found["p95_seconds"]
    assert found["memory_bytes"] > 5_000_000
    assert processes_of(host) == []
    assert list((host.home / ".edge-training/serving/v").iterdir()) == []


def test_an_image_without_recorded_answers_is_only_asked_for_its_health(host: Host, images: Images) -> None:
    nothing = {"cases": [], "tolerance": {"absolute": 0, "relative": 0}}
    found = host.run("verify", digest=images[0], probe=nothing, requests=20).value
    assert (found["compared"], found["p50_seconds"]) == (0, 0)


def test_a_new_version_costs_the_host_one_layer(host: Host, images: Images) -> None:
    host.run("pull", digest=images[0])
    assert host.run("pull", digest=images[1]).value["fetched_layers"] <= 1
    assert host.run("pull", digest=images[1]).value["fetched_layers"] == 0


def test_a_swap_under_fifty_requests_a_second_fails_none(host: Host, images: Images) -> None:
    port = free_port()
    assert host.deploy("swap", port, images[0], 1).error is None
    with Load(port) as load:
        for version in (2, 3, 1):
            assert host.deploy("swap", port, images[version - 1], version).error is None
        time.sleep(0.2)
    assert load.failures == []
    assert len(load.versions) > 20
    changes = [one for one, before in zip(load.versions, [None, *load.versions], strict=False) if one != before]
    assert changes == ["1", "2", "3", "1"]


def test_requests_that_the_old_image_has_begun_are_finished_by_it(
    host: Host, registry: Registry, images: Images
) -> None:
    port = free_port()
    with registry.client() as client:
        slow = push_image(client, 11, SLOW="1.5")
    assert host.deploy("slow", port, slow, 11).error is None
    with socket.create_connection(("127.0.0.1", port), timeout=20) as waiting:
        body = b'{"data": [1]}'
        waiting.sendall(b"POST /score HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        assert host.deploy("slow", port, images[0], 1).error is None
        assert b'"version": "11"' in waiting.recv(65536)
    assert ask(port)[1]["version"] == "1"


@pytest.mark.parametrize(
    ("version", "environment", "seconds", "kind", "said"),
    [
        (21, {"FACTOR": "2.1"}, 60, "probe", "answer.sum is 7.35, recorded was 7"),
        (22, {"FAILS": "1"}, 60, "unhealthy", "the model is missing"),
        (23, {"LATE": "60"}, 1, "unhealthy", "was not healthy"),
    ],
)
def test_an_image_that_is_not_fit_is_ended_and_the_old_one_stays(
    host: Host,
    registry: Registry,
    images: Images,
    version: int,
    environment: dict[str, Any],
    seconds: int,
    kind: str,
    said: str,
) -> None:
    port = free_port()
    assert host.deploy("unfit", port, images[0], 1).error is None
    with registry.client() as client:
        digest = push_image(client, version, **environment)
    error = host.deploy("unfit", port, digest, version, seconds=seconds).error
    assert (error["kind"], error["retryable"]) == (kind, False)
    assert said in error["message"]
    assert ask(port)[1]["version"] == "1"
    assert set(instances(host, "unfit")) == {images[0]}
    tried = host.run("verify", digest=digest, probe=probe(version), requests=1, seconds=seconds).error
    assert tried["kind"] == kind
    assert said in tried["message"]


def test_a_port_that_is_taken_is_named_and_nothing_is_started(host: Host, images: Images) -> None:
    with refused_port(host, images[0]) as port:
        assert processes_of(host) == []
    assert host.deploy("taken", port, images[0], 1).error is None


def test_a_deployment_does_not_move_to_another_port_while_it_serves(host: Host, images: Images) -> None:
    port = free_port()
    assert host.deploy("moving", port, images[0], 1).error is None
    error = host.deploy("moving", free_port(), images[1], 2).error
    assert error["kind"] == "port"
    assert "stop it first" in error["message"]
    assert ask(port)[1]["version"] == "1"


def test_a_damaged_layer_is_never_unpacked_and_the_old_image_stays(
    host: Host, registry: Registry, images: Images
) -> None:
    port = free_port()
    assert host.deploy("damaged", port, images[0], 1).error is None
    with registry.client() as client:
        digest = push_image(client, 31)
        manifest = client.find_manifest(REPOSITORY, digest)
        assert manifest is not None
    layer = json.loads(manifest.body)["layers"][-1]["digest"]
    (file,) = blob_files(registry, layer)
    content = bytearray(file.read_bytes())
    content[0] ^= 0xFF
    file.write_bytes(content)
    error = host.deploy("damaged", port, digest, 31).error
    assert (error["kind"], error["retryable"]) == ("image", False)
    assert "it is damaged" in error["message"]
    assert ask(port)[1]["version"] == "1"
    assert not list((host.home / ".edge-training/serving/images").glob("making-*"))


def test_a_layer_with_zstd_needs_only_the_program_of_the_host_s_distribution(
    host: Host, registry: Registry, tmp_path: Path
) -> None:
    with registry.client() as client:
        digest = push_image(client, 51, compression="zstd")
    # Without the packages of this project's Python, which a host does not have.
    bare = replace(host, python=(sys.executable, "-I", "-S"), path=str(tmp_path))
    error = bare.run("pull", digest=digest).error
    assert (error["kind"], error["retryable"]) == ("image", False)
    assert "install its distribution's package 'zstd' there, or choose 'gzip'" in error["message"]
    add_zstd_program(tmp_path)
    bare = replace(bare, path=f"{tmp_path}:{host.path}")
    assert bare.run("verify", digest=digest, probe=probe(51), requests=1).value["compared"] == 2


def test_a_try_whose_connection_broke_does_not_end_what_the_next_one_has_started(
    host: Host, registry: Registry
) -> None:
    port = free_port()
    with registry.client() as client:
        late = push_image(client, 43, LATE="3")
    order = {"name": "twice", "port": port, "digest": late, "probe": probe(43), "about": {}}
    # The first one gives up while the second one waits for the image to be healthy.
    with host.start("deploy", **order, seconds=2) as first:
        wait_until(lambda: late in host.run("status", name="twice").value.get("instances", ()))
        second = host.deploy("twice", port, late, 43)
        assert first.wait(60) == 3
    assert second.error is None, second.error
    assert ask(port)[1]["version"] == "43"
    (found,) = instances(host, "twice").values()
    assert (found["running"], found["failures"]) == (True, 0)


def test_a_deployment_that_another_command_does_not_let_go_of_is_left_alone(host: Host, images: Images) -> None:
    assert host.deploy("held", free_port(), images[0], 1).error is None
    before = instances(host, "held")
    with (host.home / ".edge-training/serving/d/held/lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        error = host.deploy("held", 1, images[1], 2, seconds=-60).error
    assert (error["kind"], error["retryable"]) == ("host", True)
    assert "Another command has been at work on deployment 'held'" in error["message"]
    assert instances(host, "held") == before


def test_an_image_that_is_not_there_is_told(host: Host) -> None:
    error = host.run("pull", digest="sha256:" + "0" * 64).error
    assert (error["kind"], error["retryable"]) == ("image", False)
    assert "was it deleted" in error["message"]


def test_a_refused_login_is_told_without_the_password(host: Host, images: Images) -> None:
    error = host.run("pull", digest=images[0], registry={**host.registry, "password": "guessed"}).error
    assert (error["kind"], error["retryable"]) == ("registry", False)
    assert "HTTP 401" in error["message"]
    assert "guessed" not in error["message"]


def test_a_registry_that_the_host_cannot_reach_or_does_not_trust_is_told(host: Host, images: Images) -> None:
    nowhere = {**host.registry, "address": f"127.0.0.1:{free_port()}"}
    error = host.run("pull", digest=images[0], registry=nowhere).error
    assert (error["kind"], error["retryable"]) == ("registry", True)
    error = host.run("pull", digest=images[0], registry={**host.registry, "ca_pem": ""}).error
    assert (error["kind"], error["retryable"]) == ("registry", False)
    assert "ca_certificate" in error["message"]


def test_the_registry_s_password_is_nowhere_on_the_host(host: Host, images: Images) -> None:
    port = free_port()
    assert host.deploy("secret", port, images[0], 1).error is None
    password = host.registry["password"].encode()
    for pid in processes_of(host):
        for name in ("cmdline", "environ"):
            assert password not in Path(f"/proc/{pid}/{name}").read_bytes()
    files = [
        path
        for path in (host.home / ".edge-training/serving").rglob("*")
        if path.is_file() and ".chain" not in str(path)
    ]
    assert files
    assert not [path for path in files if password in path.read_bytes()]


def test_files_that_were_changed_on_the_host_are_noticed_and_fetched_anew(host: Host, images: Images) -> None:
    host.run("pull", digest=images[0])
    unpacked = (host.home / ".edge-training/serving/images").glob("*.chain/root/model/version")
    (served,) = [path for path in unpacked if path.read_text() == "1"]
    served.write_text("another model")
    assert host.run("pull", digest=images[0]).value["fetched_layers"] == 1
    assert served.read_text() == "1"


def test_a_pipeline_that_is_killed_half_way_leaves_the_old_image_and_a_retry_finishes(
    host: Host, registry: Registry, images: Images
) -> None:
    port = free_port()
    assert host.deploy("killed", port, images[0], 1).error is None
    with registry.client() as client:
        late = push_image(client, 41, LATE="3")
    order = {"name": "killed", "port": port, "digest": late, "probe": probe(41), "about": {}}
    with host.start("deploy", **order) as half:
        wait_until(lambda: late in instances(host, "killed"))
        half.kill()
    assert ask(port)[1]["version"] == "1"
    assert host.deploy("killed", port, late, 41).error is None
    assert ask(port)[1]["version"] == "41"
    assert set(instances(host, "killed")) == {late}


def test_a_model_that_dies_is_started_again_and_requests_wait_for_it(host: Host, images: Images) -> None:
    port = free_port()
    assert host.deploy("dies", port, images[0], 1).error is None
    assert ask(port, {"die": True, "data": []})[0] == 502
    assert ask(port) == (200, {"version": "1", "sum": 2.0})


def test_a_front_that_is_killed_comes_back_with_what_served(host: Host, images: Images) -> None:
    port = free_port()
    assert host.deploy("front", port, images[0], 1).error is None
    (front,) = [pid for pid in processes_of(host) if b"\0front\0" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    os.kill(front, signal.SIGKILL)
    wait_until(lambda: answers(port))
    assert ask(port)[1]["version"] == "1"


def test_stopping_leaves_no_process_and_the_next_deployment_knows_what_served(host: Host, images: Images) -> None:
    port = free_port()
    assert host.deploy("stopped", port, images[0], 1).error is None
    assert host.run("stop", name="stopped").value == {"stopped": True}
    wait_until(lambda: processes_of(host) == [], 5)
    for name in ("stopped", "never"):
        assert host.run("stop", name=name).value == {"stopped": False}
    assert not (host.home / ".edge-training/serving/d/never").exists()
    found = host.deploy("stopped", port, images[1], 2).value
    assert (found["previous"], found["unchanged"]) == (images[0], False)
    state = host.run("status", name="stopped").value["state"]
    assert [state["active"]["digest"], *(one["digest"] for one in state["earlier"])] == [images[1], images[0]]


def test_the_same_image_again_changes_nothing(host: Host, images: Images) -> None:
    port = free_port()
    assert host.deploy("again", port, images[0], 1).error is None
    before = instances(host, "again")
    assert host.deploy("again", port, images[0], 1).value["unchanged"]
    assert instances(host, "again") == before


def test_a_served_model_has_no_network_and_sees_nothing_of_the_host(host: Host, images: Images) -> None:
    port = free_port()
    assert host.deploy("sealed", port, images[0], 1).error is None
    (found,) = instances(host, "sealed").values()
    inner = [int(pid) for pid in Path(f"/proc/{found['pid']}/task/{found['pid']}/children").read_text().split()]
    assert inner
    for pid in inner:
        interfaces = [line.split(":")[0].strip() for line in Path(f"/proc/{pid}/net/dev").read_text().splitlines()[2:]]
        assert interfaces == ["lo"]
        assert not Path(f"/proc/{pid}/root{host.home}").exists()
