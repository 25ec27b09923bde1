"""One hub asks for all who wait, tells each what concerns it, and rests when nobody waits."""

import asyncio
import gc
import threading
import time
from collections.abc import Coroutine
from typing import Any

import pytest

from edge_training.exceptions import ConfigurationError, ServiceError
from edge_training.triggers import hub as module
from edge_training.triggers.hub import Pace, RunHub, collections_put_off, hub_of
from tests.unit.triggers.azure import OUTAGE, REFUSED, Azure

SOON = 0.01


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(asyncio.wait_for(work, 30))


async def state_after(hub: RunHub, run_id: str, *wanted: str) -> None:
    with hub.watch(run_id, SOON) as watch:
        for state in wanted:
            while (await watch.next(5.0)).run.status.state != state:
                pass


def test_a_hundred_who_wait_for_different_runs_share_the_requests() -> None:
    azure = Azure(**{f"run{number}": ["Running"] * 3 + ["Completed"] for number in range(100)})

    async def work() -> None:
        hub = RunHub(lambda: azure, "experiment")
        await asyncio.gather(*(state_after(hub, run_id, "Running", "Completed") for run_id in list(azure.states)))

    run(work())
    assert azure.asked["look_up"] == 0
    assert azure.asked["active_runs"] < 20


def test_whoever_waits_for_the_same_run_hears_the_same() -> None:
    # Each answer is given once: whoever asked by himself would take it from the others.
    azure = Azure(run=["Queued", "Running", "Completed"])
    heard: list[list[str]] = []

    async def listen(hub: RunHub) -> None:
        states: list[str] = []
        heard.append(states)
        with hub.watch("run", SOON) as watch:
            while "Completed" not in states:
                states.append((await watch.next(5.0)).run.status.state)

    async def work() -> None:
        hub = RunHub(lambda: azure, "experiment")
        await asyncio.gather(*(listen(hub) for _ in range(3)))

    run(work())
    assert heard == [heard[0]] * 3
    assert (heard[0][0], heard[0][-1]) == ("Queued", "Completed")


def test_an_error_of_one_run_reaches_only_who_waits_for_it() -> None:
    azure = Azure(good="Running")

    async def work() -> None:
        hub = RunHub(lambda: azure, "experiment")
        with hub.watch("good", SOON) as good, hub.watch("missing", SOON) as missing:
            assert (await good.next(5.0)).run.status.state == "Running"
            with pytest.raises(ServiceError, match="no run missing"):
                await missing.next(5.0)

    run(work())


def test_an_outage_reaches_everybody_and_is_over_for_everybody() -> None:
    azure = Azure(one="Running", two="Running")
    azure.list_error = OUTAGE

    async def work() -> None:
        hub = RunHub(lambda: azure, "experiment")
        with hub.watch("one", SOON) as one, hub.watch("two", SOON) as two:
            for watch in (one, two):
                with pytest.raises(ServiceError, match="503"):
                    await watch.next(5.0)
            azure.list_error = None
            for watch in (one, two):
                assert (await watch.next(5.0)).run.status.state == "Running"

    run(work())


def test_an_error_that_many_raise_does_not_grow_with_their_number() -> None:
    azure = Azure(run="Running")
    azure.list_error = REFUSED

    def length(error: BaseException) -> int:
        frames, traceback = 0, error.__traceback__
        while traceback is not None:
            frames, traceback = frames + 1, traceback.tb_next
        return frames

    async def work() -> None:
        hub = RunHub(lambda: azure, "experiment")
        lengths = set()
        with hub.watch("run", 60.0) as watch:
            for _ in range(5):
                with pytest.raises(ServiceError) as error:
                    await watch.next(0.0)
                lengths.add(length(error.value))
        assert len(lengths) == 1

    run(work())


def test_a_hub_for_which_nobody_waits_asks_nothing_and_asks_again_for_the_next_who_comes() -> None:
    azure = Azure(run="Running")
    made = []

    def source() -> Azure:
        made.append(threading.current_thread().name)
        return azure

    async def work() -> None:
        hub = RunHub(source, "experiment")
        await state_after(hub, "run", "Running")
        await asyncio.sleep(0.1)
        asked = azure.asked["active_runs"]
        await asyncio.sleep(10 * SOON)
        assert azure.asked["active_runs"] == asked
        await state_after(hub, "run", "Running")
        assert azure.asked["active_runs"] > asked

    run(work())
    assert len(made) == 2  # the connection is read again
    assert all(name.startswith("edge-training-looks") for name in made)


def test_everybody_on_an_event_loop_gets_the_same_hub_for_the_same_experiment() -> None:
    async def work() -> None:
        azure = Azure()
        first = hub_of("azure_ml", "one", lambda: azure)
        assert hub_of("azure_ml", "one", lambda: azure) is first
        assert hub_of("azure_ml", "two", lambda: azure) is not first
        assert hub_of("other", "one", lambda: azure) is not first

    run(work())


def test_appointments_do_not_drift_and_missed_ones_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    pace = Pace(5.0)
    assert pace.is_due()
    now = 105.7
    assert pace.is_due()
    assert pace.left() == pytest.approx(4.3)
    assert not pace.is_due()
    now = 123.0
    assert pace.is_due()
    assert pace.left() == pytest.approx(2.0)


def test_the_collector_waits_while_a_source_is_made_and_goes_on_afterwards_also_when_that_fails(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    frozen = []
    monkeypatch.setattr(gc, "freeze", lambda: frozen.append(True))  # for good, so not in this process
    monkeypatch.setattr(module, "_put_off", False)

    def fail() -> None:
        assert not gc.isenabled()
        raise ConfigurationError("no connection")

    with pytest.raises(ConfigurationError), collections_put_off():
        fail()
    assert gc.isenabled()
    with collections_put_off():
        assert not gc.isenabled()
    with collections_put_off():
        assert gc.isenabled()  # once is enough
    assert len(frozen) == 2
