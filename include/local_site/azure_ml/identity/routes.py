"""The AD FS authority: what MSAL asks before and when a service principal logs in."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl

from starlette.responses import JSONResponse

from local_site.azure_ml.web import Access, Answer, Call, Route

if TYPE_CHECKING:
    from local_site.azure_ml.settings import Settings


def routes(settings: Settings) -> list[Route]:
    """Return the authority's routes; its tenant is part of their paths."""
    tenant = f"/{settings.tenant_id}"
    return [
        Route("GET", f"{tenant}/.well-known/openid-configuration", discover, Access.OPEN),
        Route("POST", f"{tenant}/oauth2/token", log_in, Access.OPEN),
    ]


def discover(call: Call) -> Answer:
    """Say where tokens are got."""
    settings = call.backend.settings
    authority = f"{settings.base_url}/{settings.tenant_id}"
    return {
        "issuer": authority,
        "authorization_endpoint": f"{authority}/oauth2/authorize",
        "token_endpoint": f"{authority}/oauth2/token",
    }


def log_in(call: Call) -> Answer:
    """Give a token for the client's id and secret."""
    settings = call.backend.settings
    form = dict(parse_qsl(call.body.decode("utf-8", "replace")))
    if form.get("grant_type") != "client_credentials":
        return _refuse(400, "unsupported_grant_type", "AADSTS70003: only the client_credentials grant is supported.")
    if not hmac.compare_digest(form.get("client_id", "").encode(), settings.client_id.encode()):
        sent = form.get("client_id", "")
        return _refuse(400, "unauthorized_client", f"AADSTS700016: Application with identifier '{sent}' was not found.")
    if not hmac.compare_digest(form.get("client_secret", "").encode(), settings.client_secret.encode()):
        return _refuse(401, "invalid_client", "AADSTS7000215: Invalid client secret provided.")
    audience = form.get("scope", form.get("resource", "")).removesuffix("/.default").rstrip("/")
    if audience != settings.base_url:
        return _refuse(
            400, "invalid_resource", f"AADSTS500011: The resource '{audience}' was not found in this tenant."
        )
    token = call.backend.tokens.for_client()
    return {"token_type": "Bearer", "expires_in": call.backend.tokens.client_seconds, "access_token": token.text}


def _refuse(status: int, error: str, description: str) -> JSONResponse:
    """Answer as an authority does, which is not how Azure's other services do."""
    return JSONResponse({"error": error, "error_description": description}, status)
