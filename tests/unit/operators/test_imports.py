from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PLUGINS = Path(__file__).parents[3] / "plugins"


def test_operators_import_no_sdk_when_a_dag_is_parsed() -> None:
    code = (
        "import sys, edge_training.operators.blob, edge_training.operators.compute, edge_training.operators.grant;"
        "print([name for name in ('azureml', 'azure.storage.blob', 'paramiko') if name in sys.modules])"
    )
    environment = dict(os.environ) | {"PYTHONPATH": str(PLUGINS)}
    printed = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=environment)
    assert printed.stdout.splitlines()[-1] == "[]"
