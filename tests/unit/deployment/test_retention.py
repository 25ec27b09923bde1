"""What is removed, and what never is."""

from __future__ import annotations

from typing import Any

from edge_training.deployment.retention import plan_removal


def digest(number: int) -> str:
    return f"sha256:{number:064x}"


def plan(tags: dict[str, str], versions: range = range(0), **changes: Any) -> Any:
    settings: dict[str, Any] = {"deployed": set(), "deployed_versions": set(), "keep_images": 2, "keep_versions": 2}
    settings.update(changes)
    return plan_removal(tags, versions, settings.pop("deployed"), settings.pop("deployed_versions"), **settings)


TAGS = {f"v{number}": digest(number) for number in range(1, 13)}


def test_the_newest_by_number_stay() -> None:
    found = plan(TAGS)
    assert set(found.images) == {digest(number) for number in range(1, 11)}
    assert found.kept_images == 2


def test_what_is_deployed_stays_however_old() -> None:
    found = plan(TAGS, range(1, 13), deployed={digest(3)}, deployed_versions={1})
    assert digest(3) not in found.images
    # Versions 11 and 12 are the newest, 3 is that of an image that stays, 1 is deployed.
    assert found.versions == (2, 4, 5, 6, 7, 8, 9, 10)


def test_an_image_with_somebody_s_own_tag_stays() -> None:
    found = plan({**TAGS, "production": digest(1), "latest": digest(2)})
    assert not {digest(1), digest(2)} & set(found.images)


def test_an_image_with_an_older_and_a_newer_tag_counts_as_the_newer() -> None:
    found = plan({"v1": digest(1), "v9": digest(1), "v2": digest(2), "v3": digest(3)}, keep_images=1)
    assert set(found.images) == {digest(2), digest(3)}


def test_what_refers_to_an_image_goes_with_it() -> None:
    tags = {**TAGS, f"sha256-{1:064x}": digest(101), f"sha256-{12:064x}": digest(112)}
    assert plan(tags).referrers == {digest(101): f"sha256-{1:064x}"}


def test_nothing_goes_while_there_is_little() -> None:
    found = plan({"v1": digest(1)}, range(1, 2))
    assert (found.images, found.versions) == ({}, ())
