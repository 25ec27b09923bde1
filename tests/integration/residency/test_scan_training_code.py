"""Code that holds training data is stopped before it is sent; the data is looked for on the VM and nowhere else."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.exceptions import ComputeError, ConfigurationError, ResidencyError
from edge_training.hooks.stack_hub_blob import StackHubBlobHook
from edge_training.operators.code import CheckTrainingCodeOperator
from edge_training.operators.code_scan import ScanTrainingCodeOperator
from edge_training.operators.grant import GrantDataAccessOperator
from edge_training.retries import TypedRetryPolicy
from tests.integration.training.conftest import SCRIPTS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from edge_training.records import JsonObject
    from tests.integration.training.conftest import Pipeline


@pytest.fixture
def prepared(residency: dict[str, Any], pipeline: Pipeline) -> dict[str, JsonObject]:
    """Verify the data, attach the VM, grant the data."""
    data = pipeline.verify()
    grant = GrantDataAccessOperator(task_id="grant_data_access", manifest=data, lifetime=timedelta(minutes=10))
    return {"data": data, "compute": pipeline.ensure(), "grant": pipeline.value(grant)}


def test_rows_in_the_code_are_found_on_the_vm_however_they_are_written_and_honest_code_is_not_named(
    prepared: dict[str, JsonObject],
    pipeline: Pipeline,
    project: Callable[[str], Path],
    local_site: Any,
    capsys: pytest.CaptureFixture[str],
) -> None:
    lines = StackHubBlobHook().read("training-data", "breast-cancer/2025-11.csv", 1_000_000).decode().splitlines()
    rows = lines[1:9]
    scripts = project("print('hello')\n")
    train = scripts / "sample" / "train.py"

    def scan(code: str, checked: str | None = None, **options: Any) -> Any:
        train.write_text(code if checked is None else checked)
        fields: dict[str, Any] = {
            "project": "sample",
            "scripts_folder": str(scripts),
            "retry_policy": TypedRetryPolicy(),
        }
        check = CheckTrainingCodeOperator(task_id="check_training_code", data=prepared["data"], **fields)
        found = pipeline.value(check)
        train.write_text(code)
        given = {"code": found, "compute": prepared["compute"], "grant": prepared["grant"], **options}
        return pipeline.run(ScanTrainingCodeOperator(task_id="scan_training_code", **fields, **given))

    honest = (SCRIPTS / "breast_cancer" / "train.py").read_text()
    capsys.readouterr()
    clean = scan(honest)
    assert (clean.error, clean.value["findings"]) == (None, 0)
    assert clean.value["files"] > 30
    assert not [line for line in capsys.readouterr().out.splitlines() if "[warning" in line or "[error" in line]
    for code in ("ROWS = '''\n" + "\n".join(rows) + "\n'''\n", f"ROWS = [{'], ['.join(rows)}]\n"):
        error = scan(code).error
        assert isinstance(error, ResidencyError)
        assert "project/train.py" in str(error)
        assert not any(cell in str(error) for row in rows for cell in row.split(",") if len(cell) > 4)
    assert isinstance(scan("print('other')\n", checked="print('hello')\n").error, ConfigurationError)

    left = local_site.ssh("ls ~/.edge-training; ls ~/.edge-training/work").stdout.split()
    assert not any(name.startswith(("scan.", "run-")) for name in left)
    grant = prepared["grant"]["path"]
    assert local_site.ssh(f"test -s {grant} && echo kept").stdout.strip() == "kept"
    # Without the grant nobody can tell, so nothing is sent.
    assert local_site.ssh(f"rm {grant}").returncode == 0
    assert isinstance(scan("print('hello')\n").error, ComputeError)


def test_a_training_blob_is_refused_under_any_name(
    residency: dict[str, Any], pipeline: Pipeline, project: Callable[[str], Path]
) -> None:
    data = pipeline.verify()
    scripts = project("print('hello')\n")
    blob = StackHubBlobHook().read("training-data", "breast-cancer/2025-11.csv", 1_000_000)
    (scripts / "sample" / "constants.py").write_bytes(blob)
    check = CheckTrainingCodeOperator(
        task_id="check_training_code",
        project="sample",
        scripts_folder=str(scripts),
        data=data,
        retry_policy=TypedRetryPolicy(),
    )
    outcome = pipeline.run(check)
    assert isinstance(outcome.error, ResidencyError)
    assert "project/constants.py" in str(outcome.error)
    assert outcome.state == "failed"
