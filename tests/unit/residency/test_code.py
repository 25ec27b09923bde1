"""What leaves as a run's code is laid out file by file, listed exactly, and refused when it looks like data or a key."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edge_training.exceptions import ResidencyError
from edge_training.residency.code import code_manifest, stage_source
from edge_training.residency.code_rules import MAXIMUM_FILE_BYTES

if TYPE_CHECKING:
    from edge_training.records import CodeManifest

SCRIPTS = Path(__file__).parents[3] / "include" / "training_scripts"
# Made of two parts, so that nothing that looks for keys finds one here.
BEGIN = "-----BEGIN "


class Source:
    """A small project and runner, and where their snapshot is laid out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.project, self.runner, self.target = folder / "proj", folder / "edge_run", folder / "out" / "snapshot"
        self.write("proj/train.py", "print('hello')\n")
        self.write("edge_run/__main__.py", "print('runner')\n")

    def write(self, name: str, content: str | bytes) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def stage(self) -> CodeManifest:
        stage_source(self.project, self.runner, self.target)
        return code_manifest(self.target, "proj")

    def names(self) -> list[str]:
        return [file.path for file in self.stage().files]


@pytest.fixture
def source(tmp_path: Path) -> Source:
    return Source(tmp_path)


BASE = [".amlignore", "edge_run/__main__.py", "project/train.py"]


def test_the_manifest_lists_each_file_with_its_size_and_hash(source: Source) -> None:
    manifest = source.stage()
    assert [file.path for file in manifest.files] == BASE
    train = manifest.files[-1]
    assert (train.size, train.sha256) == (15, hashlib.sha256(b"print('hello')\n").hexdigest())
    on_disk = [path.relative_to(source.target).as_posix() for path in source.target.rglob("*") if path.is_file()]
    assert sorted(on_disk) == BASE


def test_only_what_training_needs_is_laid_out(source: Source) -> None:
    for name in ("helper.py", "parts/deep.py", "settings.json"):
        source.write(f"proj/{name}", "x = 1\n")
    for name in ("score.py", "sample_request.json", "README.md", "requirements.txt", "requirements.lock", ".gitignore"):
        source.write(f"proj/{name}", "left out\n")
    source.write("proj/__pycache__/train.cpython-311.pyc", b"\0\1")
    source.write("proj/tests/rows.csv", "1,2\n")
    source.write("proj/.git/config", "left out\n")
    assert source.names() == sorted([*BASE, "project/helper.py", "project/parts/deep.py", "project/settings.json"])


def test_the_same_code_gives_the_same_digest_wherever_and_whenever(source: Source, tmp_path: Path) -> None:
    first = source.stage()
    os.utime(source.project / "train.py", (1, 1))
    (source.project / "train.py").chmod(0o700)
    stage_source(source.project, source.runner, tmp_path / "elsewhere")
    assert code_manifest(tmp_path / "elsewhere", "proj").digest == first.digest
    times = {path.stat().st_mtime for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()}
    assert len(times) == 1


def test_a_changed_character_or_name_changes_the_digest(source: Source, tmp_path: Path) -> None:
    digests = {source.stage().digest}
    source.write("proj/train.py", "print('hellO')\n")
    stage_source(source.project, source.runner, tmp_path / "second")
    digests.add(code_manifest(tmp_path / "second", "proj").digest)
    (source.project / "train.py").write_text("print('hello')\n")
    source.write("edge_run/extra.py", "")
    stage_source(source.project, source.runner, tmp_path / "third")
    digests.add(code_manifest(tmp_path / "third", "proj").digest)
    assert len(digests) == 3


def test_a_file_that_gets_into_the_laid_out_folder_is_in_the_manifest(source: Source) -> None:
    before = source.stage()
    (source.target / "tests").mkdir()
    (source.target / "tests" / "late.py").write_text("")
    after = code_manifest(source.target, "proj")
    assert [file.path for file in after.files if file not in before.files] == ["tests/late.py"]


@pytest.mark.parametrize("rules", [None, "*.py\n"])
def test_a_folder_with_other_rules_for_what_is_sent_is_refused(source: Source, rules: str | None) -> None:
    source.stage()
    if rules is None:
        (source.target / ".amlignore").unlink()
    else:
        (source.target / ".amlignore").write_text(rules)
    with pytest.raises(ResidencyError, match="stage_source laid out"):
        code_manifest(source.target, "proj")


@pytest.mark.parametrize(
    "name",
    [
        "rows.csv",
        "rows.CSV",
        "rows.parquet",
        "deep/rows.npy",
        "rows.csv.gz",
        "model.pkl",
        "notebook.ipynb",
        "cache.sqlite",
    ],
)
def test_a_data_format_is_refused_by_its_name(source: Source, name: str) -> None:
    source.write(f"proj/{name}", "1,2\n")
    with pytest.raises(ResidencyError, match=rf"^{name} in proj/ is of a data format"):
        source.stage()


@pytest.mark.parametrize(
    "name", [".env", ".env.local", "id_rsa", "server.pem", "deep/vm.key", ".netrc", "credentials.json"]
)
def test_a_file_named_like_a_key_is_refused_also_where_it_would_be_left_out(source: Source, name: str) -> None:
    source.write(f"proj/{name}", "x\n")
    with pytest.raises(ResidencyError, match=rf"^{name} in proj/ is named like a key"):
        source.stage()


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (f"KEY = '''{BEGIN}OPENSSH PRIVATE KEY-----\nabc'''\n", "holds a private key"),
        (f"{BEGIN}PRIVATE KEY-----\n", "holds a private key"),
        ("'DefaultEndpointsProtocol=https;AccountName=a;AccountKey=" + "A" * 86 + "=='", "holds a storage account key"),
        ('account_key: "' + "b+/" * 20 + '"', "holds a storage account key"),
        ("URL = 'https://a/b?sv=2019-07-07&sr=b&sig=" + "A" * 43 + "%3D'", "holds a shared access signature"),
        ("eyJ" + "a" * 20 + ".eyJ" + "b" * 20 + "." + "c" * 20, "holds a token"),
        (b"PAR1\0\0", "is not text"),
        ("text in another encoding é".encode("latin-1"), "is not text"),
        ("#" * (MAXIMUM_FILE_BYTES + 1), "code has at most"),
    ],
)
def test_content_that_must_not_leave_is_refused_without_repeating_it(
    source: Source, content: str | bytes, complaint: str
) -> None:
    source.write("proj/helper.py", content)
    with pytest.raises(ResidencyError, match=complaint) as caught:
        source.stage()
    assert str(caught.value).startswith("helper.py in proj/")
    assert "AAAA" not in str(caught.value)


def test_code_that_only_speaks_of_keys_may_leave(source: Source) -> None:
    source.write("proj/helper.py", "account_key = os.environ['ACCOUNT_KEY']  # AccountKey=..., sig=..., PRIVATE KEY\n")
    assert "project/helper.py" in source.names()


@pytest.mark.parametrize("target", ["/etc/passwd", "../edge_run/__main__.py", "..", "gone"])
def test_a_link_out_of_the_project_is_refused(source: Source, target: str) -> None:
    (source.project / "link.py").symlink_to(target)
    with pytest.raises(ResidencyError, match=r"^link\.py in proj/ is a link out of the folder"):
        source.stage()


def test_a_link_within_the_project_becomes_a_file(source: Source) -> None:
    (source.project / "alias.py").symlink_to("train.py")
    assert "project/alias.py" in source.names()
    assert not (source.target / "project" / "alias.py").is_symlink()


def test_a_refused_project_leaves_nothing_half_laid_out(source: Source) -> None:
    source.write("proj/zz.csv", "1\n")
    with pytest.raises(ResidencyError):
        source.stage()
    assert list(source.target.parent.iterdir()) == []


def test_a_folder_that_exists_is_not_added_to(source: Source) -> None:
    source.target.mkdir(parents=True)
    with pytest.raises(ResidencyError, match="exists already"):
        source.stage()


def test_a_project_without_a_script_is_refused(source: Source) -> None:
    (source.project / "train.py").unlink()
    with pytest.raises(ResidencyError, match=r"has no train\.py"):
        source.stage()


def test_our_own_project_and_runner_may_leave(tmp_path: Path) -> None:
    stage_source(SCRIPTS / "breast_cancer", SCRIPTS / "edge_run", tmp_path / "snapshot")
    names = [file.path for file in code_manifest(tmp_path / "snapshot", "breast_cancer").files]
    assert [name for name in names if name.startswith("project/")] == ["project/portable_model.py", "project/train.py"]
    assert "edge_run/__main__.py" in names
