"""Splits: whole conditions held out, cells held out within conditions, and which conditions may be held out."""

from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any

import jax
import numpy as np
from jaxtyping import Array

from pdae_jax.design.design import design_of
from pdae_jax.labels import LabelLike
from pdae_jax.randomness import check_key
from pdae_jax.spelling import first_names
from pdae_jax.types import PerturbationData


def hold_out(
    data: PerturbationData, conditions: LabelLike | Iterable[LabelLike], *, of_all_strata: bool = True
) -> tuple[PerturbationData, PerturbationData]:
    """Hold out whole conditions; both parts keep all label columns.

    Args:
        data: the data.
        conditions: the held-out conditions, each by its name or by any label that it has (``"B+A"``, ``{"A": 1}``).
        of_all_strata: whether a combination that is held out must not train in another stratum, where it would tell
            what it does (`PerturbationData.strata`). False: the stratum itself is the question.

    Returns:
        Train, with the control and every condition not named, in order; test, in the order named.

    Raises:
        KeyError: no condition has this name or label.
        ValueError: nothing is held out, the control is, or nothing but the control would be left; a combination stays
            in other strata.
    """
    specs: list[Any] = [conditions] if isinstance(conditions, str | Mapping | Real) else list(conditions)
    names = list(dict.fromkeys(data.conditions[data.index(spec)] for spec in specs))
    if not names:
        raise ValueError(f"No conditions to hold out: the list is empty. Pass some of {first_names(data.conditions)}.")
    if data.control in names:
        raise ValueError(
            f"The control {data.control!r} cannot be held out: all shifts start from it. Remove it from the list."
        )
    rest = [name for name in data.conditions if name not in names]
    if len(rest) < 2:
        raise ValueError(
            f"Holding out {first_names(names)} leaves {first_names(rest)} to train on. Keep at least one condition "
            f"beside the control."
        )
    if of_all_strata:
        _check_strata(data, names)
    return data.select(rest), data.select(names)


def _check_strata(data: PerturbationData, names: Sequence[str]) -> None:
    """Raises ``ValueError`` for a held-out combination that stays in other strata."""
    first = design_of(data).across_strata
    for name in names:
        row = data.conditions.index(name)
        stays = [data.conditions[other] for other in np.flatnonzero(first == first[row])]
        stays = [other for other in stays if other not in names]
        if data.orders[row] > 1 and stays:
            raise ValueError(
                f"{name!r} is held out, but {first_names(stays)} would train, the same combination in other strata. "
                f"Hold out all of them; or pass of_all_strata=False where the stratum itself is the question (in a "
                f"config: config.split.protocol='stratum')."
            )


def hold_out_cells(key: Array, data: PerturbationData, fraction: float) -> tuple[PerturbationData, PerturbationData]:
    """Hold out a random fraction of the cells of every condition; both parts have all conditions.

    Of n cells, ``round(fraction * n)`` are held out, but at least 2 and at most ``n - 2``: with fewer, neither side
    has a spread.

    Args:
        key: typed PRNG key.
        data: the data.
        fraction: share of the cells to hold out, between 0 and 1.

    Returns:
        Train and test, cells in their order in `data`.

    Raises:
        ValueError: a fraction outside (0, 1), or a condition with fewer than 4 cells.
    """
    check_key(key)
    if not 0 < fraction < 1:
        raise ValueError(f"fraction is {fraction}. Pass the share of cells to hold out, such as 0.2.")
    counts = data.counts
    small = [name for name, count in zip(data.conditions, counts, strict=True) if count < 4]
    if small:
        raise ValueError(
            f"Conditions with fewer than 4 cells: {first_names(small)}; each side needs 2. Split without them: "
            f"data.select(<the other conditions>)."
        )
    held = np.clip(np.round(fraction * counts), 2, counts - 2)
    draws = np.asarray(jax.random.uniform(key, (data.num_cells,)))
    order = np.lexsort((draws, data.condition_index))  # conditions one after the other, shuffled within
    rank = np.empty(data.num_cells, dtype=np.int64)
    rank[order] = np.arange(data.num_cells) - np.repeat(np.cumsum(counts) - counts, counts)
    test = rank < held[data.condition_index]
    return data.take(np.flatnonzero(~test)), data.take(np.flatnonzero(test))


def random_conditions(
    key: Array, data: PerturbationData, number: int, *, combinations_only: bool = True
) -> tuple[str, ...]:
    """Choose conditions that can be held out together and stay identified by the others.

    Conditions are drawn in random order and kept when the labels of the remaining ones still span all labels. Sets that
    can be left out in this sense are the independent sets of a matroid, so this finds `number` of them if there are.

    Args:
        key: typed PRNG key.
        data: the data.
        number: how many conditions; those of all strata count as one, and are held out together.
        combinations_only: only conditions with at least two perturbations.

    Returns:
        Their names, in the order of `data.conditions`.

    Raises:
        ValueError: there are not so many.
    """
    check_key(key)
    design = design_of(data)
    first = design.across_strata
    eligible = (design.orders >= (2 if combinations_only else 1)) & (first == np.arange(data.num_conditions))
    keep = np.ones(data.num_conditions, dtype=bool)
    for row in np.asarray(jax.random.permutation(key, data.num_conditions)):
        if (~keep & eligible).sum() == number:
            break
        if eligible[row]:
            keep[first == row] = False
            keep[first == row] = design.span_without(~keep).rank < design.span.rank
    found = tuple(name for name, kept in zip(data.conditions, keep, strict=True) if not kept)
    left_out = int((~keep & eligible).sum())
    if not 0 < number == left_out:
        raise ValueError(
            f"number is {number}, but {left_out} of {eligible.sum()} eligible conditions can be held out so that the "
            f"others identify them. Pass a smaller number (at least 1), or combinations_only=False."
        )
    return found
