"""The command that an auditor runs: files in, plain words out, and an exit status that a script can trust."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from edge_training.residency.receipt import public_key_text, sign
from edge_training.residency.verify import main
from tests.unit.residency.receipts import KEY, OTHER_KEY, chain, facts

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Lay out three receipts and the public key."""
    for receipt in chain(3):
        path = tmp_path / "local" / f"{receipt.sequence:08d}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(receipt.content)
    (tmp_path / "residency_key.pub").write_text(public_key_text(KEY) + " a comment\n")
    (tmp_path / "other.pub").write_text(public_key_text(OTHER_KEY) + "\n")
    return tmp_path


def test_the_command_needs_nothing_but_python_and_cryptography_and_says_what_left(folder: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "edge_training.residency",
            "verify",
            str(folder / "local"),
            "--key",
            str(folder / "residency_key.pub"),
        ],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(PROJECT / "plugins")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for words in ("run-2", "model.onnx, 9 bytes", "bubblewrap", "audit     clean", "receipts 1 to 3", "no faults"):
        assert words in done.stdout


def test_a_copy_of_the_whole_container_may_be_given_though_it_has_notes_beside_the_receipts(folder: Path) -> None:
    (folder / "_submitted/local").mkdir(parents=True)
    (folder / "_submitted/local/run-1.json").write_text("{}")
    assert main(["verify", "--quiet", str(folder)]) == 0
    assert main(["verify", "--quiet", str(folder / "_submitted/local/run-1.json")]) == 1


@pytest.mark.parametrize("name", ["00000001.json", "00000002.json", "00000003.json"])
def test_a_byte_that_was_changed_is_a_fault(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = folder / "local" / name
    path.write_bytes(path.read_bytes().replace(b"bubblewrap", b"bubblewrep"))
    assert main(["verify", str(folder / "local")]) == 1
    assert name in capsys.readouterr().err


def test_a_receipt_that_is_gone_from_the_middle_is_a_fault(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (folder / "local" / "00000002.json").unlink()
    assert main(["verify", "--quiet", str(folder / "local")]) == 1
    captured = capsys.readouterr()
    assert "missing" in captured.err
    assert captured.out == ""


def test_a_newest_receipt_that_is_gone_is_a_fault_when_its_digest_is_known(folder: Path) -> None:
    head = chain(3)[2].digest
    assert main(["verify", "--head", head, str(folder / "local")]) == 0
    (folder / "local" / "00000003.json").unlink()
    assert main(["verify", str(folder / "local")]) == 0  # nobody can see that from the others
    assert main(["verify", "--head", head, str(folder / "local")]) == 1


def test_another_key_is_a_fault_and_no_key_is_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", "--key", str(folder / "other.pub"), str(folder / "local")]) == 1
    assert "another key" in capsys.readouterr().err
    assert main(["verify", str(folder / "local")]) == 0
    assert "compare it with the site's" in capsys.readouterr().out


def test_a_sound_receipt_that_tells_of_differences_has_a_status_of_its_own(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    difference = {"where": "artifact", "what": "outputs/more.bin", "expected": "not let out", "found": "there"}
    audit = {"result": "differences", "compared": {"artifacts": 4}, "differences": [difference]}
    withheld = {"kind": "model", "name": "", "bytes": 0, "sha256": "", "verdict": "withheld", "reason": "it has rows"}
    place = {"issued": "2026-11-21T00:00:00Z", "previous": "", "sequence": 1}
    path = tmp_path / "one.json"
    path.write_bytes(sign({**facts(audit=audit, withheld=[withheld]), **place}, KEY).content)
    assert main(["verify", str(path)]) == 3
    said = capsys.readouterr().out
    assert "outputs/more.bin" in said
    assert "held back model: it has rows" in said


def test_files_that_cannot_be_read_or_are_none_have_a_status_of_their_own(tmp_path: Path) -> None:
    assert main(["verify", str(tmp_path / "none.json")]) == 2
    assert main(["verify", str(tmp_path)]) == 1  # a folder without a receipt proves nothing
    assert main(["verify", "--key", str(tmp_path / "none.pub"), str(tmp_path)]) == 2


def test_a_stranger_s_receipt_cannot_make_the_terminal_obey_or_the_command_break(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place = {"issued": "2026-11-21\x1b[2J", "previous": "", "sequence": 1}
    for number, body in enumerate(({**facts(), **place}, {**facts(items=None, run={"id": 1}), **place})):
        (tmp_path / f"{number}.json").write_bytes(sign(body, OTHER_KEY).content)
        main(["verify", str(tmp_path / f"{number}.json")])
        assert "\x1b" not in capsys.readouterr().out
