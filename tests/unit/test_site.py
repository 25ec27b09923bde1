"""A mistake in a site file is told with file, field, what was found and what is expected."""

import copy
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge_training.exceptions import ConfigurationError
from edge_training.site import check_sites, load_site, load_sites, parse_duration

LOCAL = Path(__file__).parents[2] / "include" / "sites" / "local.yaml"


def write(folder: Path, content: object, name: str = "local.yaml") -> Path:
    path = folder / name
    path.write_text(content if isinstance(content, str) else yaml.safe_dump(content))
    return path


def changed(*keys: str, to: object) -> dict[str, Any]:
    content: dict[str, Any] = copy.deepcopy(yaml.safe_load(LOCAL.read_text()))
    place = content
    for key in keys[:-1]:
        place = place[key]
    place[keys[-1]] = to
    return content


def mistake(path: Path) -> str:
    with pytest.raises(ConfigurationError) as error:
        load_site(path)
    return str(error.value)


def test_the_local_site_is_valid_and_reads_units() -> None:
    site = load_site(LOCAL)
    assert site.dag_id == "edge_training_local"
    assert site.data.minimum_size == 50 * 1024
    assert site.data.maximum_age == timedelta(days=45)


@pytest.mark.parametrize(
    ("keys", "value", "said"),
    [
        (("data", "minimum_blobs"), -1, "data.minimum_blobs: found -1, expected more than 0"),
        (("data", "minimum_size"), "lots", "data.minimum_size: found 'lots', expected a size such as"),
        (("data", "maximum_age"), "soon", "data.maximum_age: found 'soon', expected a duration such as"),
        (("data", "maximum_age"), "0d", "data.maximum_age: found '0d', expected"),
        (("data", "container"), "Training_Data", "data.container: found 'Training_Data', expected text of the form"),
        (("compute", "name"), "a_b", "compute.name: found 'a_b', expected text of the form"),
        (("compute", "port"), 70000, "compute.port: found 70000, expected 65535 or less"),
        (("compute", "needs", "docker"), "maybe", "compute.needs.docker: found 'maybe', expected true or false"),
        (("training", "project"), "../elsewhere", "training.project: found '../elsewhere', expected text"),
        (("model", "minimum_metrics", "auc"), ".nan", "model.minimum_metrics.auc: found '.nan', expected a number"),
        (("image", "base"), "python", "image.base: found 'python', expected text of the form"),
        (("schedule",), "tomorrow", "schedule: found 'tomorrow', expected a cron expression"),
        (("retries",), "x", "retries: found 'x', expected a whole number"),
        (("training",), None, "training: found None, expected fields with values"),
    ],
)
def test_a_wrong_value_names_file_field_found_and_expected(
    tmp_path: Path, keys: tuple[str, ...], value: object, said: str
) -> None:
    assert mistake(write(tmp_path, changed(*keys, to=value))).startswith(f"local.yaml: {said}")


def test_a_missing_field_and_an_unknown_one_are_named_in_one_go(tmp_path: Path) -> None:
    content = changed("data", "maxage", to=3)
    del content["model"]["name"]
    said = mistake(write(tmp_path, content))
    assert "local.yaml: model.name: found nothing, expected a value." in said
    assert "local.yaml: data.maxage: unknown field, expected one of connection, container," in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: [", "line 1, column 5: not valid YAML"),
        ("", "found None, expected fields"),
        ("- 1", "found [1], expected fields"),
    ],
)
def test_a_file_that_is_no_site_is_named(tmp_path: Path, text: str, said: str) -> None:
    assert said in mistake(write(tmp_path, text))


def test_the_name_must_be_the_files_own(tmp_path: Path) -> None:
    path = write(tmp_path, LOCAL.read_text(), "other.yaml")
    assert "other.yaml: name: found 'local', expected 'other'" in mistake(path)


def test_sites_without_a_mistake_are_read_beside_the_mistakes_of_the_others(tmp_path: Path) -> None:
    write(tmp_path, "a: [", "broken.yaml")
    write(tmp_path, LOCAL.read_text())
    sites, mistakes = load_sites(tmp_path)
    assert [site.name for site in sites] == ["local"]
    assert [str(mistake).partition(",")[0] for mistake in mistakes] == ["broken.yaml"]
    with pytest.raises(ConfigurationError, match=r"broken\.yaml, line 1"):
        check_sites(tmp_path)


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("1h30m", 5400), ("1.5h", 5400), ("2 d", 172800)])
def test_durations_are_read(text: str, seconds: float) -> None:
    assert parse_duration(text) == timedelta(seconds=seconds)
