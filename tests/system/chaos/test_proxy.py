"""The proxy passes on what it is not asked to disturb, and disturbs what it is asked to, as often as asked."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import pytest
import requests

from tests.running_site import free_ports
from tests.system.chaos.proxy import Proxy, Wish

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.running_site import RunningSite

PATH = "/v2/proxied/blobs/uploads/"


@pytest.fixture
def proxy(local_site: RunningSite) -> Iterator[Proxy]:
    (port,) = free_ports(1)
    proxy = Proxy(port, local_site.settings.registry_port, local_site.settings.tls)
    yield proxy
    proxy.close()


@pytest.fixture
def session(local_site: RunningSite) -> Iterator[requests.Session]:
    with requests.Session() as session:
        env = local_site.env
        session.trust_env, session.verify = False, env["LOCAL_SITE_CA"]
        session.auth = (env["LOCAL_SITE_REGISTRY_USER"], env["LOCAL_SITE_REGISTRY_PASSWORD"])
        yield session


def begin(proxy: Proxy, session: requests.Session) -> requests.Response:
    return session.post(f"https://127.0.0.1:{proxy.port}{PATH}", timeout=30)


def uploads(local_site: RunningSite) -> int:
    folder = local_site.settings.state / "registry/data/docker/registry/v2/repositories/proxied/_uploads"
    return len(list(folder.glob("*"))) if folder.exists() else 0


def test_what_is_not_disturbed_passes_unchanged(proxy: Proxy, session: requests.Session) -> None:
    answer = begin(proxy, session)
    assert answer.status_code == 202
    assert answer.headers["Location"].startswith(f"https://127.0.0.1:{proxy.port}{PATH}")
    assert proxy.requests == [("POST", PATH)]


def test_a_status_is_answered_as_often_as_asked_and_nothing_is_done(
    proxy: Proxy, session: requests.Session, local_site: RunningSite
) -> None:
    before = uploads(local_site)
    wish = Wish("status", "POST", "/uploads/$", calls=2, status=429, retry_after=3)
    proxy.wish(wish)
    answers = [begin(proxy, session) for _ in range(2)]
    assert [(one.status_code, one.headers["Retry-After"]) for one in answers] == [(429, "3"), (429, "3")]
    assert wish.calls == 0
    assert uploads(local_site) == before
    assert begin(proxy, session).status_code == 202


@pytest.mark.parametrize(("kind", "done"), [("reset", 0), ("lost_response", 1)])
def test_a_connection_is_cut_before_or_after_the_work_is_done(
    proxy: Proxy, session: requests.Session, local_site: RunningSite, kind: str, done: int
) -> None:
    before = uploads(local_site)
    proxy.wish(Wish(kind, "POST", "/uploads/$", calls=1))
    with pytest.raises(requests.ConnectionError):
        begin(proxy, session)
    assert uploads(local_site) - before == done
    assert begin(proxy, session).status_code == 202


def test_a_wish_that_is_taken_back_is_not_met(proxy: Proxy, session: requests.Session) -> None:
    wish = Wish("reset", "POST", "/uploads/$", calls=1)
    proxy.wish(wish)
    proxy.forget(wish)
    assert begin(proxy, session).status_code == 202
    assert wish.calls == 1


def test_a_service_that_is_down_looks_so(local_site: RunningSite, session: requests.Session) -> None:
    port, nobody = free_ports(2)
    proxy = Proxy(port, nobody, local_site.settings.tls)
    with pytest.raises(requests.ConnectionError):
        begin(proxy, session)
    proxy.close()


def test_how_long_nothing_was_written_is_known(proxy: Proxy, session: requests.Session) -> None:
    session.get(f"https://127.0.0.1:{proxy.port}/v2/", timeout=30)
    assert proxy.seconds_since_write == math.inf
    begin(proxy, session)
    assert 0 < proxy.seconds_since_write < 60
    with proxy.counting("PUT"):
        assert proxy.seconds_since_write == 0
