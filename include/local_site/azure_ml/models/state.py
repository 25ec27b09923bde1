"""Assets and model versions. A version number, once given, is never given again."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from local_site.azure_ml.clock import utc_text
from local_site.azure_ml.errors import BadRequestError, NotFoundError
from local_site.azure_ml.web import field_of, texts_of

if TYPE_CHECKING:
    from local_site.azure_ml.artifacts.state import Artifacts
    from local_site.azure_ml.database import Database, Row

SCHEMA = """
create table if not exists assets (
    asset_id text primary key, name text not null, artifacts text not null, run_id text, created text not null
) without rowid;
create table if not exists model_versions (name text primary key, last integer not null) without rowid;
create table if not exists models (
    model_id text primary key, name text not null, version integer not null, url text not null,
    run_id text, experiment text, tags text not null, properties text not null, facts text not null,
    created text not null, modified text not null, unique (name, version)
) without rowid;
create index if not exists models_of_run on models (run_id);
"""
FACTS = (
    "mimeType",
    "description",
    "framework",
    "frameworkVersion",
    "unpack",
    "sampleInputData",
    "sampleOutputData",
    "resourceRequirements",
    "parentModelId",
)
TEXT_FACTS = ("mimeType", "description", "framework", "frameworkVersion", "parentModelId")
HAVING = {
    "tags": "exists (select 1 from json_each(tags) where key = ? and (not ? or value = ?))",
    "properties": "exists (select 1 from json_each(properties) where key = ? and (not ? or value = ?))",
}
PATCHED = {"/kvTags": "tags", "/properties": "properties"}


class Models:
    """The model registry."""

    def __init__(self, database: Database, artifacts: Artifacts) -> None:
        self._database = database
        self._artifacts = artifacts
        database.create(SCHEMA)

    def add_asset(self, name: str, run_id: str, artifacts: list[dict[str, Any]]) -> str:
        """Keep an asset, a name for one or more artifacts or folders of them.

        :return: its id.
        :raises BadRequestError: when there are no files behind it.
        """
        for item in artifacts:
            self._check_files(field_of(item, "prefix", str, "") or field_of(item, "id", str))
        asset_id = uuid.uuid4().hex
        with self._database.write() as connection:
            values = (asset_id, name, json.dumps(artifacts), run_id or None, utc_text())
            connection.execute("insert into assets values (?, ?, ?, ?, ?)", values)
        return asset_id

    def asset(self, asset_id: str) -> Row:
        """Return an asset.

        :raises NotFoundError: when there is none.
        """
        row = self._database.one("select * from assets where asset_id = ?", asset_id)
        if row is None:
            raise NotFoundError(f"Asset {asset_id} was not found.", code="AssetNotFound")
        return row

    def register(self, name: str, body: dict[str, Any]) -> Row:
        """Make the next version of a model.

        :param body: as the SDK sends it.
        :raises BadRequestError: when it names an asset that there is not.
        """
        url = field_of(body, "url", str)
        try:
            self.asset(url.removeprefix("aml://asset/"))
        except NotFoundError as error:
            raise BadRequestError(f"The model's url {url} names no asset.") from error
        for key in TEXT_FACTS:
            field_of(body, key, str, "")
        facts = {key: body.get(key) for key in FACTS}
        now = utc_text()
        with self._database.write() as connection:
            connection.execute("insert or ignore into model_versions values (?, 0)", (name,))
            connection.execute("update model_versions set last = last + 1 where name = ?", (name,))
            version = connection.execute("select last from model_versions where name = ?", (name,)).fetchone()["last"]
            connection.execute(
                "insert into models values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    f"{name}:{version}",
                    name,
                    version,
                    url,
                    field_of(body, "runId", str, "") or None,
                    field_of(body, "experimentName", str, "") or None,
                    json.dumps(texts_of(body, "kvTags")),
                    json.dumps(texts_of(body, "properties")),
                    json.dumps(facts),
                    now,
                    now,
                ),
            )
        return self.get(f"{name}:{version}")

    def get(self, model_id: str) -> Row:
        """Return a model version.

        :param model_id: ``name:version``.
        :raises NotFoundError: when there is none.
        """
        row = self._database.one("select * from models where model_id = ?", model_id)
        if row is None:
            raise NotFoundError(f"Model with id {model_id} was not found.", code="ModelNotFound")
        return row

    def delete(self, model_id: str) -> None:
        """Forget a model version; its files stay with the run."""
        self.get(model_id)
        with self._database.write() as connection:
            connection.execute("delete from models where model_id = ?", (model_id,))

    def patch(self, model_id: str, changes: list[dict[str, Any]]) -> Row:
        """Apply a JSON patch to a version's tags, properties or description.

        :raises BadRequestError: when it touches anything else.
        """
        row = self.get(model_id)
        kept = {"tags": row["tags"], "properties": row["properties"], "facts": row["facts"]}
        for change in changes:
            path, operation = field_of(change, "path", str), field_of(change, "op", str)
            if operation not in {"add", "replace"} or path not in {*PATCHED, "/description"}:
                raise BadRequestError(f"A model cannot be changed by {operation} of {path}.")
            if path in PATCHED:
                kept[PATCHED[path]] = json.dumps(texts_of({"value": change.get("value")}, "value"))
            else:
                description = field_of(change, "value", str, "")
                kept["facts"] = json.dumps(json.loads(kept["facts"]) | {"description": description})
        with self._database.write() as connection:
            connection.execute(
                "update models set tags = :tags, properties = :properties, facts = :facts, modified = :now"
                " where model_id = :model_id",
                {**kept, "now": utc_text(), "model_id": model_id},
            )
        return self.get(model_id)

    def query(self, query: dict[str, str]) -> list[Row]:
        """Return the versions that match, newest first.

        :param query: ``name``, ``runId``, ``tags`` and ``properties`` (``key`` or ``key=value``, separated by commas),
            ``framework``, ``latestVersionOnly``.
        """
        conditions: list[str] = ["true"]
        values: list[Any] = []
        for key, column in (("name", "name"), ("runId", "run_id")):
            if query.get(key):
                conditions.append(f"{column} = ?")
                values.append(query[key])
        if query.get("framework"):
            conditions.append("json_extract(facts, '$.framework') = ?")
            values.append(query["framework"])
        for column, having in HAVING.items():
            for wanted in filter(None, query.get(column, "").split(",")):
                name, equals, value = wanted.partition("=")
                conditions.append(having)
                values += [name, bool(equals), value]
        matching = f"select * from models where {' and '.join(conditions)}"  # noqa: S608  # made of fixed words, the values are bound
        if query.get("latestVersionOnly", "").lower() == "true":
            matching += " and version = (select max(version) from models as other where other.name = models.name)"
        return self._database.all(f"{matching} order by created desc, version desc", *values)

    def _check_files(self, prefix: str) -> None:
        origin, _, rest = prefix.partition("/")
        container, _, path = rest.partition("/")
        if not self._artifacts.below(origin, container, path):
            raise BadRequestError(f"There are no files at {prefix}; upload them before the model is registered.")
