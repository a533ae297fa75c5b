"""Which labels the training labels determine: one singular value decomposition."""

import functools

import numpy as np
from jaxtyping import Float

from pdae_jax.prediction.verdict import Verdict
from pdae_jax.types import PerturbationData

SPAN_TOLERANCE = 1e-4  # of the residual share of a label outside the span; labels are float32


def identified_part(train: PerturbationData, label: Float[np.ndarray, " perturbations"]) -> np.ndarray:
    """Projection of a label onto the span of the training differences, seen from the control.

    A label that lies in the span is returned as it is, and rounding is taken off others: the gain of a combination
    depends on how many of its doses are not zero.
    """
    origin, differences = differences_from_control(train)
    weights = _min_norm(train, label - origin)
    projected = origin + weights @ differences
    size = np.linalg.norm(label - origin)
    if np.linalg.norm(projected - label) <= SPAN_TOLERANCE * size:
        return np.asarray(label, np.float32)
    return np.where(np.abs(projected) > SPAN_TOLERANCE * size, projected, 0.0).astype(np.float32)


def identification_of(train: PerturbationData, label: np.ndarray, name: str) -> Verdict:
    """A verdict on identification alone."""
    origin, differences = differences_from_control(train)
    target = label.astype(np.float64) - origin
    weights = _min_norm(train, target)
    length = np.linalg.norm(target)
    residual = float(np.linalg.norm(target - weights @ differences) / length) if length > 0 else 0.0
    return Verdict(
        condition=name,
        identified=residual <= SPAN_TOLERANCE,
        residual=residual,
        weights={c: float(w) for c, w in zip(train.conditions, weights, strict=True) if abs(w) > 1e-9},
        leverage=float(weights @ weights),
    )


def differences_from_control(train: PerturbationData) -> tuple[np.ndarray, np.ndarray]:
    """The label of the control, and those of all conditions less it, in float64."""
    labels = train.labels.astype(np.float64)
    origin = labels[train.index(train.control)]
    return origin, labels - origin


def _min_norm(train: PerturbationData, target: np.ndarray) -> np.ndarray:
    return _weights_of_targets(train) @ target


# Thousands of labels may be asked of one training set: its SVD is computed once. The cache goes by identity
# (PerturbationData is read-only) and holds the latest training set only.
@functools.lru_cache(maxsize=1)
def _weights_of_targets(train: PerturbationData) -> np.ndarray:
    """Pseudoinverse ``[conditions, perturbations]``: a target to the minimum-norm weights of training differences."""
    return np.linalg.pinv(differences_from_control(train)[1].T, rcond=1e-10)
