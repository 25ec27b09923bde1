"""A service that throttles, fails for a moment or loses an answer costs time and nothing else; one that refuses is not asked twice."""

from __future__ import annotations

import gc
import itertools
import re
import time
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from edge_training.exceptions import ServiceError
from edge_training.hooks.azure_ml import AzureMLHook
from edge_training.hooks.retrying import NO_PATIENCE, Patience
from tests.integration.training.conftest import azure_ml_fields

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.airflow_harness import AirflowConnection
    from tests.integration.training.control import Control
    from tests.running_site import RunningSite

# When a submission fails half-way, the SDK leaves a pool of one thread behind, which ends when it is collected.
pytestmark = pytest.mark.filterwarnings("ignore:unclosed running multiprocessing pool:ResourceWarning")

QUICK = Patience(deadline_seconds=20.0, first_pause_seconds=0.02, longest_pause_seconds=0.2)
NAMES = itertools.count()
MODEL = "import os\nos.makedirs('outputs')\nopen('outputs/model.onnx', 'wb').write(b'weights')\n"
WAITS = "import time\ntime.sleep(600)\n"
EXPERIMENT = "faults"
KINDS = ("status", "reset", "lost_response")


@pytest.fixture
def hook(control: Control) -> AzureMLHook:
    return AzureMLHook(patience=QUICK)


@dataclass
class Ground:
    """What the calls are made on: one run that has ended with a model, and one that goes on."""

    site: RunningSite
    folder: Path
    python: str
    ended: str = ""
    going_on: str = ""
    started: list[str] = field(default_factory=list)

    def attach(self, hook: AzureMLHook) -> Any:
        env = self.site.env
        return hook.attach_vm(
            "faults-vm",
            address=env["LOCAL_SITE_VM_HOST"],
            port=int(env["LOCAL_SITE_VM_PORT"]),
            user=env["LOCAL_SITE_VM_USER"],
            private_key_file=env["LOCAL_SITE_VM_KEY_FILE"],
        )

    def submit(self, hook: AzureMLHook, script: str = WAITS, **tags: str) -> str:
        """Submit something that was never submitted before, so that nothing of it is known from an earlier time."""
        run_id = f"faults-{next(NAMES)}"
        folder = self.folder / run_id
        folder.mkdir()
        (folder / "train.py").write_text(f"# {run_id} {time.time_ns()}\n{script}")
        hook.submit(
            run_id=run_id,
            experiment=EXPERIMENT,
            compute="faults-vm",
            source_directory=folder,
            script="train.py",
            arguments=[],
            python=self.python,
            tags={"dag_id": "faults", **tags},
            maximum_seconds=900,
        )
        self.started.append(run_id)
        return run_id


@pytest.fixture(scope="module")
def made() -> dict[str, Ground]:
    return {}


@pytest.fixture
def ground(
    made: dict[str, Ground],
    hook: AzureMLHook,
    local_site: RunningSite,
    tmp_path_factory: pytest.TempPathFactory,
) -> Ground:
    """Make the runs once for all tests."""
    if not made:
        home = local_site.ssh("echo $HOME").stdout.strip()
        ground = Ground(local_site, tmp_path_factory.mktemp("faults"), f"{home}/training-env/bin/python")
        ground.attach(hook)
        ground.ended = ground.submit(hook, MODEL)
        ground.going_on = ground.submit(hook, WAITS, dag_run_id="waits")
        ground.submit(
            hook, WAITS
        )  # takes the other slot: what is submitted after the first has ended waits in the queue
        until = time.monotonic() + 60
        while hook.get_run(ground.ended).state != "Completed":
            assert time.monotonic() < until
            time.sleep(0.2)
        made["ground"] = ground
    return made["ground"]


@pytest.fixture(scope="module", autouse=True)
def nothing_is_left(made: dict[str, Ground], endpoints: Control) -> Iterator[None]:
    yield
    endpoints.clear()
    for ground in made.values():
        for run_id in ground.started:
            endpoints.call("POST", f"runs/{run_id}/status", {"status": "Canceled"})
    gc.collect()  # here and not in somebody else's test


def register(hook: AzureMLHook, run_id: str, name: str) -> Any:
    return hook.register_model(
        run_id=run_id, name=name, path="outputs/model.onnx", tags={"run_id": run_id}, properties={"file": "model.onnx"}
    )


@dataclass
class Caller:
    """Makes one call of the hook."""

    hook: AzureMLHook
    ground: Ground
    folder: Path

    def make(self, name: str) -> Any:
        return CALLS[name](self)


CALLS: dict[str, Callable[[Caller], Any]] = {
    "find_compute": lambda on: on.hook.find_compute("faults-vm"),
    "attach_vm": lambda on: on.ground.attach(on.hook),
    "submit": lambda on: on.ground.submit(on.hook),
    "get_run": lambda on: on.hook.get_run(on.ground.ended),
    "active_runs": lambda on: on.hook.active_runs(EXPERIMENT),
    "metrics": lambda on: on.hook.metrics(on.ground.ended),
    "artifacts": lambda on: on.hook.artifacts(on.ground.ended),
    "cancel": lambda on: on.hook.cancel(on.ground.ended),
    "model_of_run": lambda on: on.hook.model_of_run("faults", on.ground.ended),
    "register_model": lambda on: register(on.hook, on.ground.ended, "faults"),
    "download_artifact": lambda on: on.hook.download_artifact(
        on.ground.ended, "outputs/model.onnx", on.folder / "model"
    ),
    "download_model": lambda on: on.hook.download_model("faults", 1, on.folder),
}


def pattern_of(request: dict[str, Any]) -> str:
    """Return what the same request looks like the next time, with another id of run, snapshot or blob."""
    path = re.escape(request["path"])
    path = re.sub(r"faults\\-\d+", r"faults-\\d+", path)
    path = re.sub(r"[0-9a-f]{8}(\\-[0-9a-f]{4}){3}\\-[0-9a-f]{12}$", r"[0-9a-f-]{36}", path)
    return f"^{re.sub(r'^/blobs/.+$', '/blobs/', path)}"


FAILED_BEFORE: set[tuple[str, str]] = set()


@pytest.mark.parametrize("name", CALLS)
def test_a_call_survives_that_any_of_its_requests_fails_once(
    name: str, hook: AzureMLHook, ground: Ground, control: Control, tmp_path: Path
) -> None:
    caller = Caller(hook, ground, tmp_path)
    if name == "download_model":
        register(hook, ground.ended, "faults")
    assert hook.workspace is not None
    control.clear()
    caller.make(name)
    asked = {(one["method"], pattern_of(one)) for one in control.requests()}
    # Most calls begin with the same requests: one call that survives their failure is enough.
    own = sorted(asked - FAILED_BEFORE)
    FAILED_BEFORE.update(asked)
    assert asked
    for (method, pattern), kind in zip(own, itertools.cycle(KINDS)):
        control.fault(kind, pattern, method=method)
        caller.make(name)
        assert control.unused_faults() == [], f"{method} {pattern} was not asked again"


@dataclass(frozen=True)
class Door:
    """One of the ways in which the SDK sends requests."""

    path: str
    call: str
    opens: bool = False


# Each goes through another library below the SDK, or past it.
DOORS = {
    "msal": Door("/oauth2/token$", "find_compute", opens=True),
    "azure-core": Door("/workspaces/edge-workspace$", "find_compute", opens=True),
    "requests": Door("/computes/faults\\-vm$", "find_compute"),
    "msrest": Door("/runs/[^/]+$", "artifacts"),
    "msrest in a thread": Door("/metric/.+/list$", "metrics"),
    "run history": Door("runs:query$", "active_runs"),
    "storage": Door("^/blobs/", "submit"),
    "snapshots": Door("/getblob$", "submit"),
    "execution": Door("/snapshotrun$", "submit"),
    "download": Door("^/blobs/", "download_artifact"),
}


RESET, BUSY, DOWN = {"kind": "reset"}, {"kind": "status", "status": 429}, {"kind": "status", "status": 503}


@pytest.mark.parametrize(
    ("name", "fault"),
    [
        *[(name, BUSY) for name in DOORS],
        ("msrest", RESET),
        ("run history", RESET),
        ("requests", RESET),
        ("storage", RESET),
        ("msal", DOWN),
    ],
)
def test_no_layer_of_the_sdk_repeats_a_request_below_us(
    name: str, fault: dict[str, Any], ground: Ground, control: Control, tmp_path: Path
) -> None:
    door = DOORS[name]
    hook = AzureMLHook(patience=NO_PATIENCE)
    if not door.opens:
        assert hook.workspace is not None
    control.clear()
    control.fault(path=door.path, calls=1000, **fault)
    with pytest.raises(ServiceError) as error:
        Caller(hook, ground, tmp_path).make(door.call)
    assert error.value.retryable, str(error.value)
    assert error.value.status == fault.get("status")
    (asked,) = control.requests(door.path)
    assert asked["fault"] == fault["kind"]


@pytest.mark.parametrize("status", [400, 403, 404, 409])
def test_what_is_refused_is_not_asked_again(status: int, hook: AzureMLHook, ground: Ground, control: Control) -> None:
    control.fault("status", "/runs/[^/]+$", status=status, calls=1000)
    with pytest.raises(ServiceError) as error:
        hook.get_run(ground.ended)
    assert (error.value.status, error.value.retryable) == (status, False)
    assert len(control.requests("/runs/[^/]+$")) == 1


def test_after_a_429_the_next_request_comes_when_the_service_wants_it(
    hook: AzureMLHook, ground: Ground, control: Control
) -> None:
    control.fault("status", "/runs/[^/]+$", status=429, retry_after=1)
    assert hook.get_run(ground.ended).state == "Completed"
    first, second = control.requests("/runs/[^/]+$")
    assert (first["status"], second["status"]) == (429, 200)
    pause = datetime.fromisoformat(second["time"]) - datetime.fromisoformat(first["time"])
    assert pause >= timedelta(seconds=1)


def test_a_service_that_wants_more_time_than_there_is_is_given_up_at_once(ground: Ground, control: Control) -> None:
    control.fault("status", "/runs/[^/]+$", status=429, retry_after=3600, calls=1000)
    with pytest.raises(ServiceError) as error:
        AzureMLHook(patience=QUICK).get_run(ground.ended)
    assert error.value.status == 429
    assert len(control.requests("/runs/[^/]+$")) == 1


def test_a_model_whose_registration_lost_its_answer_is_registered_once(
    hook: AzureMLHook, ground: Ground, control: Control
) -> None:
    control.fault("lost_response", "/modelmanagement/v1.0/.+/models$", method="POST")
    model = register(hook, ground.ended, "answer-lost")
    assert (model.version, model.run_id) == (1, ground.ended)
    assert hook.model_of_run("answer-lost", ground.ended) == model
    assert len([one for one in control.requests("/models$") if one["method"] == "POST"]) == 1


def test_a_registration_that_was_not_done_is_sent_again(hook: AzureMLHook, ground: Ground, control: Control) -> None:
    control.fault("reset", "/modelmanagement/v1.0/.+/models$", method="POST")
    assert register(hook, ground.ended, "not-done").version == 1
    assert len([one for one in control.requests("/models$") if one["method"] == "POST"]) == 2


def test_a_submission_that_lost_its_answer_names_one_run(hook: AzureMLHook, ground: Ground, control: Control) -> None:
    control.fault("lost_response", "/snapshotrun$")
    run_id = ground.submit(hook)
    assert [one["status"] for one in control.requests("/snapshotrun$")] == [0, 200]
    assert run_id in hook.active_runs(EXPERIMENT)


def test_a_revoked_token_is_replaced_without_a_person(hook: AzureMLHook, ground: Ground, control: Control) -> None:
    hook.get_run(ground.ended)
    control.clear()
    control.call("POST", "tokens", {"revoke": True})
    assert hook.get_run(ground.ended).state == "Completed"
    assert [one["status"] for one in control.requests(f"/runs/{ground.ended}$")] == [401, 200]
    assert control.requests("/oauth2/token$")


def test_a_token_that_ends_between_two_calls_is_replaced_without_a_person(ground: Ground, control: Control) -> None:
    seconds = 4
    control.call("POST", "tokens", {"client_seconds": seconds})
    hook = AzureMLHook(patience=QUICK)
    try:
        hook.get_run(ground.ended)
        # Tokens that are given from now on last: only the first one ends, however slow the machine is.
        control.call("POST", "tokens", {"client_seconds": 3600})
        time.sleep(seconds + 0.5)
        control.clear()
        assert hook.get_run(ground.ended).state == "Completed"
    finally:
        control.call("POST", "tokens", {"client_seconds": 3600})
    assert control.requests("/oauth2/token$")


def test_a_login_that_is_refused_again_is_an_error(hook: AzureMLHook, ground: Ground, control: Control) -> None:
    hook.get_run(ground.ended)
    control.clear()
    control.fault("status", "/runs/[^/]+$", status=401, calls=1000)
    with pytest.raises(ServiceError) as error:
        hook.get_run(ground.ended)
    assert (error.value.status, error.value.retryable) == (401, False)
    assert len(control.requests("/runs/[^/]+$")) == 2


def test_a_wrong_secret_is_sent_once(
    control: Control, connections: dict[str, Any], airflow_connection: AirflowConnection
) -> None:
    airflow_connection("azure_ml", **{**azure_ml_fields(connections), "password": "wrong"})
    with pytest.raises(ServiceError) as error:
        AzureMLHook(patience=QUICK).find_compute("faults-vm")
    assert (error.value.status, error.value.retryable) == (401, False)
    assert len(control.requests("/oauth2/token$")) == 1


def test_the_active_runs_of_an_experiment_are_one_request(hook: AzureMLHook, ground: Ground, control: Control) -> None:
    hook.active_runs(EXPERIMENT)
    control.clear()
    active = hook.active_runs(EXPERIMENT)
    assert ground.ended not in active
    assert active[ground.going_on].status.state == "Running"
    assert active[ground.going_on].compute == "faults-vm"
    assert f"/runs/{ground.going_on}?wsid=" in active[ground.going_on].status.portal_url
    assert [one["path"].rpartition("/")[2] for one in control.requests()] == ["runs:query"]


def test_runs_that_have_ended_are_found_by_their_ids_in_one_request(
    hook: AzureMLHook, ground: Ground, control: Control
) -> None:
    hook.active_runs(EXPERIMENT)
    control.clear()
    found = hook.runs_by_id(EXPERIMENT, [ground.ended, ground.going_on, "never-submitted"])
    assert {run_id: run.status.state for run_id, run in found.items()} == {
        ground.ended: "Completed",
        ground.going_on: "Running",
    }
    assert len(control.requests()) == 1
    assert found[ground.ended].status == hook.get_run(ground.ended)


def test_an_experiment_that_does_not_exist_has_no_runs(hook: AzureMLHook, ground: Ground) -> None:
    assert hook.active_runs("nobody-made-it") == {}
    assert hook.runs_by_id("nobody-made-it", [ground.ended]) == {}


def test_a_log_is_asked_for_where_it_was_found_and_looked_up_anew_when_it_is_not_there_any_more(
    hook: AzureMLHook, ground: Ground, control: Control
) -> None:
    whole = hook.read_log(ground.ended, 0)
    control.clear()
    assert hook.read_log(ground.ended, 5) == whole[5:]
    assert [one["path"].split("/")[1] for one in control.requests()] == ["blobs"]
    control.clear()
    control.fault("status", "^/blobs/", status=403)
    assert hook.read_log(ground.ended, 0) == whole
    assert len(control.requests("^/blobs/")) == 2
    assert control.requests("/details$")


def test_active_runs_are_found_by_their_tags_in_every_experiment(hook: AzureMLHook, ground: Ground) -> None:
    mine = {"dag_id": "faults", "dag_run_id": "scheduled__2026-11-21T02:00:00+00:00"}
    run_id = ground.submit(hook, **mine)
    (found,) = hook.runs_tagged(mine)
    assert (found.status.run_id, found.experiment) == (run_id, EXPERIMENT)
    assert mine.items() <= found.tags.items()
    assert hook.runs_tagged(mine, EXPERIMENT) == (found,)
    assert hook.runs_tagged({"dag_run_id": "nobody's"}) == ()
