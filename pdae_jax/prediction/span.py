"""Which labels the training labels determine."""

import numpy as np
from jaxtyping import Float

from pdae_jax.design.effects import dose_status, new_doses
from pdae_jax.design.span import SPAN_TOLERANCE, Span, label_span
from pdae_jax.prediction.verdict import Verdict
from pdae_jax.types import PerturbationData, once_for_each


def identified_part(train: PerturbationData, label: Float[np.ndarray, " perturbations"]) -> np.ndarray:
    """Projection of a label onto the span of the training differences, seen from the control.

    A label that lies in the span is returned as it is, and rounding is taken off others: the gain of a combination
    depends on how many of its doses are not zero.
    """
    span = _span(train)[0]
    target = label - control_label(train)
    if span.contains(target):
        return np.asarray(label, np.float32)
    size = SPAN_TOLERANCE * np.linalg.norm(target / span.unit) * span.unit
    projected = control_label(train) + span.project(target)
    return np.where(np.abs(projected) > size, projected, 0.0).astype(np.float32)


def identification_of(train: PerturbationData, label: np.ndarray, name: str) -> Verdict:
    """A verdict on identification and doses alone."""
    span, weights_of = _span(train)
    target = label - control_label(train)
    weights = weights_of @ target
    return Verdict(
        condition=name,
        identified=bool(span.contains(target)),
        residual=float(span.residual(target)),
        weights={c: float(w) for c, w in zip(train.conditions, weights, strict=True) if abs(w) > 1e-9},
        leverage=float(weights @ weights),
        dose_status=dose_status(train.labels, label),
        new_doses=_new_doses(train, label),
    )


def _new_doses(train: PerturbationData, label: Float[np.ndarray, " perturbations"]) -> tuple[str, ...]:
    """Doses of a label that were not measured, and those that were: ``"A at 1 (measured: 100, 1000)"``."""
    said = []
    for column in np.flatnonzero(new_doses(train.labels, label)).tolist():
        known = [f"{dose:g}" for dose in np.unique(train.labels[:, column]) if dose]
        shown = ", ".join(known if len(known) < 6 else [*known[:2], "...", *known[-2:]])
        said.append(f"{train.perturbations[column]} at {label[column]:g} (measured: {shown or 'none'})")
    return tuple(said)


def control_label(train: PerturbationData) -> Float[np.ndarray, " perturbations"]:
    """The label of the control, in float64."""
    return train.labels[train.index(train.control)].astype(np.float64)


@once_for_each  # thousands of labels may be asked of one training set
def _span(train: PerturbationData) -> tuple[Span, np.ndarray]:
    """Span of the training differences, and the weights of targets ``[conditions, perturbations]``."""
    span = label_span(train.labels - control_label(train))
    return span, span.weights()
