"""What users give for the condition of each cell (names, dicts, a matrix of doses), read into `Conditions`."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from pdae_jax.data.conditions import Conditions, Written, check_joined, make_conditions, merge_written
from pdae_jax.data.doses import check_control_dose, check_doses
from pdae_jax.data.names import check_control_parts, check_numbers, check_parts, distinct_names, parts_of, read_doses
from pdae_jax.data.notation import Notation, as_text
from pdae_jax.data.observations import unmasked
from pdae_jax.design.strata import distinct, distinct_labels
from pdae_jax.labels import dose_fault, format_label, said_twice
from pdae_jax.spelling import first_names


def read_names(names: Sequence[Any], notation: Notation) -> Conditions:
    """Read conditions given as one name per cell: ``"A+B"``, ``"A:0.5+B"`` or the name of the control.

    Raises:
        ValueError: a name is missing or is none, or has one part twice; see also `make_conditions`.
        TypeError: a name is neither text nor an integer.
        KeyError: a name mentions something that is not in `notation.perturbations`.
    """
    check_joined_names(names, notation.separator)
    index, texts = distinct_names(names, notation.known)
    parts = [parts_of(text, notation) for text in texts]
    doses = doses_in_names(parts, notation)
    written = []
    for text, each in zip(texts, parts, strict=True):
        own = [part for part in each if part in doses]
        name = notation.separator.join(_part_name(part, *doses[part]) for part in own if doses[part][1] != 0)
        written.append(Written(text, by_perturbation(text, [doses[part] for part in own]), name))
    check_doses(index, written, notation)
    return merge_written(index, written, notation)


def read_dicts(dicts: Sequence[Any], notation: Notation) -> Conditions:
    """Read conditions given as one dict of doses per cell, ``{}`` for the control; named by `format_label`.

    Raises:
        TypeError: an entry is not a dict, or a dose is not a number.
        KeyError: a dict mentions something that is not in `notation.perturbations`.
        ValueError: a dose that is not finite; see also `make_conditions`.
    """
    keys = []
    for row, spec in enumerate(dicts):
        if not isinstance(spec, Mapping):
            raise TypeError(
                f"conditions[{row}] is {spec!r} ({type(spec).__name__}), but conditions[0] is a dict. "
                f"Pass a dict of names to doses for every cell, {{}} for the control."
            )
        try:
            keys.append(tuple((as_text(name), float(dose)) for name, dose in spec.items()))
        except (TypeError, ValueError):
            raise TypeError(f"conditions[{row}] is {spec!r}: a dose is no number. Pass {{name: number}}.") from None
    index, found = distinct(keys)
    written = []
    for key in found:
        text = dict(key)
        check_parts(text, [name for name, _ in key], notation)
        written.append(Written(text, by_perturbation(text, [pair for pair in key if pair[0] not in notation.controls])))
    return merge_written(index, written, notation)


def read_matrix(labels: Any, names: Sequence[Any] | None, notation: Notation) -> Conditions:
    """Read conditions given as a matrix of doses ``[cells, perturbations]``, named by `names` or else by
    `format_label`.

    Args:
        labels: the matrix; `notation.perturbations` has the names of its columns.
        names: one per cell, which must agree with the labels one to one.
        notation: how the data set is written.

    Raises:
        ValueError: not a matrix of finite numbers, not one perturbation name per column, a name with two labels; see
            also `make_conditions`.
    """
    perturbations = notation.perturbations or ()
    labels = labels.toarray() if hasattr(labels, "toarray") else labels
    if hasattr(labels, "iloc") and not any(dtype.kind in "OSUc" for dtype in labels.dtypes):
        labels = labels.to_numpy(dtype=np.float64, na_value=np.nan)  # of pandas' own types too
    labels = unmasked("labels", labels)
    if labels.ndim != 2 or labels.dtype.kind not in "fiub":
        raise ValueError(
            f"labels has shape {labels.shape}, dtype {labels.dtype}. Pass numbers in a matrix [cells, perturbations]."
        )
    if len(perturbations) != labels.shape[1]:
        raise ValueError(
            f"labels has {labels.shape[1]} columns, but perturbations has {len(perturbations)} names "
            f"({first_names(perturbations)}). Pass one name per column of labels."
        )
    different, of_rows = distinct_labels(labels if labels.dtype.kind == "f" else labels.astype(np.float32))
    faults = {dose: fault for dose in np.unique(of_rows.astype(np.float64)).tolist() if (fault := dose_fault(dose))}
    if faults:
        row, column = np.argwhere(np.isin(labels, list(faults)) | np.isnan(labels))[0]
        fault = dose_fault(float(labels[row, column]))
        where = f"labels, row {row}, perturbation {perturbations[column]!r}, {labels[row, column]}"
        raise ValueError(f"{where}: the dose {fault}")
    joined, rows = distinct_labels(of_rows.astype(np.float32))  # doses that differ in rounding are one
    index = joined[different]
    if names is None:
        found = [
            format_label(row, perturbations, control=notation.control, separator=notation.separator) for row in rows
        ]
        check_joined(found, perturbations, notation.separator)
        return make_conditions(index, rows, perturbations, names=found, notation=notation)
    index_of_names, texts = distinct_names(names, notation.known)
    by_name, found = distinct([notation.control if text in notation.controls else text for text in texts])
    cells = by_name[index_of_names]
    return make_conditions(cells, _one_label(cells, found, rows[index]), perturbations, names=found, notation=notation)


def _one_label(
    index: np.ndarray, names: Sequence[str], labels: Float[np.ndarray, "cells perturbations"]
) -> Float[np.ndarray, "conditions perturbations"]:
    """The label of each name, which every one of its cells must have."""
    _, start = np.unique(index, return_index=True)
    wrong = np.flatnonzero((labels != labels[start][index]).any(axis=1))
    if len(wrong):
        row, first = int(wrong[0]), int(start[index[wrong[0]]])
        raise ValueError(
            f"Condition {names[int(index[row])]!r} has two labels: {labels[first].tolist()} in row {first}, "
            f"{labels[row].tolist()} in row {row}. Give each label a condition name of its own."
        )
    return labels[start]


def doses_in_names(parts: Iterable[Sequence[str]], notation: Notation) -> dict[str, tuple[str, float]]:
    """Find the name and the dose of every part that is not the control."""
    perturbing = [[part for part in each if part not in notation.controls] for each in parts]
    check_numbers(perturbing, notation)
    perturbing = list(itertools.chain(*perturbing))
    check_control_parts(perturbing, notation)
    found = read_doses(perturbing, notation)
    for part, (name, dose) in found.items():
        if name in notation.controls:
            check_control_dose(part, dose)
    return {part: pair for part, pair in found.items() if pair[0] not in notation.controls}


def _part_name(part: str, name: str, dose: float) -> str:
    return name if dose == 1 else f"{name}:{part.rpartition(':')[2].strip()}"


def by_perturbation(text: object, pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    """Collect the doses of a condition; ``ValueError`` for a perturbation named twice, or a dose that is none."""
    doses: dict[str, float] = {}
    for name, dose in pairs:
        if name in doses:
            raise ValueError(f"Condition {said_twice(text, name)}")
        fault = dose_fault(dose)
        if fault:
            raise ValueError(f"Condition {text!r}: the dose of {name!r} {fault}")
        doses[name] = dose
    return doses


def check_joined_names(names: Sequence[Any], separator: str) -> None:
    """Raise ``TypeError`` for combinations given as lists of names."""
    for row, name in enumerate(names):
        if isinstance(name, list | tuple | set | frozenset | np.ndarray):
            joined = separator.join(map(str, name))
            raise TypeError(f"conditions[{row}] is {name!r}. Join the names of a combination to one, {joined!r}.")
