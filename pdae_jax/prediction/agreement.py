r"""How far predictions of one label differ that should coincide: from different sources, by different replicas.

Whatever the law under a label is, the cells of every condition must be translated to the same one, and every replica
must predict the same one. What they differ by is known without a single cell of the label, and is error: of charts that
bend, effects that do not add up, cells that are too few. All of it shares the training data, so it is a lower bound.
"""

import itertools
from collections.abc import Sequence
from typing import NamedTuple

import jax
import numpy as np
from jaxtyping import Float

from pdae_jax.model.fitted import Fitted
from pdae_jax.two_sample.shared_cells import shared_cell_distances
from pdae_jax.types import PerturbationData

_CELLS = 200  # of each law compared: of twice as many shares differ by a few hundredths of themselves
_MAX_SOURCES = 8
_MIN_CELLS = 20  # of a condition, to be a source


class Disagreement(NamedTuple):
    """Disagreement of laws that should coincide."""

    share: float  # mean energy distance between them, as a fraction of their distance from the control; NaN: unknown
    effect: float  # their mean energy distance from the control


def source_disagreement(
    fitted: Fitted, label: Float[np.ndarray, " perturbations"], from_condition: str
) -> Disagreement:
    r"""Average the energy distances between the laws :math:`P_{s \to a}` of different sources `s`.

    As a fraction of the distance between the control and :math:`P_{s \to a}`, `s` being `from_condition`; NaN where no
    other condition has enough cells.

    Args:
        fitted: a model.
        label: `a`.
        from_condition: one of the sources; the others are the training conditions with most cells, at most seven, but
            not the label itself.
    """
    train, counts = fitted.train, fitted.train.counts
    itself = set(fitted.design.find(label).tolist())
    candidates = (
        train.conditions[e]
        for e in np.argsort(-counts, kind="stable").tolist()
        if counts[e] >= _MIN_CELLS and train.conditions[e] != from_condition and e not in itself
    )
    sources = [from_condition, *itertools.islice(candidates, _MAX_SOURCES - 1)]
    return _disagreement([fitted] * len(sources), label, sources)


def replica_disagreement(
    members: Sequence[Fitted], label: Float[np.ndarray, " perturbations"], from_condition: str
) -> float:
    """Average the energy distances between the laws that replicas predict, a share as in `source_disagreement`."""
    return _disagreement(members, label, [from_condition] * len(members)).share


def _disagreement(models: Sequence[Fitted], label: np.ndarray, sources: Sequence[str]) -> Disagreement:
    """Compare the laws that each model predicts from its source."""
    train = models[0].train
    rows, weight = _some_rows(train, train.control)
    laws, weights = [train.x[rows]], [weight]
    for number, (model, source) in enumerate(zip(models, sources, strict=True), 1):
        rows, weight = _some_rows(train, source)
        laws.append(_law(model, rows, label, number))
        weights.append(weight)
    origin = np.array([train.control, *sources])
    # laws of one source are of the same cells: two samples of them would overlap by chance
    matrix = shared_cell_distances(np.stack(laws), np.stack(weights), origin[:, None] == origin)
    between = matrix[1:, 1:][~np.eye(len(models), dtype=bool)]
    effect = float(np.mean(matrix[0, 1:]))
    known = len(models) > 1 and effect > 0
    # U forms can be slightly negative
    return Disagreement(max(float(np.mean(between)), 0.0) / effect if known else float("nan"), max(effect, 0.0))


def _some_rows(train: PerturbationData, condition: str) -> tuple[np.ndarray, np.ndarray]:
    """Choose a fixed number of rows of cells, so that one compiled shape serves all; weight 1 marks distinct cells."""
    row = train.index(condition)
    chosen = np.random.default_rng(row).permutation(train.rows[row])[:_CELLS]
    return np.resize(chosen, _CELLS), (np.arange(_CELLS) < len(chosen)).astype(np.float32)


def _law(fitted: Fitted, rows: np.ndarray, label: np.ndarray, seed: int) -> np.ndarray:
    """Translate training cells of one condition as predictions do."""
    train = fitted.train
    label_from = train.labels[train.condition_index[rows[:1]]]
    return fitted.translate(jax.random.key(seed), train.x[rows], label_from, label[None], train.sizes(rows))
