"""Trains a classifier of breast tumours, and leaves it as a portable ONNX model.

A standardised logistic regression: how strongly it is regularised is chosen by cross-validation, one candidate after the
other, each reported as it is done. Its model file holds a mean, a scale and a weight of each feature, and nothing about a single patient.

Parameters (all optional): ``seed``, ``test_fraction``, ``folds``, ``max_iterations``.
"""

from __future__ import annotations

import csv
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, get_type_hints

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, f1_score, log_loss, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_validate, train_test_split
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]  # it has no types

import edge_context  # type: ignore[import-not-found]  # the runner puts it on the path; see README.md for a laptop
import portable_model  # type: ignore[import-not-found]  # it lies beside this file in a run

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_MEASURES = [
    "radius",
    "texture",
    "perimeter",
    "area",
    "smoothness",
    "compactness",
    "concavity",
    "concave_points",
    "symmetry",
    "fractal_dimension",
]
FEATURES = tuple(
    [f"mean_{name}" for name in _MEASURES]
    + [f"{name}_error" for name in _MEASURES]
    + [f"worst_{name}" for name in _MEASURES]
)
TARGET = "diagnosis"
STRENGTHS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0)
OPSET = 17


@dataclass(frozen=True)
class Settings:
    """The run's parameters.

    :param seed: of every random choice.
    :param test_fraction: the part of the rows that is held out of training.
    :param folds: of the cross-validation.
    :param max_iterations: of the solver.
    """

    seed: int = 20260101
    test_fraction: float = 0.25
    folds: int = 5
    max_iterations: int = 2000


def read_settings(parameters: dict[str, Any]) -> Settings:
    """Make settings of the run's parameters.

    :raises ValueError: when a parameter is unknown, or not a number.
    """
    kinds = get_type_hints(Settings)
    if unknown := sorted(set(parameters) - set(kinds)):
        raise ValueError(f"train.py does not know the parameters {unknown}; known are {sorted(kinds)}.")
    return Settings(**{name: kinds[name](value) for name, value in parameters.items()})


def read_rows(files: Sequence[Path]) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Read all files into features and target.

    :raises ValueError: naming the file whose header or contents are not as expected; no value is repeated.
    """
    tables = []
    for path in files:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header = tuple(next(csv.reader(file), ()))
            _check_header(path, header)
            try:
                tables.append(np.loadtxt(file, delimiter=",", ndmin=2, dtype=np.float64, quotechar='"'))
            except ValueError:
                # From None: the original names the value that is not a number.
                raise ValueError(f"{path.name} has a value that is not a number, or a row of another length.") from None
    rows = np.concatenate([table for table in tables if table.size])
    if not np.isfinite(rows).all() or not np.isin(rows[:, -1], (0, 1)).all():
        raise ValueError(f"The data has missing values, or a {TARGET} that is neither 0 nor 1.")
    return rows[:, :-1], rows[:, -1].astype(np.int64)


def _check_header(path: Path, header: tuple[str, ...]) -> None:
    expected = (*FEATURES, TARGET)
    if header != expected:
        missing, unknown = sorted(set(expected) - set(header)), sorted(set(header) - set(expected))
        raise ValueError(
            f"{path.name} has another header: missing {missing}, unexpected {unknown}, or in another order."
        )


def make_model(strength: float, settings: Settings) -> Pipeline:
    """Return an untrained model.

    :param strength: the inverse of the regularisation's strength.
    """
    return make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=settings.max_iterations))


def choose_strength(features: np.ndarray[Any, Any], target: np.ndarray[Any, Any], settings: Settings) -> float:
    """Cross-validate each candidate, report it, and return the one with the smallest log loss."""
    folds = StratifiedKFold(settings.folds, shuffle=True, random_state=settings.seed)
    losses = []
    for step, strength in enumerate(STRENGTHS):
        scores = cross_validate(
            make_model(strength, settings), features, target, cv=folds, scoring=("neg_log_loss", "roc_auc", "accuracy")
        )
        losses.append(-float(scores["test_neg_log_loss"].mean()))
        edge_context.log_metric("cv_log_loss", losses[-1], step)
        edge_context.log_metric("cv_roc_auc", scores["test_roc_auc"].mean(), step)
        edge_context.log_metric("cv_accuracy", scores["test_accuracy"].mean(), step)
        edge_context.report_progress((step + 1) / (len(STRENGTHS) + 1), f"cross-validated C={strength}")
    return STRENGTHS[int(np.argmin(losses))]


def report_hold_out(model: Pipeline, features: np.ndarray[Any, Any], target: np.ndarray[Any, Any]) -> None:
    """Report how the model does on rows that it has not seen."""
    probability = model.predict_proba(features)[:, 1]
    label = model.predict(features)
    edge_context.log_metric("accuracy", accuracy_score(target, label))
    edge_context.log_metric("roc_auc", roc_auc_score(target, probability))
    edge_context.log_metric("f1", f1_score(target, label))
    edge_context.log_metric("log_loss", log_loss(target, probability))


def to_onnx(model: Pipeline) -> bytes:
    """Return the model as ONNX: input ``features`` float32 [None, 30], outputs ``label`` and ``probabilities``.

    The features' names stand in the model's metadata, so that whoever serves it can take columns by name. The same model
    always gives the same bytes.
    """
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType

    onnx_model = convert_sklearn(
        model,
        name="breast_cancer",
        initial_types=[("features", FloatTensorType([None, len(FEATURES)]))],
        options={"zipmap": False},
        target_opset={"": OPSET, "ai.onnx.ml": 3},
    )
    for key, value in {"columns": json.dumps(FEATURES), "target": TARGET}.items():
        entry = onnx_model.metadata_props.add()
        entry.key, entry.value = key, value
    content: bytes = onnx_model.SerializeToString(deterministic=True)
    return content


def check_onnx(content: bytes, model: Pipeline, features: np.ndarray[Any, Any]) -> float:
    """Compare the ONNX model's answers with the trained model's, and return the largest difference of a probability.

    :raises ValueError: when they differ by more than single precision explains.
    """
    import onnxruntime

    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    single = features.astype(np.float32)
    label, probabilities = session.run(["label", "probabilities"], {"features": single})
    expected = model.predict_proba(single)
    difference = float(np.abs(probabilities - expected).max())
    clear = np.abs(expected[:, 1] - 0.5) > 1e-3
    if difference > 1e-3 or (label[clear] != model.predict(single)[clear]).any():
        raise ValueError(f"The ONNX model answers differently from the trained one (by up to {difference:.2g}).")
    return difference


def main() -> None:
    """Train, report, and hand the model on."""
    settings = read_settings(edge_context.parameters())
    features, target = read_rows(edge_context.data_files())
    train_x, test_x, train_y, test_y = train_test_split(
        features, target, test_size=settings.test_fraction, random_state=settings.seed, stratify=target
    )
    edge_context.log_metric("n_train", len(train_y))
    edge_context.log_metric("n_test", len(test_y))
    edge_context.log_text(f"{len(target)} rows, {features.shape[1]} features")
    strength = choose_strength(train_x, train_y, settings)
    model = make_model(strength, settings).fit(train_x, train_y)
    edge_context.log_metric("c", strength)
    report_hold_out(model, test_x, test_y)
    content = to_onnx(model)
    difference = check_onnx(content, model, test_x)
    edge_context.save_model(content, "model.onnx")
    edge_context.save_probe(portable_model.make_probe(content, train_x, settings.seed))
    edge_context.report_progress(1.0, f"ONNX answers as scikit-learn does, to {difference:.1e}")


if __name__ == "__main__":
    # The matrices are so small that threads cost more than they bring.
    with threadpool_limits(limits=1):
        main()
