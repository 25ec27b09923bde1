"""Reads Azure ML's run history over its REST API, with the address and the login of the SDK's workspace.

The SDK reads the same API, and builds so many objects around each answer that a run's state costs it 0.1 s of processor time and a list
of a thousand runs 0.9 s. Whoever waits for many runs cannot pay that; here they cost 2 ms and 20 ms. What asks once in a while may use
either; what watches uses this.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import requests
from requests.adapters import HTTPAdapter

from edge_training.hooks.azure_ml_records import listed_run

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from edge_training.hooks.azure_ml_records import ListedRun
    from edge_training.records import RunStatus

TIMEOUT_SECONDS = (10.0, 30.0)
"""To connect, and for each next byte of an answer."""
CONNECTIONS = 16
PAGE = 500
IDS_AT_ONCE = 40
"""Ids in one question: they stand in a filter, and a service bounds how long that may be."""
REMEMBERED_LOGS = 5_000
ENDED_BADLY = frozenset({"Failed", "Canceled"})
# What a log's address is answered with that has run out, or that names nothing any more.
STALE = frozenset(
    {requests.codes.unauthorized, requests.codes.forbidden, requests.codes.not_found, requests.codes.gone}
)


class RunHistory:
    """The runs of one workspace. Threads may share it.

    :param workspace: the SDK's ``Workspace``, logged in.
    """

    def __init__(self, workspace: Any) -> None:
        from azureml.core._portal import HasWorkspacePortal

        context = workspace.service_context
        # The SDK has no public name for these two; they are what its own clients are made of.
        scope = context._get_workspace_scope()  # noqa: SLF001
        self._url = f"{context._get_run_history_url()}/history/v1.0{scope}"  # noqa: SLF001
        self._login = workspace._auth_object  # noqa: SLF001
        self._portal = str(HasWorkspacePortal(workspace).get_portal_url())
        self._session = requests.Session()
        self._session.mount("https://", HTTPAdapter(pool_maxsize=CONNECTIONS))
        self._log_urls: dict[tuple[str, str], str] = {}

    def status(self, run_id: str) -> RunStatus:
        """Return a run as it is at this moment; of one that ended badly also why.

        :param run_id: the run's id.
        """
        return self.run(run_id).status

    def run(self, run_id: str) -> ListedRun:
        """Return a run as it is at this moment; of one that ended badly also why.

        :param run_id: the run's id.
        """
        found = self._ask("GET", f"/runs/{quote(run_id, safe='')}")
        if str(found["status"]) in ENDED_BADLY and not found.get("error"):
            found = {**found, "error": self._details(found).get("error")}
        return self._listed(found, str(found.get("experimentName") or ""))

    def active(self, experiment: str, states: Iterable[str], tags: Mapping[str, str]) -> list[ListedRun]:
        """Return the runs of an experiment that are in one of these states; one request for each 500 runs.

        :param experiment: the experiment's name; one that does not exist has no runs.
        :param states: Azure ML's words.
        :param tags: what must stand on the runs.
        """
        terms = [f"({' or '.join(f'Status eq {state}' for state in states)})"]
        terms += [f'(Tags/{name} eq "{value}")' for name, value in tags.items()]
        return list(self._query(experiment, f"({' and '.join(terms)})"))

    def by_id(self, experiment: str, run_ids: Iterable[str]) -> list[ListedRun]:
        """Return those of these runs that belong to an experiment, in whatever state.

        :param experiment: the experiment's name.
        :param run_ids: the runs' ids.
        """
        wanted = list(run_ids)
        chunks = [wanted[begin : begin + IDS_AT_ONCE] for begin in range(0, len(wanted), IDS_AT_ONCE)]
        filters = [f"({' or '.join(f'RunId eq {run_id}' for run_id in chunk)})" for chunk in chunks]
        return [run for text in filters for run in self._query(experiment, text)]

    def experiments(self) -> list[str]:
        """Return the names of all experiments."""
        return [str(one["name"]) for one in self._pages("/experiments:query", {})]

    def log(self, run_id: str, offset: int, name: str) -> bytes:
        """Return what a run's log has grown by; nothing when it is not there yet.

        :param run_id: the run's id.
        :param offset: bytes that are known already.
        :param name: the log's name among the run's log files.
        """
        known = self._log_urls.get((run_id, name))
        if known is not None:
            answer = self._read(known, offset)
            if answer.status_code not in STALE:
                return _grown(answer, offset)
        url = self._log_url(run_id, name)
        return b"" if url is None else _grown(self._read(url, offset), offset)

    def _log_url(self, run_id: str, name: str) -> str | None:
        """Ask where a log is, and keep the address: it is signed, and good for hours."""
        files = self._details(self._ask("GET", f"/runs/{quote(run_id, safe='')}")).get("logFiles") or {}
        if len(self._log_urls) >= REMEMBERED_LOGS:
            self._log_urls.clear()  # mostly of runs that have ended; asking again costs two requests
        if name in files:
            self._log_urls[run_id, name] = str(files[name])
        return files.get(name)

    def _details(self, run: Mapping[str, Any]) -> dict[str, Any]:
        experiment, run_id = (quote(str(run[key]), safe="") for key in ("experimentId", "runId"))
        return self._ask("GET", f"/experimentids/{experiment}/runs/{run_id}/details")

    def _query(self, experiment: str, text: str) -> Iterator[ListedRun]:
        try:
            for found in self._pages(f"/experiments/{quote(experiment, safe='')}/runs:query", {"filter": text}):
                yield self._listed(found, experiment)
        except requests.HTTPError as error:
            if error.response is None or error.response.status_code != requests.codes.not_found:
                raise

    def _pages(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        token: str | None = None
        while True:
            page = self._ask("POST", path, {**body, "top": PAGE, "continuationToken": token})
            yield from page["value"]
            token = page.get("continuationToken")
            if not token:
                return

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        headers = self._login.get_authentication_header()
        answer = self._session.request(
            method, f"{self._url}{path}", json=body, headers=headers, timeout=TIMEOUT_SECONDS
        )
        _raise_for(answer)
        content: dict[str, Any] = answer.json()
        return content

    def _read(self, url: str, offset: int) -> requests.Response:
        return self._session.get(url, headers={"Range": f"bytes={offset}-"}, timeout=TIMEOUT_SECONDS)

    def _listed(self, found: Mapping[str, Any], experiment: str) -> ListedRun:
        page, mark, rest = self._portal.partition("?")
        return listed_run(found, experiment, f"{page}/runs/{found['runId']}{mark}{rest}")


def _grown(answer: requests.Response, offset: int) -> bytes:
    if answer.status_code in {requests.codes.not_found, requests.codes.requested_range_not_satisfiable}:
        return b""
    _raise_for(answer)
    whole = answer.status_code == requests.codes.ok
    return answer.content[offset:] if whole else answer.content


def _raise_for(answer: requests.Response) -> None:
    """Raise for an answer that is an error, with the service's own words and without the address, which may be signed."""
    if answer.ok:
        return
    try:
        said = answer.json()["error"]["message"]
    except (ValueError, KeyError, TypeError):
        said = f"it was answered with {answer.status_code} {answer.reason}."
    raise requests.HTTPError(str(said), response=answer)
