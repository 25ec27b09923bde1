"""A run from beginning to end: what leaves, what stays, and how each failure reads."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from edge_run.sandbox import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.integration.edge_run.conftest import Site

SAVE = "edge_context.save_model(b'\\x08\\x08:\\x00B\\x02\\x10\\x11', 'model.onnx')\n"


def test_metrics_lines_and_model_leave_and_each_is_on_record(site: Site) -> None:
    outcome = site.run(
        "import edge_context, sys\n"
        "rows = sum(len(path.read_text().splitlines()) - 1 for path in edge_context.data_files())\n"
        "edge_context.log_metric('rows', rows)\n"
        "edge_context.log_metric('loss', 0.5, step=3)\n"
        "edge_context.log_text('by log_text')\n"
        "edge_context.report_progress(0.5, 'half of it')\n"
        "print('by print')\n"
        "print('by stderr', file=sys.stderr)\n" + SAVE
    )
    assert outcome.status == 0, outcome.log
    for line in (
        "metric | rows = 300",
        "metric | loss = 0.5 (step 3)",
        "script | by log_text",
        "script | 50% half of it",
        "script | by print",
        "script | by stderr",
    ):
        assert line in outcome.log.splitlines()
    assert outcome.verdicts == {("metric", "passed"): 2, ("log", "passed"): 4, ("model", "passed"): 1}
    assert outcome.outputs == ["edge_run.json", "model.onnx"]
    model = next(item for item in outcome.record["items"] if item["kind"] == "model")
    assert model["sha256"] == hashlib.sha256(b"\x08\x08:\x00B\x02\x10\x11").hexdigest()
    assert outcome.record["bytes_out"] == sum(item["bytes"] for item in outcome.record["items"])


def test_parameters_reach_the_script(site: Site) -> None:
    script = "import edge_context, json\nprint(json.dumps(edge_context.parameters()))\n" + SAVE
    outcome = site.run(script, "--param", "folds=3", "--param", "name=x y")
    assert 'script | {"folds": 3, "name": "x y"}' in outcome.log


def test_modules_beside_the_script_can_be_imported(site: Site) -> None:
    (site.snapshot / "project" / "helper.py").write_text("WORD = 'helped'\n")
    assert "script | helped" in site.run("import helper, edge_context\nprint(helper.WORD)\n" + SAVE).log


def test_nothing_of_the_data_stays_after_a_run(site: Site) -> None:
    outcome = site.run(
        "import edge_context, os, pathlib\n"
        "copy = edge_context.data_files()[0].read_text()\n"
        "pathlib.Path(os.environ['HOME'], 'copy.csv').write_text(copy)\n"
        "pathlib.Path(os.environ['EDGE_OUTPUT_DIR'], 'unannounced.csv').write_text(copy)\n" + SAVE
    )
    assert outcome.status == 0
    assert site.remains == []
    assert outcome.outputs == ["edge_run.json", "model.onnx"]
    assert outcome.record["wiped"]["grant"] is True
    # Three blobs, two copies, the model, and what the sandbox is given: the list of accounts and two modules.
    assert outcome.record["wiped"]["files"] == 9


def test_folders_nested_beyond_what_python_can_follow_are_wiped(site: Site) -> None:
    deep = "import os\nos.chdir(os.environ['HOME'])\nfor _ in range(3000):\n    os.mkdir('d')\n    os.chdir('d')\n"
    outcome = site.run(deep + "import edge_context\n" + SAVE)
    assert outcome.status == 0, outcome.log
    assert list((site.home / ".edge-training" / "work").glob("run-*")) == []


def test_the_record_holds_neither_data_nor_names_of_blobs(site: Site) -> None:
    script = "import edge_context\nedge_context.log_metric('row 2,3.0', 1.0)\n" + SAVE
    text = json.dumps(site.run(script).record)
    assert "2026-0" not in text
    assert "2,3.0" not in text


def test_a_script_that_raises_fails_the_run_with_the_end_of_its_traceback(site: Site) -> None:
    outcome = site.run("def fit():\n    raise ValueError('no convergence')\n\nfit()\n")
    assert outcome.status == 1
    assert outcome.record["error_code"] == "Script"
    message = outcome.log[outcome.log.index("failed |") :]
    assert "train.py ended with status 1" in message
    assert "ValueError: no convergence" in message
    assert "line 4, in <module>" in message
    assert outcome.outputs == ["edge_run.json"]
    assert site.remains == []


@pytest.mark.parametrize("name", ["SIGKILL", "SIGSEGV", "SIGTERM"])
def test_a_script_that_is_killed_fails_the_run_with_the_signals_name(site: Site, name: str) -> None:
    outcome = site.run(f"import os, signal\nos.kill(os.getpid(), signal.{name})\n")
    assert outcome.status == 1
    assert f"Script: train.py was killed by {name}" in outcome.log
    assert site.remains == []


def test_a_script_that_saves_no_model_fails_the_run(site: Site) -> None:
    outcome = site.run("print('done')\n")
    assert outcome.status == 1
    assert "Script: train.py ended well but saved no model: it must call edge_context.save_model" in outcome.log


def test_a_script_that_takes_too_long_is_ended(site: Site) -> None:
    outcome = site.run("import time\ntime.sleep(600)\n", policy={"seconds": 1})
    assert outcome.status == 1
    assert "Script: train.py was ended after 1 s" in outcome.log
    assert site.remains == []


def test_a_model_that_is_not_declared_keeps_every_model_here(site: Site) -> None:
    outcome = site.run("import edge_context\nedge_context.save_model(b'rows', 'rows.pkl')\n" + SAVE)
    assert outcome.status == 1
    assert (
        "Withheld: 1 items of train.py were withheld (model: its name is not one of model.onnx, probe.json)"
        in outcome.log
    )
    assert outcome.outputs == ["edge_run.json"]
    assert outcome.verdicts == {("model", "withheld"): 1, ("model", "dropped"): 1}


def test_the_sites_policy_declares_other_models(site: Site) -> None:
    script = SAVE.replace("model.onnx", "a.onnx") + SAVE.replace("model.onnx", "b.onnx")
    script = f"import edge_context\n{script}"
    outcome = site.run(script, policy={"model_files": ["a.onnx", "b.onnx"]})
    assert outcome.outputs == ["a.onnx", "b.onnx", "edge_run.json"]


def test_a_withheld_metric_fails_the_run(site: Site) -> None:
    outcome = site.run("import edge_context\nedge_context.log_metric('patient 17', 1.0)\n" + SAVE)
    assert outcome.status == 1
    assert outcome.record["error_code"] == "Withheld"
    assert "patient 17" not in outcome.log + json.dumps(outcome.record)


@pytest.mark.parametrize(
    ("message", "complaint"),
    [
        ('{"version":1,"method":"upload_file","params":{}}', "known are log_metric"),
        ('{"version":9,"method":"log_text","params":{"text":"x"}}', "this runner understands 1"),
        (
            '{"version":1,"method":"sandbox_ready","params":{"checks":{"all":"closed"}}}',
            "only the runner's own self-test",
        ),
        ("hello", "not JSON"),
    ],
)
def test_a_script_that_speaks_another_protocol_is_ended(site: Site, message: str, complaint: str) -> None:
    script = f"import os, time\nos.write(int(os.environ['EDGE_PROTOCOL_FD']), {message!r}.encode() + b'\\n')\ntime.sleep(600)\n"
    outcome = site.run(script)
    assert outcome.status == 1
    assert outcome.record["error_code"] == "Protocol"
    assert complaint in outcome.log
    assert site.remains == []


def test_a_flood_of_output_is_cut_and_does_not_fail_the_run(site: Site) -> None:
    script = (
        "import edge_context\nfor _ in range(20000):\n    print('x' * 100)\nprint('y' * 3_000_000, end='')\n" + SAVE
    )
    outcome = site.run(script, policy={"log_bytes": 1000})
    assert outcome.status == 0, outcome.log
    assert outcome.verdicts[("log", "passed")] == 10
    assert outcome.verdicts[("log", "dropped")] == 1
    assert len(outcome.log) < 3000


def test_a_snapshot_without_a_script_says_how_to_make_one(site: Site) -> None:
    fingerprint = site.write_grant()["fingerprint"]
    (site.snapshot / "project" / "train.py").unlink()
    assert "Usage: The snapshot has no project/train.py" in site.start(fingerprint).log


def test_a_wrong_start_is_a_failed_run_with_a_record(site: Site) -> None:
    outcome = site.start("latest")
    assert outcome.status == 1
    assert (outcome.record["result"], outcome.record["error_code"]) == ("failed", "Usage")


def test_a_grant_for_other_data_is_neither_used_nor_removed(site: Site) -> None:
    site.write_script("")
    site.write_grant()
    outcome = site.start("sha256:" + "f" * 64)
    assert outcome.record["error_code"] == "Grant"
    assert site.store.requests == []
    assert site.grant.exists()


def test_a_run_that_is_cancelled_wipes_the_data_and_says_so(site: Site) -> None:
    site.write_script("import time\nprint('training', flush=True)\ntime.sleep(600)\n")
    fingerprint = site.write_grant()["fingerprint"]
    process = subprocess.Popen(
        site.command(fingerprint), cwd=site.snapshot, env=site.environment(), stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    lines = iter(process.stdout.readline, "")
    assert any("training" in line for line in lines)
    process.send_signal(signal.SIGTERM)
    outcome = site.outcome(process.wait(timeout=60), "".join(lines))
    process.stdout.close()
    assert outcome.status == 1
    assert "Canceled: The run was ended from outside by SIGTERM." in outcome.log
    assert site.remains == []


@pytest.mark.parametrize("kind", KINDS)
def test_killing_the_runner_ends_the_script_and_the_next_run_removes_the_data(site: Site, kind: str) -> None:
    site.sandbox = kind
    beat = "import os, pathlib, time\nbeat = pathlib.Path(os.environ['HOME'], 'beat')\n"
    site.write_script(beat + "while True:\n    beat.write_text(str(time.time()))\n    time.sleep(0.02)\n")
    fingerprint = site.write_grant()["fingerprint"]
    command, quiet = site.command(fingerprint), subprocess.DEVNULL
    with subprocess.Popen(command, cwd=site.snapshot, env=site.environment(), stdout=quiet) as process:
        _wait_until(lambda: bool(list(site.home.rglob("beat"))))
        process.kill()
    (heart,) = site.home.rglob("beat")
    _wait_until(lambda: _is_still(heart))
    assert any("data/" in name for name in site.remains)
    outcome = site.run("import edge_context\n" + SAVE)
    # Three blobs, the beat, and what the sandbox is given: the list of accounts and two modules.
    assert outcome.record["wiped"]["earlier_runs"]["files"] == 7
    assert site.remains == []


def _is_still(path: Path) -> bool:
    before = path.read_text()
    time.sleep(0.3)
    return path.read_text() == before


def _wait_until(reached: Callable[[], bool]) -> None:
    for _ in range(500):
        if reached():
            return
        time.sleep(0.02)
    raise AssertionError("waited in vain")
