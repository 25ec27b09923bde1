"""Times as Azure writes them: UTC, ISO 8601, microseconds, a ``Z`` at the end, so that text sorts as time does."""

from __future__ import annotations

from datetime import UTC, datetime

from local_site.azure_ml.errors import BadRequestError


def utc_text(moment: datetime | None = None) -> str:
    """Return a moment (default: now) as Azure writes it."""
    return (moment or datetime.now(UTC)).astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_utc(text: str) -> datetime:
    """Read a time that a client sent; one without a zone is UTC.

    :raises BadRequestError: when it is not an ISO 8601 time.
    """
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise BadRequestError(f"{text!r} is not a time; expected ISO 8601, such as 2026-11-21T08:00:00Z.") from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
