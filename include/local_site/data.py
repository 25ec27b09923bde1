"""The training data of the site: scikit-learn's Wisconsin breast-cancer data, as one delivery per month.

569 patients with 30 measurements each and a diagnosis: the kind of data that regulation keeps where it is.
"""

from __future__ import annotations

import csv
import io
import json
import random

TARGET = "diagnosis"
MONTHS = tuple(f"2025-{month:02d}" for month in (11, 12)) + tuple(f"2026-{month:02d}" for month in range(1, 11))

# How rows are dealt out must never change: it decides the hash of every blob.
_SEED = 569


def blobs() -> dict[str, bytes]:
    """Return the content of each blob by its name: a CSV file per month and the schema they have in common."""
    from sklearn.datasets import load_breast_cancer

    data = load_breast_cancer()
    columns = [str(name).replace(" ", "_") for name in data.feature_names]
    rows = [[*map(float, features), int(target)] for features, target in zip(data.data, data.target, strict=True)]
    random.Random(_SEED).shuffle(rows)  # noqa: S311 - the order has to be the same every time, not a secret
    months = {f"{month}.csv": _csv(columns, rows[number :: len(MONTHS)]) for number, month in enumerate(MONTHS)}
    return months | {"schema.json": _schema(columns)}


def _csv(columns: list[str], rows: list[list[float | int]]) -> bytes:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow([*columns, TARGET])
    writer.writerows(rows)
    return text.getvalue().encode()


def _schema(columns: list[str]) -> bytes:
    fields = [{"name": name, "type": "number"} for name in columns] + [{"name": TARGET, "type": "integer"}]
    return json.dumps({"fields": fields, "missingValues": [""]}, indent=2).encode()
