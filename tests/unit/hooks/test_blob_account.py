from __future__ import annotations

import base64
import hashlib
import hmac
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from edge_training.exceptions import ConfigurationError
from edge_training.hooks.blob_account import BlobAccount, account_from_connection, sign_read_url
from edge_training.hooks.connections import ConnectionSettings

KEY = base64.b64encode(b"k" * 64).decode()
HOST_STYLE = "https://acct.blob.local.azurestack.external"
IP_STYLE = "https://10.0.0.4:8443/acct"
EXPIRES = datetime(2026, 11, 2, 3, 0, tzinfo=UTC)
READ_SAS = "sv=2019-07-07&sr=c&sp=rl&se=2026-11-03T00%3A00%3A00Z&sig=abc%3D"


def account(
    host: str = HOST_STYLE, password: str = KEY, login: str = "", port: int | None = None, **extra: Any
) -> BlobAccount:
    settings = ConnectionSettings("c", "wasb", host=host, login=login, password=password, port=port, extra=extra)
    return account_from_connection(settings)


@pytest.mark.parametrize(
    ("host", "port", "endpoint"),
    [
        (HOST_STYLE, None, HOST_STYLE),
        (HOST_STYLE + "/", None, HOST_STYLE),
        ("acct.blob.local.azurestack.external", None, HOST_STYLE),
        (HOST_STYLE, 8443, HOST_STYLE + ":8443"),
        (HOST_STYLE + ":9443", 8443, HOST_STYLE + ":9443"),
        (IP_STYLE, None, IP_STYLE),
        (IP_STYLE + "/", None, IP_STYLE),
        ("https://10.0.0.4/acct", 8443, IP_STYLE),
    ],
)
def test_both_styles_of_endpoint_name_the_account(host: str, port: int | None, endpoint: str) -> None:
    found = account(host, port=port)
    assert (found.endpoint, found.name, found.key) == (endpoint, "acct", KEY)


@pytest.mark.parametrize(
    ("text", "endpoint"),
    [
        (
            f"DefaultEndpointsProtocol=https;AccountName=acct;AccountKey={KEY};EndpointSuffix=local.azurestack.external",
            HOST_STYLE,
        ),
        (f"AccountName=acct;AccountKey={KEY};BlobEndpoint={IP_STYLE}/;", IP_STYLE),
        (f"BlobEndpoint={HOST_STYLE};SharedAccessSignature=?{READ_SAS}", HOST_STYLE),
    ],
)
def test_a_connection_string_names_endpoint_account_and_credential(text: str, endpoint: str) -> None:
    found = account("", "", connection_string=text)
    assert (found.endpoint, found.name) == (endpoint, "acct")
    assert (found.key == KEY) != (found.sas == READ_SAS)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"password": ""}, "exactly one of password .*; found none"),
        ({"sas_token": READ_SAS}, "found password, sas_token"),
        ({"host": "http://acct.blob.local.azurestack.external"}, "over https"),
        ({"host": ""}, "over https"),
        ({"host": HOST_STYLE + "?x=1"}, "without a query"),
        ({"host": "https://localhost:8443"}, "names no storage account"),
        ({"host": "https://acct.queue.local.azurestack.external"}, "names no storage account"),
        ({"host": IP_STYLE + "/container"}, "without a container"),
        ({"login": "other"}, "login of connection 'c' is 'other' but its host names the storage account 'acct'"),
        ({"password": "no base64!"}, "not valid base64"),
        (
            {"password": "", "connection_string": f"AccountKey={KEY}"},
            "needs BlobEndpoint, or AccountName and EndpointSuffix",
        ),
        (
            {"password": "", "connection_string": f"BlobEndpoint={IP_STYLE}"},
            "either AccountKey or SharedAccessSignature",
        ),
    ],
)
def test_a_wrong_connection_is_told_with_what_is_expected(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message) as caught:
        account(**fields)
    assert KEY not in str(caught.value)
    assert "no base64" not in str(caught.value)


def test_an_account_shows_no_secret() -> None:
    assert KEY not in repr(account())
    assert "abc" not in repr(account(password="", sas_token=READ_SAS))


@pytest.mark.parametrize(("version", "lines"), [("2019-02-02", 15), ("2019-07-07", 15), ("2020-12-06", 16)])
def test_a_signed_address_permits_reading_one_blob_at_the_stores_version(version: str, lines: int) -> None:
    url = urlsplit(sign_read_url(account(IP_STYLE), "data", "p/a b.csv", EXPIRES, version))
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    signature = query.pop("sig")
    assert url.path == "/acct/data/p/a%20b.csv"
    assert query == {"sv": version, "sr": "b", "sp": "r", "spr": "https", "se": "2026-11-02T03:00:00Z"}
    text = ["r", "", query["se"], "/blob/acct/data/p/a b.csv", "", "", "https", version, "b"]
    text += [""] * (lines - len(text))
    digest = hmac.new(base64.b64decode(KEY), "\n".join(text).encode(), hashlib.sha256).digest()
    assert signature == base64.b64encode(digest).decode()


def test_a_sas_that_only_reads_is_handed_on() -> None:
    url = sign_read_url(account(password="", sas_token="?" + READ_SAS), "data", "a.csv", EXPIRES, "2019-07-07")
    assert url == f"{HOST_STYLE}/data/a.csv?{READ_SAS}"


@pytest.mark.parametrize("permissions", ["rwl", "l", "racwdl"])
def test_a_sas_that_allows_more_or_less_than_reading_is_refused(permissions: str) -> None:
    found = account(password="", sas_token=READ_SAS.replace("sp=rl", f"sp={permissions}"))
    with pytest.raises(ConfigurationError, match="may only be given one that reads") as caught:
        sign_read_url(found, "data", "a.csv", EXPIRES, "2019-07-07")
    assert "abc" not in str(caught.value)


def test_a_sas_whose_permissions_stand_elsewhere_is_refused() -> None:
    found = account(password="", sas_token="sv=2019-07-07&si=policy&se=2026-11-03&sig=abc")
    with pytest.raises(ConfigurationError, match="allows 'an unknown set'"):
        sign_read_url(found, "data", "a.csv", EXPIRES, "2019-07-07")


@pytest.mark.parametrize("end", ["&se=2026-11-02T02%3A59%3A59Z", "&se=someday", ""])
def test_a_sas_that_ends_before_the_grant_is_refused(end: str) -> None:
    found = account(password="", sas_token=f"sv=2019-07-07&sp=r&sig=abc{end}")
    with pytest.raises(ConfigurationError, match="ends before the training may"):
        sign_read_url(found, "data", "a.csv", EXPIRES, "2019-07-07")


def test_the_end_of_a_sas_is_known() -> None:
    assert account(password="", sas_token=READ_SAS).sas_expiry == datetime(2026, 11, 3, tzinfo=UTC)
    assert account(password="", sas_token="se=2026-11-03&sig=x").sas_expiry == datetime(2026, 11, 3, tzinfo=UTC)
    assert account().sas_expiry is None


def test_an_expiry_of_another_time_zone_is_signed_in_utc() -> None:
    there = EXPIRES.astimezone(timezone(timedelta(hours=9)))
    assert sign_read_url(account(), "d", "a", there, "2019-07-07") == sign_read_url(
        account(), "d", "a", EXPIRES, "2019-07-07"
    )
