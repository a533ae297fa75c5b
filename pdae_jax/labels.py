"""The grammar of labels: ``"A:0.5+B"``."""

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Array, Float

from pdae_jax.spelling import first_names, nearest_names

#: A perturbation label as users write it: ``"A+B"``, ``{"A": 1.0, "B": 0.5}`` or a vector ``[perturbations]``.
LabelLike = str | Mapping[str, float | int] | Sequence[float | int] | np.ndarray | Array


def parse_label(
    spec: LabelLike, perturbations: Sequence[str], *, control: str = "control", separator: str = "+"
) -> Float[np.ndarray, " perturbations"]:
    """Label vector of a combination, in the order of `perturbations`.

    Args:
        spec: ``"A+B"`` (dose 1 each), ``"A:0.5+B"`` (with doses), ``{"A": 1.0, "B": 0.5}``, the name of the
            control (zero vector), or a vector ``[perturbations]``.
        perturbations: names of the label columns.
        control: name that stands for the zero label.
        separator: joins names in a string.

    Raises:
        KeyError: an unknown perturbation; the message names it and the nearest known ones.
        ValueError: a vector of the wrong length, a dose that is not finite, a name given twice.
    """
    if isinstance(spec, str):
        return _parse_string(spec, perturbations, control, separator)
    if isinstance(spec, Mapping):
        vector = np.zeros(len(perturbations), dtype=np.float32)
        for name, dose in spec.items():
            if name not in perturbations:
                raise KeyError(_unknown(name, perturbations))
            vector[list(perturbations).index(name)] = dose
    else:
        vector = np.asarray(spec, dtype=np.float32)
        if vector.shape != (len(perturbations),):
            raise ValueError(
                f"Label of shape {vector.shape}, but there are {len(perturbations)} perturbations "
                f"{first_names(perturbations)}. Pass one dose per perturbation, or a dict of names to doses."
            )
    if not np.all(np.isfinite(vector)):
        raise ValueError(f"Label {spec!r} has a dose that is not finite. Doses are real numbers, 0 for absent.")
    return vector


def format_label(
    label: Float[np.ndarray, " perturbations"],
    perturbations: Sequence[str],
    *,
    control: str = "control",
    separator: str = "+",
) -> str:
    """The name of a label, ``"A+B:0.5"``; `parse_label` reads it back."""
    parts = [
        name if dose == 1 else f"{name}:{dose:g}" for name, dose in zip(perturbations, label, strict=True) if dose != 0
    ]
    return separator.join(parts) if parts else control


def _parse_string(spec: str, perturbations: Sequence[str], control: str, separator: str) -> np.ndarray:
    vector = np.zeros(len(perturbations), dtype=np.float32)
    known = list(perturbations)
    if spec == control:
        return vector
    for token in [spec] if spec in known else spec.split(separator):
        name, dose = token.strip(), 1.0
        if name not in known and ":" in name:
            head, _, tail = name.rpartition(":")
            try:
                name, dose = head.strip(), float(tail)
            except ValueError:
                pass  # the colon is part of an unknown name; reported as such below
        if name == control:
            continue
        if name not in known:
            raise KeyError(_unknown(name, perturbations))
        if vector[known.index(name)] != 0:
            raise ValueError(f"{spec!r} names {name!r} twice. Give a dose instead: {name}:2.")
        if not np.isfinite(dose):
            raise ValueError(f"{spec!r}: the dose of {name!r} is {dose}. Doses are real numbers, 0 for absent.")
        vector[known.index(name)] = dose
    return vector


def _unknown(name: object, perturbations: Sequence[str]) -> str:
    return (
        f"Unknown perturbation {name!r}; {nearest_names(str(name), perturbations)}. Nothing was measured under it, so "
        f"its effect cannot be predicted: pass one of the perturbations of the training data."
    )
