"""Many runs are asked for together; what cannot be asked together is asked run by run, and an error reaches whom it concerns."""

import pytest

from edge_training.exceptions import ServiceError
from edge_training.triggers.look import SharedLook, Sighting
from tests.unit.triggers.azure import OUTAGE, REFUSED, Azure

NOT_UNDERSTOOD = ServiceError("400", service="Azure ML", status=400)


def states(answers: dict[str, Sighting | Exception]) -> dict[str, str]:
    return {
        run_id: answer.run.status.state if isinstance(answer, Sighting) else str(answer)
        for run_id, answer in answers.items()
    }


def test_runs_that_go_on_cost_one_question_and_runs_that_have_ended_one_more_however_many_there_are() -> None:
    azure = Azure(
        **{f"a{number}": "Running" for number in range(50)}, **{f"e{number}": "Completed" for number in range(50)}
    )
    look = SharedLook(azure, "experiment")
    assert set(states(look.look([f"a{number}" for number in range(50)])).values()) == {"Running"}
    assert azure.asked == {"active_runs": 1}
    answers = states(look.look(["a1", "e1", "e2"]))
    assert answers == {"a1": "Running", "e1": "Completed", "e2": "Completed"}
    assert azure.asked == {"active_runs": 2, "runs_by_id": 1}


def test_a_run_that_no_list_has_is_asked_for_itself_and_its_error_is_its_own() -> None:
    azure = Azure(here="Running")
    answers = SharedLook(azure, "experiment").look(["here", "nowhere"])
    assert states(answers) == {"here": "Running", "nowhere": "no run nowhere"}


@pytest.mark.parametrize("state", ["Failed", "Canceled"])
def test_a_run_that_ended_badly_is_asked_for_itself_when_the_list_does_not_say_why(state: str) -> None:
    azure = Azure(run=state)
    answers = SharedLook(azure, "experiment").look(["run"])
    assert states(answers) == {"run": state}
    assert azure.asked["look_up"] == 1


@pytest.mark.parametrize("error", [OUTAGE, REFUSED])
def test_an_outage_and_a_refusal_concern_everybody_and_are_not_asked_again_run_by_run(error: ServiceError) -> None:
    azure = Azure(one="Running", two="Running")
    azure.list_error = error
    with pytest.raises(ServiceError, match=str(error)):
        SharedLook(azure, "experiment").look(["one", "two"])
    assert azure.asked == {"active_runs": 1}


def test_a_service_that_does_not_understand_the_shared_question_is_asked_run_by_run_for_a_while() -> None:
    azure = Azure(one="Running", two="Completed", three=[OUTAGE])
    azure.list_error = NOT_UNDERSTOOD
    look = SharedLook(azure, "experiment")
    for _ in range(2):
        answers = look.look(["one", "two", "three"])
        assert states(answers) == {"one": "Running", "two": "Completed", "three": "503"}
    assert azure.asked == {"active_runs": 1, "look_up": 6}


def test_without_an_experiment_each_run_is_asked_for_itself() -> None:
    azure = Azure(one="Running", two="Running")
    SharedLook(azure, "").look(["one", "two"])
    assert azure.asked == {"look_up": 2}


def test_a_queued_run_is_told_how_many_runs_on_its_vm_were_created_earlier() -> None:
    azure = Azure(first="Running", second="Queued", third="Queued", fourth="Completed", fifth="Queued")
    azure.created = {name: f"2026-11-21T11:0{number}:00" for number, name in enumerate(azure.states)}
    answers = SharedLook(azure, "experiment").look(["first", "second", "third", "fifth"])
    assert {name: answer.ahead for name, answer in answers.items() if isinstance(answer, Sighting)} == {
        "first": None,
        "second": 1,
        "third": 2,
        "fifth": 3,
    }


def test_the_queue_is_not_counted_anew_at_every_look_and_not_at_all_when_nobody_waits() -> None:
    azure = Azure(one="Running", two="Queued")
    look = SharedLook(azure, "experiment")
    look.look(["one"])
    assert azure.asked["runs_tagged"] == 0
    for _ in range(5):
        look.look(["two"])
    assert azure.asked["runs_tagged"] == 1


def test_a_queue_that_cannot_be_counted_keeps_nobody_from_their_run() -> None:
    class NoQueue(Azure):
        def runs_tagged(self, tags: object, experiment: object = None) -> tuple[()]:
            raise OUTAGE

    (answer,) = SharedLook(NoQueue(one="Queued"), "experiment").look(["one"]).values()
    assert isinstance(answer, Sighting)
    assert (answer.run.status.state, answer.ahead) == ("Queued", None)
