from __future__ import annotations

import base64
import hashlib
import subprocess
from typing import TYPE_CHECKING

import pytest

from edge_training.exceptions import ConfigurationError
from edge_training.hooks.connections import ConnectionSettings
from edge_training.hooks.ssh_keys import load_private_key, parse_host_key

if TYPE_CHECKING:
    from pathlib import Path


def generated(folder: Path, kind: str = "ed25519", passphrase: str = "", *more: str) -> Path:
    path = folder / "key"
    # Small and quick to make: nothing is protected with them.
    size = ["-b", "2048"] if kind == "rsa" else []
    command = [
        "ssh-keygen",
        "-q",
        "-a",
        "1",
        "-t",
        kind,
        *size,
        "-N",
        passphrase,
        "-C",
        "a comment",
        "-f",
        str(path),
        *more,
    ]
    subprocess.run(command, check=True, capture_output=True)
    return path


def settings(**extra: str) -> ConnectionSettings:
    return ConnectionSettings("training_vm", "ssh", extra=extra)


@pytest.mark.parametrize(
    ("kind", "algorithms"),
    [("ed25519", ("ssh-ed25519",)), ("ecdsa", ("ecdsa-sha2-nistp256",)), ("rsa", ("rsa-sha2-512", "rsa-sha2-256"))],
)
def test_a_pinned_key_asks_for_its_own_type(kind: str, algorithms: tuple[str, ...], tmp_path: Path) -> None:
    line = generated(tmp_path, kind).with_suffix(".pub").read_text()
    printed = subprocess.run(
        ["ssh-keygen", "-l", "-f", tmp_path / "key.pub"], check=True, capture_output=True, text=True
    )
    for text in (line, f"vm.site,10.0.0.4 {line}", " ".join(line.split()[:2])):
        pinned = parse_host_key(text, "training_vm")
        assert pinned.algorithms == (algorithms,)
        assert pinned.fingerprint == printed.stdout.split()[1]


def test_a_pinned_fingerprint_asks_for_every_type_in_turn() -> None:
    fingerprint = "SHA256:" + base64.b64encode(hashlib.sha256(b"key").digest()).decode().rstrip("=")
    pinned = parse_host_key(fingerprint + "=", "training_vm")
    assert pinned.fingerprint == fingerprint
    assert pinned.algorithms[0] == ("ssh-ed25519",)
    assert pinned.algorithms[-1] == ("rsa-sha2-512", "rsa-sha2-256")


@pytest.mark.parametrize(
    "text",
    [
        "MD5:16:27:ac:a5:76:28:2d:36:63:1b:56:4d:eb:df:a6:48",
        "SHA256:short",
        "ssh-ed25519",
        "ssh-ed25519 AAAA!",
        "ssh-dss AAAAB3NzaC1kc3M=",
        "ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIJ",
    ],
)
def test_what_is_no_host_key_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="host_key of connection 'training_vm' is not a host key"):
        parse_host_key(text, "training_vm")


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
@pytest.mark.parametrize("passphrase", ["", "a passphrase"])
def test_a_private_key_of_each_type_is_read_from_file_and_from_text(kind: str, passphrase: str, tmp_path: Path) -> None:
    path = generated(tmp_path, kind, passphrase)
    for extra in ({"key_file": str(path)}, {"private_key": path.read_text()}):
        key = load_private_key(settings(private_key_passphrase=passphrase, **extra))
        assert key is not None
        assert key.get_base64() == path.with_suffix(".pub").read_text().split()[1]


def test_a_private_key_in_pem_is_read(tmp_path: Path) -> None:
    path = generated(tmp_path, "rsa", "", "-m", "PEM")
    assert load_private_key(settings(key_file=str(path))) is not None


def test_no_key_is_named_no_key_is_read() -> None:
    assert load_private_key(settings()) is None


def test_an_encrypted_key_without_passphrase_asks_for_it(tmp_path: Path) -> None:
    path = generated(tmp_path, passphrase="a passphrase")
    with pytest.raises(ConfigurationError, match="set extra private_key_passphrase"):
        load_private_key(settings(key_file=str(path)))


@pytest.mark.parametrize("kind", ["ed25519", "rsa"])
def test_a_wrong_passphrase_is_told(kind: str, tmp_path: Path) -> None:
    path = generated(tmp_path, kind, "a passphrase")
    with pytest.raises(ConfigurationError, match="cannot be used") as caught:
        load_private_key(settings(key_file=str(path), private_key_passphrase="another one"))
    assert "another one" not in str(caught.value)


def test_a_key_file_that_is_not_there_is_named() -> None:
    with pytest.raises(ConfigurationError, match="names '/nowhere/key', which cannot be read: No such file"):
        load_private_key(settings(key_file="/nowhere/key"))


def test_two_keys_are_one_too_many() -> None:
    with pytest.raises(ConfigurationError, match="keep one"):
        load_private_key(settings(key_file="/a", private_key="text"))


def test_what_is_no_key_is_refused_without_repeating_it() -> None:
    with pytest.raises(ConfigurationError, match="expected an Ed25519, ECDSA or RSA key") as caught:
        load_private_key(settings(private_key="not-a-key-but-secret"))
    assert "not-a-key-but-secret" not in str(caught.value)
