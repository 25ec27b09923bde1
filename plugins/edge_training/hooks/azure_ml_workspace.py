"""A hook's way to an Azure ML workspace: the connection, the login, patience with calls, and errors of ours."""

from __future__ import annotations

import threading
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar

from airflow.sdk import BaseHook

from edge_training.exceptions import ServiceError
from edge_training.hooks import azure_ml_calls as calls
from edge_training.hooks.azure_ml_errors import azure_ml_errors, is_stale_login, wished_pause
from edge_training.hooks.azure_ml_history import RunHistory
from edge_training.hooks.azure_ml_transport import bound_the_sdk, reading_at_most
from edge_training.hooks.connections import ConnectionSettings, read_connection
from edge_training.hooks.retrying import Patience, persist

if TYPE_CHECKING:
    from collections.abc import Callable

EXTRAS = ("tenant_id", "cloud", "subscription_id", "resource_group", "workspace")
Result = TypeVar("Result")


class AzureMLWorkspaceHook(BaseHook):
    """Opens one Azure ML workspace with a service principal, and calls it as often as that makes sense.

    :param conn_id: see :class:`~edge_training.hooks.azure_ml.AzureMLHook`.
    :param patience: how long calls are tried again; a trigger, which looks again anyway, wants little of it.
    """

    conn_name_attr = "azure_ml_conn_id"
    default_conn_name = "azure_ml"
    conn_type = "azure_ml"
    hook_name = "Azure Machine Learning"

    def __init__(self, conn_id: str = default_conn_name, patience: Patience | None = None) -> None:
        super().__init__()
        self.conn_id = conn_id
        self.patience = Patience() if patience is None else patience
        self._workspace: Any = None
        self._history: tuple[Any, RunHistory] | None = None
        self._opening = threading.Lock()

    @cached_property
    def settings(self) -> ConnectionSettings:
        """Return the connection.

        :raises ConfigurationError: when it is missing or incomplete.
        """
        required = ("login", "password", "tenant_id", "subscription_id", "resource_group", "workspace")
        return read_connection(self.conn_id, (self.conn_type,), EXTRAS, required=required)

    @property
    def workspace(self) -> Any:
        """Return the SDK's ``Workspace``, opened by the first call.

        :raises ServiceError: when it does not exist or the credentials are refused.
        """
        with self._opening:
            if self._workspace is None:
                self._workspace = self._open()
            return self._workspace

    def _open(self) -> Any:
        settings = self.settings
        with azure_ml_errors(f"open workspace '{settings.text('workspace')}'", self.conn_id):
            bound_the_sdk()
            return calls.open_workspace(settings)

    def _call(self, doing: str, call: Callable[[Any], Result], patience: Patience | None = None) -> Result:
        """Do something with the workspace, again if need be.

        :param doing: what, to which id, to end the sentence "Could not ...".
        :param call: gets the workspace; it must be safe to do twice.
        :param patience: another than the hook's.
        :raises ServiceError: when it does not succeed.
        """
        patience = self.patience if patience is None else patience
        attempt = partial(self._with_a_good_login, doing, call, patience)
        return persist(attempt, doing=doing, patience=patience, log=self.log, wished_pause=wished_pause)

    def _with_a_good_login(self, doing: str, call: Callable[[Any], Result], patience: Patience) -> Result:
        """Call once, and once more with a new login when the one at hand is not accepted any longer."""
        known = self._workspace
        try:
            return self._once(doing, call, patience)
        except ServiceError as error:
            if known is None or not is_stale_login(error):
                raise
            self.log.info("The access token is not accepted any longer; logging in again.")
        with self._opening:
            if self._workspace is known:
                self._workspace = None
        return self._once(doing, call, patience)

    def _once(self, doing: str, call: Callable[[Any], Result], patience: Patience) -> Result:
        with reading_at_most(patience.deadline_seconds or Patience.deadline_seconds):
            workspace = self.workspace
            with azure_ml_errors(doing, self.conn_id):
                return call(workspace)

    def _read(self, doing: str, read: Callable[[RunHistory], Result], patience: Patience | None = None) -> Result:
        """Ask the run history something, again if need be; see :meth:`_call`."""
        return self._call(doing, lambda workspace: read(self._history_of(workspace)), patience)

    def _history_of(self, workspace: Any) -> RunHistory:
        """Return the run history of a workspace; it is kept, with its connections, until there is another login."""
        with self._opening:
            if self._history is None or self._history[0] is not workspace:
                self._history = (workspace, RunHistory(workspace))
            return self._history[1]
