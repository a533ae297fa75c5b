"""Values, conditions and how they were read, put together to a data set; what was read is logged."""

import dataclasses
from collections.abc import Iterable

import numpy as np
from absl import logging

from pdae_jax.cells import StoredCells
from pdae_jax.data.conditions import Conditions, drop_small, drop_unused
from pdae_jax.data.counts import Sized
from pdae_jax.data.notation import Notation
from pdae_jax.data.observations import check_values, read_features
from pdae_jax.spelling import first_names
from pdae_jax.types import PerturbationData, Reading, read_only


def assemble(
    observed: Sized,
    table: Conditions,
    features: Iterable[str] | None,
    notation: Notation,
    min_cells: int | None,
    reading: Reading,
) -> PerturbationData:
    """Checks what concerns cells and features, and assembles the data."""
    x, sizes = observed
    names = read_features(features, x.shape[1])
    table, kept = drop_small(table, min_cells, notation.control)
    if notation.perturbations is None:
        table = drop_unused(table)
    if isinstance(x, StoredCells):  # checked as they were read
        x = x.take(kept)
    else:
        x = x[kept]
        check_values(x, names, may_be_constant=not notation.needs_control)
    data = PerturbationData(
        x=read_only(x) if isinstance(x, np.ndarray) else x,
        condition_index=table.index,
        labels=table.labels,
        conditions=table.names,
        perturbations=table.perturbations,
        features=names,
        control=notation.control,
        separator=notation.separator,
        size_factors=None if sizes is None else sizes[kept],
        strata=tuple(name for name in table.perturbations if name in (*table.strata, *notation.strata)),
        reading=dataclasses.replace(reading, absent=dict(table.absent), controls=dict(table.controls)),
    )
    _log_data(data)
    return data


def _log_data(data: PerturbationData) -> None:
    """Says what was read."""
    dosed = np.flatnonzero(np.any((data.labels != 0) & (data.labels != 1), axis=0))
    doses = []
    for column in dosed[:8]:
        found = np.setdiff1d(data.labels[:, column], [0])
        doses.append(f"{data.perturbations[column]} at {', '.join(f'{dose:g}' for dose in found[:8])}")
    more = f" ... ({len(dosed)} in all)" if len(dosed) > 8 else ""
    in_control = data.counts[data.index(data.control)] if data.control in data.conditions else 0
    logging.info(
        "Read %d cells, %d features, %d conditions with %d cells of the control %r; %d perturbations: %s; doses: %s",
        *(data.num_cells, data.num_features, data.num_conditions, in_control, data.control),
        *(data.num_perturbations, first_names(data.perturbations)),
        "; ".join(doses) + more or "1 throughout",
    )
