"""What projects share: scikit-learn's models as ONNX, and probes for them. It lies beside ``train.py`` in a run's snapshot.

::

    import portable_model

    content = portable_model.to_onnx(model, "wine", columns=13)
    edge_context.save_model(content, "model.onnx")
    edge_context.save_probe(portable_model.make_probe(content, features, seed=1))
"""

from __future__ import annotations

from typing import Any

PROBES = 8
OPSETS = {"": 17, "ai.onnx.ml": 3}
# How far the likeliest two classes are apart, so that a label does not hang on the last digit.
CLEAR = 0.02


def to_onnx(model: Any, name: str, columns: int) -> bytes:
    """Return a model as ONNX: input ``features``, float32, any number of rows of this width. The same model gives the same bytes.

    :param model: a trained estimator of scikit-learn.
    :param name: the graph's name.
    :param columns: how many features a row has.
    """
    from skl2onnx import convert_sklearn
    from skl2onnx.common.data_types import FloatTensorType
    from sklearn.base import is_classifier

    converted = convert_sklearn(
        model,
        name=name,
        initial_types=[("features", FloatTensorType([None, columns]))],
        target_opset=OPSETS,
        options={"zipmap": False} if is_classifier(model) else None,
    )
    content: bytes = converted.SerializeToString(deterministic=True)
    return content


def make_probe(content: bytes, features: Any, seed: int) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """Return requests that were made up, and what the ONNX model answers to them, in the words of ``serving/score.py``.

    The numbers are spread around each column's mean, of which, as of its spread, two digits are taken: they say no more than that.

    :param content: the model; its only output, or its last of two after the label, is one tensor of numbers.
    :param features: the rows that it was trained on.
    :param seed: of what is made up.
    """
    import numpy as np
    import onnxruntime

    mean, spread = _rounded(features.mean(axis=0), 2), _rounded(features.std(axis=0), 2)
    noise = np.random.default_rng(seed).standard_normal((10 * PROBES, features.shape[1]))
    # Near the mean, where a model is in doubt: far from it, many models give the same answers.
    rows = _rounded(mean + 0.5 * spread * noise, 5)
    session = onnxruntime.InferenceSession(content, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: rows.astype(np.float32)})
    answers = _of_classifier(*found) if len(found) == 2 else _of_others(*found)
    cases = [({"data": [row.tolist()]}, answer) for row, answer in zip(rows, answers, strict=True) if answer]
    return cases[:PROBES]


def _of_classifier(labels: Any, probabilities: Any) -> list[dict[str, Any]]:
    """Return the answer to each row, and nothing where the label is in doubt."""
    answers = []
    for label, likely in zip(labels.tolist(), probabilities.tolist(), strict=True):
        second, first = sorted(likely)[-2:]
        answer = {"labels": [label], "probabilities": [[round(one, 6) for one in likely]]}
        answers.append(answer if first - second > CLEAR else {})
    return answers


def _of_others(values: Any) -> list[dict[str, Any]]:
    return [{"values": [float(f"{one:.7g}")]} for one in values.reshape(-1)]


def _rounded(numbers: Any, digits: int) -> Any:
    """Return numbers with so many digits, wherever their points are."""
    import numpy as np

    return np.vectorize(lambda one: float(f"{one:.{digits}g}"))(numbers)
