"""Predictions and data as AnnData."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from pdae_jax.data.checks import aligned
from pdae_jax.spelling import first_names
from pdae_jax.types import PerturbationData
from pdae_jax.view.lattice import to_counts


def to_anndata(source: Any) -> Any:
    """Make an AnnData of predicted samples, or of data: ready for ``write_h5ad`` and for scanpy.

    ``obs`` has the categorical columns ``condition`` and ``source``. ``uns["predictions"]`` is a dict of columns with
    one entry per prediction (``condition``, ``source``, ``identified``, ``supported``, ``assumption_tested``,
    ``dose_status``, ``level``, ``summary`` as strings, the numbers of the verdict as floats): ``pandas.DataFrame``
    makes it a table. ``uns["labels"]`` holds their labels. For data, ``uns["perturbation_data"]`` holds conditions and
    labels.

    Args:
        source: a prediction, a list of predictions, or `PerturbationData`.

    Raises:
        ValueError: no prediction, or predictions of different features.
        TypeError: something else.
    """
    import anndata
    import pandas as pd

    if isinstance(source, PerturbationData):
        x, features = source.x, source.features
        names = np.array(source.conditions, dtype=object)[source.condition_index]
        origins = np.full(len(names), "data", dtype=object)
        uns: dict[str, Any] = {
            "perturbation_data": {
                "conditions": np.array(source.conditions, dtype=object),
                "labels": source.labels.copy(),
                "perturbations": np.array(source.perturbations, dtype=object),
                "control": source.control,
                "separator": source.separator,
            }
        }
    else:
        predictions = _check_predictions([source] if hasattr(source, "samples") else source)
        x, features = np.concatenate([each.samples for each in predictions]), predictions[0].features
        lengths = [len(each.samples) for each in predictions]
        names = np.repeat(np.array([each.condition for each in predictions], dtype=object), lengths)
        origins = np.repeat(np.array([str(each.source) for each in predictions], dtype=object), lengths)
        rows = pd.DataFrame([_describe(each) for each in predictions])
        uns = {
            "predictions": {str(name): rows[name].to_numpy() for name in rows},
            "labels": np.stack([np.asarray(each.label, dtype=np.float32) for each in predictions]),
        }
    return anndata.AnnData(
        X=np.array(x, dtype=np.float32),  # a copy: those of the data are read-only, and what is exported is the user's
        obs=pd.DataFrame(
            {"condition": pd.Categorical(names), "source": pd.Categorical(origins)},
            index=pd.Index([str(row) for row in range(len(names))]),
        ),
        var=pd.DataFrame(index=pd.Index([str(name) for name in features])),
        uns=uns,
    )


def evaluation_pair(train: PerturbationData, test: PerturbationData, predictions: Any) -> tuple[Any, Any]:
    """Make the pair of AnnData that evaluation packages of the field read: predicted and measured cells.

    Both have the control cells of the training data and, in the same order, the predicted conditions; ``obs`` has the
    column ``perturbation``. cell-eval2 takes them with ``pert_col="perturbation"`` and the control's name, scPertEval
    with ``--perturbation-key perturbation --control-label <the control's name>``. Of counts ``layers["counts"]`` has
    whole numbers.

    Args:
        train: whose control cells are used.
        test: measured cells of held-out conditions.
        predictions: of `predict`, one for each condition.

    Returns:
        The predicted, and the measured AnnData.

    Raises:
        KeyError: a predicted condition that was not measured.
        ValueError: no prediction, predictions of other features, or two of one condition.
    """
    found = _check_predictions([predictions] if hasattr(predictions, "samples") else predictions)
    test = aligned(test, train, "test")
    if tuple(found[0].features) != train.features:
        raise ValueError(
            f"The predictions have {first_names(found[0].features)}, and the training data other features."
        )
    names = [test.conditions[test.index(each.label)] for each in found]
    if len(set(names)) < len(names):
        raise ValueError(f"Two predictions of one condition: {first_names(names)}. Pass one for each.")
    control = train.rows[train.index(train.control)]
    own = train.x[control], train.sizes(control)
    predicted, measured = [own], [own]
    for each, name in zip(found, names, strict=True):
        rows = test.rows[test.index(name)]
        predicted.append((each.samples, each.size_factors))
        measured.append((test.x[rows], test.sizes(rows)))
    conditions = [train.control, *names]
    return _side(conditions, predicted, train.features), _side(conditions, measured, train.features)


def _side(conditions: list[str], blocks: list[tuple[np.ndarray, np.ndarray | None]], features: Sequence[str]) -> Any:
    """Make one AnnData of blocks of cells, a condition each."""
    import anndata
    import pandas as pd

    x = np.concatenate([block for block, _ in blocks]).astype(np.float32)
    names = np.repeat(np.array(conditions, dtype=object), [len(block) for block, _ in blocks])
    layers = {}
    if all(sizes is not None for _, sizes in blocks):
        sizes = np.concatenate([sizes for _, sizes in blocks if sizes is not None])
        layers["counts"] = to_counts(np.random.default_rng(0), x, sizes).astype(np.float32)
    return anndata.AnnData(
        X=x,
        obs=pd.DataFrame(
            {"perturbation": pd.Categorical(names, categories=conditions)},
            index=pd.Index([str(row) for row in range(len(x))]),
        ),
        var=pd.DataFrame(index=pd.Index([str(name) for name in features])),
        layers=layers,
    )


def _check_predictions(predictions: Any) -> Sequence[Any]:
    if not isinstance(predictions, list | tuple):
        raise TypeError(f"source is a {type(predictions).__name__}. Pass what predict returned, or PerturbationData.")
    if not predictions:
        raise ValueError("No prediction to write: the list is empty. Pass what predict returned.")
    for each in predictions:
        if not all(hasattr(each, name) for name in ("samples", "features", "condition", "label", "source")):
            raise TypeError(f"{type(each).__name__} is no prediction. Pass what predict returned, or PerturbationData.")
        if tuple(each.features) != tuple(predictions[0].features):
            raise ValueError(
                f"Predictions of {predictions[0].condition!r} and {each.condition!r} have different features: "
                f"{first_names(predictions[0].features)} and {first_names(each.features)}. Write them one by one."
            )
    return predictions


def _describe(prediction: Any) -> dict[str, str | float]:
    """Describe the verdict of one prediction in strings and floats, which every h5ad reader can hold."""
    verdict: Any = getattr(prediction, "verdict", None)
    row: dict[str, str | float] = {"condition": prediction.condition, "source": str(prediction.source)}
    for name in ("identified", "supported", "assumption_tested", "dose_status", "level", "summary"):
        value = getattr(verdict, name, None)
        value = value() if callable(value) else value
        row[name] = "unknown" if value is None else str(value)
    values = verdict._asdict() if hasattr(verdict, "_asdict") else getattr(verdict, "__dict__", {})
    for name, value in values.items():
        if name not in row and isinstance(value, int | float | np.number) and not isinstance(value, bool):
            row[name] = float(value)
    return row
