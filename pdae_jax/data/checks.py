"""Data that a fit needs, checked; other data put into the columns of those that trained."""

import dataclasses

import numpy as np

from pdae_jax.cells import StoredCells
from pdae_jax.data.values import check_joins
from pdae_jax.spelling import first_names, nearest_names
from pdae_jax.types import PerturbationData, read_only


def check_training_data(train: PerturbationData, validation: PerturbationData | None) -> None:
    """Raise ``ValueError`` where data lack what a fit needs; it names what is missing."""
    if not isinstance(train, PerturbationData):
        raise TypeError(
            f"train is a {type(train).__name__}, not PerturbationData. Build it with pdae_jax.from_arrays, "
            f"from_frame or from_anndata."
        )
    if train.control not in train.conditions:
        raise ValueError(
            f"No control condition {train.control!r} in the training data; it has {list(train.conditions[:5])}. "
            f"Shifts are measured from the control: do not hold it out."
        )
    if len(train.conditions) < 2:
        raise ValueError("Only the control is in the training data. Pass at least one perturbed condition.")
    if validation is None:
        return
    check_same_columns(validation, train, "validation")
    known = {label.tobytes() for label in train.labels + 0.0}  # without minus zeros
    labels = zip(validation.conditions, validation.labels + 0.0, strict=True)
    shared = [name for name, label in labels if label.tobytes() in known]
    if shared or validation.num_conditions == 0:
        raise ValueError(
            f"Validation conditions must be unseen and at least one; shared with the training data: {shared}. "
            f"Make the two sets with pdae_jax.hold_out."
        )


def aligned(data: PerturbationData, train: PerturbationData, name: str) -> PerturbationData:
    """Put the cells in the columns of the training data: features and perturbations by name, in its order.

    Further features are left out. Perturbations that no condition of `data` has need not be known.

    Raises:
        ValueError: a feature of the training data is missing, or cells are on another scale than those of training.
        KeyError: a condition has a perturbation that was not trained on.
    """
    if data.reading is not train.reading:
        check_joins(data.x, data.features, data.reading, train, f"the {name} data")
    if data.features == train.features and data.perturbations == train.perturbations:
        return data
    missing = [feature for feature in train.features if feature not in set(data.features)]
    if missing:
        raise ValueError(
            f"The {name} data lack {len(missing)} of the {train.num_features} training features: "
            f"{first_names(missing)}; they have {first_names(data.features)}. Pass data with all of them."
        )
    used = [p for p, column in zip(data.perturbations, data.labels.T, strict=True) if np.any(column)]
    unknown = [p for p in used if p not in train.perturbations]
    if unknown:
        raise KeyError(
            f"The {name} data have perturbations that were not trained on: {first_names(unknown)}; "
            f"{nearest_names(unknown[0], train.perturbations)}. Leave their conditions out with data.select."
        )
    column = {feature: number for number, feature in enumerate(data.features)}
    labels = np.zeros((data.num_conditions, train.num_perturbations), np.float32)
    for perturbation in used:
        labels[:, train.perturbations.index(perturbation)] = data.labels[:, data.perturbations.index(perturbation)]
    columns = np.array([column[feature] for feature in train.features])
    return dataclasses.replace(
        data,
        x=data.x.with_columns(columns) if isinstance(data.x, StoredCells) else read_only(data.x[:, columns]),
        labels=labels,
        features=train.features,
        perturbations=train.perturbations,
        strata=train.strata,
    )


def check_same_columns(data: PerturbationData, train: PerturbationData, name: str) -> None:
    """Raise ``ValueError`` for data without the features and perturbations of the training data, in order."""
    for kind in ("features", "perturbations"):
        here, there = getattr(data, kind), getattr(train, kind)
        if here != there:
            extra = [n for n in here if n not in there][:5]
            missing = [n for n in there if n not in here][:5]
            detail = f"missing {missing}, unknown {extra}" if missing or extra else "the order differs"
            raise ValueError(
                f"The {name} data do not have the {kind} of the training data: {detail}. "
                f"Build both from one data set with pdae_jax.hold_out."
            )
