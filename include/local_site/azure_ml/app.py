"""The application: every service's routes behind one guard, and a shaped answer for everything else."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, Response
from starlette.routing import Route as StarletteRoute

import local_site.azure_ml.arm.routes as arm
import local_site.azure_ml.artifacts.routes as artifacts
import local_site.azure_ml.blobs.routes as blobs
import local_site.azure_ml.control.routes as control
import local_site.azure_ml.environments.routes as environments
import local_site.azure_ml.execution.routes as execution
import local_site.azure_ml.history.routes as history
import local_site.azure_ml.identity.routes as identity
import local_site.azure_ml.metrics.routes as metrics
import local_site.azure_ml.models.routes as models
import local_site.azure_ml.packages.routes as packages
import local_site.azure_ml.snapshots.routes as snapshots
from local_site.azure_ml.control.recorder import Recorder
from local_site.azure_ml.errors import NotSupportedError, ServiceError, TooLargeError
from local_site.azure_ml.web import Access, Call, Route, allow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from starlette.requests import Request
    from starlette.types import ASGIApp

    from local_site.azure_ml.backend import Backend
    from local_site.azure_ml.settings import Settings

LARGEST_BODY = 64 * 1024 * 1024
METHODS = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]

log = logging.getLogger("local_site.azure_ml")


def all_routes(settings: Settings) -> list[Route]:
    """Return the routes of every service, blobs excepted: those stream."""
    return [
        *control.ROUTES,
        *identity.routes(settings),
        *arm.ROUTES,
        *environments.ROUTES,
        *history.ROUTES,
        *metrics.ROUTES,
        *artifacts.ROUTES,
        *snapshots.ROUTES,
        *execution.ROUTES,
        *models.ROUTES,
        *packages.ROUTES,
    ]


def make_app(backend: Backend) -> ASGIApp:
    """Put the application together."""
    table = [
        StarletteRoute(route.path, _endpoint(route, backend), methods=[route.method])
        for route in all_routes(backend.settings)
    ]
    app = Starlette(
        routes=[
            *table,
            *blobs.streaming_routes(backend),
            StarletteRoute("/{anything:path}", _unknown, methods=METHODS),
        ],
        exception_handlers={ServiceError: _shaped, 405: _unknown, 404: _unknown, Exception: _unexpected},
    )
    app.router.redirect_slashes = False
    return Recorder(app, backend.journal, backend.faults)


def _endpoint(route: Route, backend: Backend) -> Callable[[Request], Awaitable[Response]]:
    async def endpoint(request: Request) -> Response:
        body = await _read(request)
        return await run_in_threadpool(_answer, route, backend, request, body)

    return endpoint


async def _read(request: Request) -> bytes:
    parts: list[bytes] = []
    size = 0
    async for part in request.stream():
        size += len(part)
        if size > LARGEST_BODY:
            raise TooLargeError(f"The body is larger than {LARGEST_BODY} bytes.")
        parts.append(part)
    return b"".join(parts)


def _answer(route: Route, backend: Backend, request: Request, body: bytes) -> Response:
    caller = None if route.access is Access.OPEN else backend.tokens.check(request.headers.get("authorization", ""))
    call = Call(backend, request.path_params, request.query_params, body, caller, request.headers)
    allow(route, call)
    answer = route.handler(call)
    if isinstance(answer, Response):
        return answer
    if answer is None:
        return Response(status_code=200)
    return Response(json.dumps(answer), media_type="application/json")  # metrics may be NaN, which JSONResponse refuses


async def _unknown(request: Request, _error: Exception | None = None) -> Response:
    return await _shaped(
        request,
        NotSupportedError(
            f"{request.method} {request.url.path} is not supported by the local Azure ML. "
            "The table in include/local_site/azure_ml/README.md lists what is."
        ),
    )


async def _shaped(_request: Request, error: Exception) -> Response:
    known = error if isinstance(error, ServiceError) else ServiceError(str(error))
    return JSONResponse(known.body(), known.status, known.headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return await _shaped(request, ServiceError("The server failed to answer; its log says why."))
