"""Predicts how diabetes progresses within a year from ten measurements, with ridge regression.

The data are CSV files with a header, numbers only, and ``progression`` as the last column.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.linear_model import Ridge
from sklearn.metrics import mean_absolute_error, r2_score
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

import edge_context  # type: ignore[import-not-found]  # the runner puts it on the path
import portable_model  # type: ignore[import-not-found]  # it lies beside this file in a run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TARGET = "progression"
SEED = 20260101


def read_rows(files: Sequence[Path]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Read all files into features and target."""
    rows = np.concatenate([np.loadtxt(path, delimiter=",", skiprows=1, ndmin=2) for path in files])
    return rows[:, :-1], rows[:, -1]


def main() -> None:
    """Train, report, and hand the model on."""
    features, target = read_rows(edge_context.data_files())
    train_x, test_x, train_y, test_y = train_test_split(features, target, test_size=0.25, random_state=SEED)
    edge_context.log_metric("n_train", len(train_y))
    edge_context.log_text(f"{len(target)} rows, {features.shape[1]} features")
    model = make_pipeline(StandardScaler(), Ridge(alpha=1.0))
    model.fit(train_x, train_y)
    predicted = model.predict(test_x)
    edge_context.log_metric("mean_absolute_error", mean_absolute_error(test_y, predicted))
    edge_context.log_metric("r2", r2_score(test_y, predicted))
    content = portable_model.to_onnx(model, "diabetes", features.shape[1])
    edge_context.save_model(content, "model.onnx")
    edge_context.save_probe(portable_model.make_probe(content, train_x, SEED))
    edge_context.report_progress(1.0, "done")


if __name__ == "__main__":
    # The matrices are so small that threads cost more than they bring.
    with threadpool_limits(limits=1):
        main()
