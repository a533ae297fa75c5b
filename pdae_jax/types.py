"""The data contract: what every module passes to the next, with a shape on every field."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from jaxtyping import Array, Float, Int

#: Of NumPy or of JAX: what numerical functions take from users.
AnyArray = Array | np.ndarray

#: A perturbation label as users write it: ``"A+B"``, ``{"A": 1.0, "B": 0.5}`` or a vector ``[perturbations]``.
LabelLike = str | Mapping[str, float | int] | Sequence[float | int] | np.ndarray | Array


@dataclasses.dataclass(frozen=True, eq=False)
class PerturbationData:
    """Cells measured under named conditions, each condition with a perturbation label.

    Built by `pdae_jax.from_arrays`, `from_anndata` or `simulate`, which validate; read-only afterwards.
    """

    x: Float[np.ndarray, "cells features"]  # observations, in the user's own units
    condition_index: Int[np.ndarray, " cells"]  # row of `labels` and `conditions`, per cell
    labels: Float[np.ndarray, "conditions perturbations"]  # doses; control = the zero row
    conditions: tuple[str, ...]  # names, unique
    perturbations: tuple[str, ...]  # names of the label columns, unique
    features: tuple[str, ...]  # names of the columns of x, unique
    control: str = "control"  # name of the condition with the zero label
    separator: str = "+"  # joins perturbation names in a condition name

    @property
    def num_cells(self) -> int:
        return self.x.shape[0]

    @property
    def num_features(self) -> int:
        return self.x.shape[1]

    @property
    def num_conditions(self) -> int:
        return len(self.conditions)

    @property
    def num_perturbations(self) -> int:
        return len(self.perturbations)

    @property
    def counts(self) -> Int[np.ndarray, " conditions"]:
        """Cells per condition."""
        return np.bincount(self.condition_index, minlength=self.num_conditions)

    def index(self, condition: str) -> int:
        """Row of a condition; ``KeyError`` with the nearest names if there is none."""
        if condition not in self.conditions:
            raise KeyError(
                f"No condition {condition!r} in this data; {nearest_names(condition, self.conditions)}. "
                f"Pass one of data.conditions."
            )
        return self.conditions.index(condition)

    def cells(self, condition: str) -> Float[np.ndarray, "n features"]:
        """The observations of one condition."""
        return self.x[self.condition_index == self.index(condition)]

    def select(self, conditions: Sequence[str]) -> "PerturbationData":
        """The same data with these conditions only, in this order; label columns stay."""
        rows = np.array([self.index(name) for name in conditions], dtype=np.int64)
        position = np.full(self.num_conditions, -1, dtype=np.int32)
        position[rows] = np.arange(len(rows), dtype=np.int32)
        keep = position[self.condition_index] >= 0
        return dataclasses.replace(
            self,
            x=self.x[keep],
            condition_index=position[self.condition_index[keep]],
            labels=self.labels[rows],
            conditions=tuple(conditions),
        )

    def label(self, spec: LabelLike) -> Float[np.ndarray, " perturbations"]:
        """A label as a vector; see `parse_label`."""
        if isinstance(spec, str) and spec in self.conditions:
            return self.labels[self.conditions.index(spec)]
        return parse_label(spec, self.perturbations, control=self.control, separator=self.separator)

    def __repr__(self) -> str:
        return (
            f"PerturbationData({self.num_cells} cells, {self.num_features} features, "
            f"{self.num_conditions} conditions, {self.num_perturbations} perturbations, control={self.control!r})"
        )


class Batch(NamedTuple):
    """Cells of S source conditions to be translated to T target conditions."""

    x_source: Float[Array, "sources m features"]
    label_source: Float[Array, "sources perturbations"]
    x_target: Float[Array, "targets n features"]
    label_target: Float[Array, "targets perturbations"]


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


def nearest_names(name: str, known: Sequence[str]) -> str:
    """For error messages: the known names nearest to a misspelt one, else the first known ones."""
    close = difflib.get_close_matches(name, known, n=3)
    return f"nearest are {', '.join(map(repr, close))}" if close else f"known are {first_names(known)}"


def first_names(names: Sequence[str], count: int = 8) -> str:
    """For error messages: the first names of a list that may be long, quoted."""
    shown = ", ".join(map(repr, names[:count]))
    return f"{shown}, ... ({len(names)} in all)" if len(names) > count else shown
