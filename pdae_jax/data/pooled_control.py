"""Control cells that become one condition, and differ: a warning that names the column over which they do."""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Float, Int

from pdae_jax.cells import StoredCells, evenly_spaced
from pdae_jax.data.conditions import Conditions
from pdae_jax.data.doubtful_columns import is_named_dose
from pdae_jax.spelling import first_names

MOST_VALUES = 50  # of a column that may be times, plates or lines
MIN_SHARE = 0.2  # of the variance of a feature's ranks, between values of the column
_MOST_CELLS = 2000
_MOST_FEATURES = 200  # those that vary most
_MIN_CELLS = 5  # of a value
_MAX_P = 1e-6
_OF_THE_CELLS = re.compile(r"leiden|louvain|cluster|phase", re.IGNORECASE)  # found from their own values


def warn_of_pooled_control(
    x: Float[np.ndarray, "cells features"] | StoredCells,
    conditions: Conditions,
    columns: Mapping[str, Any],
    control: str,
) -> None:
    """Warn where control cells differ between the values of a column, as between times, plates or lines.

    A test of ranks (Kruskal and Wallis 1952), feature by feature: it asks for no law and no unit. Warned of are columns
    that explain at least `MIN_SHARE` of the variance of some feature's ranks, beyond chance.

    Args:
        x: values of all cells.
        conditions: of all cells.
        columns: values of each cell that may say where it comes from, by name.
        control: name of the control.
    """
    _warn_of_pooled_doses(conditions, columns, control)
    if control not in conditions.names:
        return
    rows = np.flatnonzero(conditions.index == conditions.names.index(control))
    some = rows[evenly_spaced(len(rows), _MOST_CELLS)]
    texts = {
        str(name): np.asarray(getattr(values, "array", values)[some], dtype=object).astype(str)
        for name, values in columns.items()
        if not _OF_THE_CELLS.search(str(name))
    }
    codes = {name: _codes(values) for name, values in texts.items()}
    codes = {name: code for name, code in codes.items() if len(np.unique(code[code >= 0])) > 1}
    if not codes:
        return
    cells = np.asarray(x[some])
    cells = cells[:, np.argsort(-cells.var(axis=0), kind="stable")[:_MOST_FEATURES]]
    shares = {name: _share(cells[code >= 0], code[code >= 0]) for name, code in codes.items()}
    found = sorted((name for name, share in shares.items() if share >= MIN_SHARE), key=lambda name: -shares[name])
    if found:
        values = list(dict.fromkeys(texts[found[0]].tolist()))
        more = f" So do those of {first_names(found[1:3])}." if len(found) > 1 else ""
        logging.warning(
            "The control %r is one condition, but its cells differ by %r (%s), which explains %.0f%% of the variance "
            "of a feature.%s Read that column as a stratum beside the conditions, with one of its values in control=, "
            "or keep the cells of one value.",
            *(control, found[0], first_names(values, 5), 100 * shares[found[0]], more),
        )


def _warn_of_pooled_doses(conditions: Conditions, columns: Mapping[str, Any], control: str) -> None:
    """Warns of a column named as one of doses, of which one condition has several: it was not read as doses."""
    import pandas as pd

    perturbed = np.array([name != control for name in conditions.names])
    for name in filter(is_named_dose, columns):
        codes, found = pd.factorize(columns[name])
        there = np.zeros((len(conditions.names), len(found)), bool)
        there[conditions.index[codes >= 0], codes[codes >= 0]] = len(found) <= MOST_VALUES
        values = there.sum(axis=1) * perturbed
        if values.max(initial=0) > 1:
            logging.warning(
                "The column %r is not read as doses: %r has %d values of it, and is one condition. Pass dose=%r, or "
                "the column that has the doses.",
                *(name, conditions.names[values.argmax()], values.max(), name),
            )


def _codes(values: np.ndarray) -> Int[np.ndarray, " cells"]:
    """Numbers of the values of a column; -1 for values of few cells, and for all where there are too many."""
    _, codes, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.where((counts[codes] >= _MIN_CELLS) & (len(counts) <= MOST_VALUES), codes, -1)


def _share(x: Float[np.ndarray, "cells features"], code: Int[np.ndarray, " cells"]) -> float:
    """Share of the variance of ranks between groups, of the feature with most; 0 where chance may explain it."""
    import scipy.stats

    number, (groups, counts) = len(x), np.unique(code, return_counts=True)
    ranks = scipy.stats.rankdata(x, axis=0) - (number + 1) / 2
    total = np.sum(ranks**2, axis=0)
    between = sum(ranks[code == group].sum(axis=0) ** 2 / n for group, n in zip(groups, counts, strict=True))
    share = np.asarray(between) / np.where(total > 0, total, 1.0)
    p = scipy.stats.chi2.sf(share * (number - 1), len(groups) - 1) * x.shape[1]
    beyond = 1.0 - (1.0 - share) * (number - 1) / (number - len(groups))  # without what groups explain by chance
    return float(np.max(np.where(p < _MAX_P, beyond, 0.0)))
