"""Stands in front of the application: writes the journal, and makes the faults that were asked for."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from starlette.responses import JSONResponse

from local_site.azure_ml.clock import utc_text
from local_site.azure_ml.control.journal import Entry, Journal
from local_site.azure_ml.errors import ServiceError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from local_site.azure_ml.control.faults import Fault, Faults

CONTROL = ("/_control/", "/health")


class Recorder:
    """An ASGI application around the emulated API.

    :param app: the application.
    """

    def __init__(self, app: ASGIApp, journal: Journal, faults: Faults) -> None:
        self._app = app
        self._journal = journal
        self._faults = faults

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, and write down what became of it."""
        if scope["type"] != "http" or scope["path"].startswith(CONTROL):
            await self._app(scope, receive, send)
            return
        fault = self._faults.take(scope["method"], scope["path"])
        started = time.perf_counter()
        moment = utc_text()
        status = 0

        written = False

        def write() -> None:
            nonlocal written
            if not written:
                seconds = round(time.perf_counter() - started, 6)
                kind = fault.kind if fault else ""
                self._journal.add(Entry(moment, scope["method"], scope["path"], status, seconds, kind))
            written = True

        async def watch(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            elif not message.get("more_body"):
                write()  # before the answer is out: who has it finds it in the journal, whatever happens to this process
            await send(message)

        try:
            await self._pass_on(fault, scope, receive, watch)
        finally:
            write()

    async def _pass_on(self, fault: Fault | None, scope: Scope, receive: Receive, send: Send) -> None:
        if fault is None:
            await self._app(scope, receive, send)
        elif fault.kind == "status":
            await _answer(fault)(scope, receive, send)
        elif fault.kind == "delay":
            await asyncio.sleep(fault.seconds)
            await self._app(scope, receive, send)
        else:
            if fault.kind == "lost_response":
                await self._app(scope, receive, _swallow)
            _cut(receive)


def _answer(fault: Fault) -> JSONResponse:
    error = ServiceError("This answer was asked for as a fault.", code="InjectedFault")
    error.status = fault.status
    headers = {"Retry-After": str(fault.retry_after)} if fault.retry_after >= 0 else None
    return JSONResponse(error.body(), fault.status, headers)


async def _swallow(_message: Message) -> None:
    """Take an answer that never arrives."""


def _cut(receive: Receive) -> None:
    """Reset the connection. ASGI has no word for it, so this reaches for uvicorn's own transport."""
    cycle: Any = receive.__self__  # type: ignore[attr-defined]  # uvicorn passes a bound method
    cycle.transport.abort()
    cycle.disconnected = True
    cycle.response_complete = True
