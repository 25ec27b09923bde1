"""The demo from its start to the summary."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TYPE_CHECKING

from demo import facts
from demo.answer import ask
from demo.api import AirflowApi
from demo.follow import Follower
from demo.settings import DAG_ID, DemoSettings
from demo.stack import AirflowStack
from local_site import certificates, site
from local_site.credentials import Credentials
from local_site.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from demo.facts import RunFacts
    from demo.screen import Screen

# What the DAG processor needs for a first reading, on a machine that is busy with everything else that starts.
DAG_SECONDS = 90.0


class Demo:
    """One run of the demo.

    :param settings: where its Airflow lives.
    :param screen: where it prints.
    """

    def __init__(self, settings: DemoSettings, screen: Screen) -> None:
        self._settings = settings
        self._screen = screen
        self._seconds: dict[str, float] = {}
        self._site_settings = Settings.from_environment()
        self._site = prepare_site(self._site_settings)
        self._airflow = AirflowStack(settings, self._site)

    def run(self) -> None:
        """Start everything, train once, ask the model that is in service, and tell.

        :raises LocalSiteError: when a service cannot be started.
        :raises DemoError: when anything else goes wrong.
        """
        api = self._start()
        with self._timed("training pipeline"):
            found = self._train(api)
        with self._timed("model answers"):
            self._screen.say(f"Asking the model in service at {found.deployment.where} one question")
            answer = ask(found.deployment)
        self._seconds["in all"] = self._screen.seconds
        content = facts.as_json(found, answer, self._access(), self._seconds)
        facts.write(self._settings.facts_file, content)
        self._screen.table("What came of it", facts.summary(content))
        self._screen.table(
            "Everything is left running",
            [
                ("make down", "stops it"),
                ("make demo", "trains again: a new model version and a new tag"),
                ("the facts above", str(self._settings.facts_file)),
            ],
        )

    def _start(self) -> AirflowApi:
        """Start the site and Airflow side by side, and return once Airflow has read the DAG and can run it."""
        # Before anything is started that would then be of no use.
        self._airflow.check_port()
        begin = time.time()
        with ThreadPoolExecutor(2) as pool:
            site_up = pool.submit(self._start_site)
            airflow_up = pool.submit(self._start_airflow)
        # Both have ended by now; the site's error first, because Airflow is of no use without it.
        site_up.result()
        started = airflow_up.result()
        api = AirflowApi(self._settings.api_url, "admin", self._airflow.secrets.admin_password)
        self._screen.now("Airflow reads the DAG")
        api.prepare_for_tasks()
        api.wait_for_dag(DAG_ID, parsed_after=begin if started else 0.0, seconds=DAG_SECONDS)
        api.wait_until_healthy(started_after=begin if started else 0.0, seconds=DAG_SECONDS)
        self._screen.still()
        self._seconds["start"] = time.time() - begin
        return api

    def _start_site(self) -> None:
        with self._timed("local site"):
            states = site.up(self._site_settings, report=self._screen.say)
        for state in states:
            self._screen.say(f"{state.title:<26}{state.address}", "green")

    def _start_airflow(self) -> bool:
        with self._timed("Airflow"):
            started = self._airflow.up()
        told = "started" if started else "was running already"
        self._screen.say(f"{'Airflow':<26}{self._settings.ui_url} ({told})", "green")
        return started

    def _train(self, api: AirflowApi) -> RunFacts:
        dag_run_id = api.trigger(DAG_ID)
        self._screen.say(f"DAG run {dag_run_id} of {DAG_ID}", "bold")
        follower = Follower(api, self._screen, DAG_ID, dag_run_id)
        seconds = follower.follow(self._settings.timeout, self._airflow.check_alive)
        return facts.collect(api, DAG_ID, dag_run_id, seconds)

    def _access(self) -> dict[str, str]:
        return {
            "Airflow UI": self._settings.ui_url,
            "Airflow login": f"admin / {self._airflow.secrets.admin_password}",
            "Azure ML": self._site["LOCAL_SITE_AZURE_ML_URL"],
            "blob storage": self._site["LOCAL_SITE_BLOB_ENDPOINT"],
            "training VM": f"ssh -i {self._site['LOCAL_SITE_VM_KEY_FILE']} -p {self._site['LOCAL_SITE_VM_PORT']} "
            f"{self._site['LOCAL_SITE_VM_USER']}@{self._site['LOCAL_SITE_VM_HOST']}",
            "container registry": f"https://{self._site['LOCAL_SITE_REGISTRY']}",
        }

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        begin = time.monotonic()
        yield
        self._seconds[step] = time.monotonic() - begin


def prepare_site(settings: Settings) -> dict[str, str]:
    """Make the site's secrets and certificates, so that what reaches it can be told before it runs, and return that.

    :param settings: the site's settings.
    """
    Credentials.ensure(settings.state)
    certificates.ensure(settings.tls)
    return settings.exports()
