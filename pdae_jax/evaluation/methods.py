"""Methods beside the model and the baselines: functions, and cells that were predicted elsewhere."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from pdae_jax.design.design import Design, make_design
from pdae_jax.labels import LabelLike
from pdae_jax.prediction.source import new_cells
from pdae_jax.randomness import make_random
from pdae_jax.spelling import first_names
from pdae_jax.types import PerturbationData

CONDITION = "condition"  # the column of `obs`


@dataclasses.dataclass(frozen=True, eq=False)
class GivenCells:
    """A method of `evaluate` whose cells are there already; they are taken as they are, never clipped."""

    x: Float[np.ndarray, "cells features"]  # in the columns of the training data
    design: Design  # of the conditions that they are predicted for
    condition_index: Int[np.ndarray, " cells"]  # row of these
    cells: str = "all"  # no source limits their number

    def has(self, label: Float[np.ndarray, " perturbations"]) -> bool:
        """Look for cells of a label, at least two."""
        return len(self._rows(label)) > 1

    def __call__(
        self, key: Array, train: PerturbationData, label: LabelLike, num_samples: int, **_: Any
    ) -> Float[np.ndarray, "number features"]:
        """Draw at most `num_samples` of the cells of a label, without replacement."""
        rows = self._rows(train.label(label))
        return self.x[make_random(key).permutation(rows)[:num_samples]]

    def _rows(self, label: np.ndarray) -> np.ndarray:
        return np.flatnonzero(np.isin(self.condition_index, self.design.find(label)))


def given_cells(name: str, adata: Any, train: PerturbationData) -> GivenCells:
    """Make the method of an AnnData of predicted cells.

    Args:
        name: of the method, for messages.
        adata: ``X`` with predicted cells in the units of the training data, ``var_names`` with its features,
            ``obs["condition"]`` with the name of the condition that each cell is predicted for.
        train: training data.

    Raises:
        ValueError: no such column, or a feature is missing.
        KeyError: a condition with a perturbation that was not trained on.
    """
    if CONDITION not in adata.obs:
        raise ValueError(
            f"methods[{name!r}] is an AnnData without obs[{CONDITION!r}]; it has {first_names(list(adata.obs))}. "
            f"Add the name of the condition that each cell is predicted for."
        )
    names, condition_index = np.unique(np.asarray(adata.obs[CONDITION], dtype=str), return_inverse=True)
    labels = np.stack([train.label(str(condition)) for condition in names])
    missing = [feature for feature in train.features if feature not in adata.var_names]
    if missing:
        raise ValueError(
            f"methods[{name!r}] lacks {len(missing)} of the {train.num_features} training features: "
            f"{first_names(missing)}; it has {first_names(list(adata.var_names))}. Add them."
        )
    x = adata[:, list(train.features)].X  # in the units of training already, from whatever layer those were
    return GivenCells(np.asarray(new_cells(x, train).x), make_design(labels, train.perturbations), condition_index)


def further_methods(methods: Mapping[str, Any], train: PerturbationData) -> dict[str, Callable]:
    """Take functions as they are, and an AnnData as its `given_cells`.

    Raises:
        TypeError: a method is neither.
        ValueError, KeyError: see `given_cells`.
    """
    for name, method in methods.items():
        if not callable(method) and not hasattr(method, "var_names"):
            raise TypeError(
                f"methods[{name!r}] is a {type(method).__name__}. Pass an AnnData of predicted cells with "
                f"obs[{CONDITION!r}], or a function (key, train, label, num_samples, *, source, floor) -> cells."
            )
    return {name: method if callable(method) else given_cells(name, method, train) for name, method in methods.items()}


def check_given(methods: Mapping[str, Callable], conditions: Mapping[str, Float[np.ndarray, " perturbations"]]) -> None:
    """Raise ``ValueError`` where cells that were predicted elsewhere leave some of the conditions out."""
    for name, method in methods.items():
        if isinstance(method, GivenCells):
            missing = [condition for condition, label in conditions.items() if not method.has(label)]
            if missing:
                raise ValueError(
                    f"methods[{name!r}] has fewer than two cells of {first_names(missing)} in obs[{CONDITION!r}]. Add "
                    f"predicted cells of all test conditions, or leave these out with test.select."
                )
