"""What is told to Azure ML with the real SDK, and what happens when it cannot be told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from local_site import training_env
from local_site.settings import Settings

if TYPE_CHECKING:
    from tests.integration.edge_run.conftest import Site

LOGGED = (
    "import edge_context\nedge_context.log_metric('loss', 0.5)\n"
    "edge_context.save_model(b'\\x08\\x08:\\x00B\\x02\\x10\\x11', 'model.onnx')\n"
)


@pytest.fixture
def with_sdk(site: Site) -> Site:
    """A VM whose training environment has the SDK."""
    site.python = str(training_env.ensure(Settings.from_environment()) / "bin" / "python")
    return site


def test_a_run_whose_metrics_cannot_be_told_fails_and_hands_on_no_model(with_sdk: Site) -> None:
    with_sdk.write_script(LOGGED)
    outcome = with_sdk.start(with_sdk.write_grant()["fingerprint"], environment={"AZUREML_RUN_ID": "run-without-token"})
    assert outcome.status == 1
    assert outcome.record["error_code"] == "Report"
    assert "Azure ML did not take the run's metrics" in outcome.log
    assert outcome.outputs == ["edge_run.json"]
    assert with_sdk.remains == []
