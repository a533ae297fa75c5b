"""The conditions that are evaluated, and from whose cells."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Float, Int

from pdae_jax.cells import evenly_spaced
from pdae_jax.design.design import design_of
from pdae_jax.model.ensemble import Ensemble
from pdae_jax.model.fitted import Fitted
from pdae_jax.spelling import first_names, nearest_names
from pdae_jax.types import PerturbationData


class Case(NamedTuple):
    """One condition to be predicted."""

    split: str
    condition: str
    label: Float[np.ndarray, " perturbations"]
    data: PerturbationData  # that the condition is of
    rows: Int[np.ndarray, " n"]  # of its cells


def cases_of(split: str, data: PerturbationData) -> Iterator[Case]:
    """List the perturbed conditions of a split."""
    perturbed = np.flatnonzero(design_of(data).perturbed)
    if not len(perturbed):
        raise ValueError(
            f"The {split} data have no perturbed condition to evaluate; their conditions are "
            f"{list(data.conditions[:5])}. Pass conditions that pdae_jax.hold_out held out."
        )
    for row in perturbed.tolist():
        condition, cells = data.conditions[row], data.rows[row]
        if len(cells) < 2:
            raise ValueError(
                f"Condition {condition!r} of the {split} data has {len(cells)} cells; a distribution needs at least 2. "
                f"Leave it out with data.select."
            )
        yield Case(split, condition, data.labels[row], data, cells)


def fewer_in_sample(cases: Sequence[Case], most: int) -> list[Case]:
    """Choose at most so many training conditions, evenly spaced, beside all others."""
    trained = [case for case in cases if case.split == "train"]
    chosen = [trained[row] for row in evenly_spaced(len(trained), most)]
    return [*(case for case in cases if case.split != "train"), *chosen]


def sources_of_cases(source: Mapping[str, str], cases: Sequence[Case], train: PerturbationData) -> dict[str, str]:
    """Name sources by their conditions, in whatever order the mapping has the perturbations."""
    found = {}
    for name, start in source.items():
        same = [case.condition for case in cases if case.condition == name]
        with contextlib.suppress(KeyError):
            same = same or [case.condition for case in cases if np.array_equal(case.label, train.label(name))]
        if not same:
            near = nearest_names(name, [case.condition for case in cases])
            raise KeyError(f"source names {name!r}, no condition of this evaluation; {near}.")
        found |= dict.fromkeys(same, start)
    return found


def warn_of_seen(cases: Sequence[Case], fitted: Fitted | Ensemble) -> None:
    """Warn of test conditions that were trained on or chose the last step, by their labels."""
    for part, data in {"trained on": fitted.train, "used for validation": fitted.validation}.items():
        seen = [case.condition for case in cases if data and len(design_of(data).find(case.label))]
        if seen:
            logging.warning(
                "Test conditions that were %s: %s. They say nothing of unseen ones.", part, first_names(seen)
            )
