"""What users give for the condition of each cell (names, columns, dicts, a matrix), read into `Conditions`."""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Float

from pdae_jax.data.conditions import Conditions, Written, check_joined, make_conditions, merge_written
from pdae_jax.data.distinct import distinct_names
from pdae_jax.data.doses import check_control_dose, check_doses, doses_of
from pdae_jax.data.notation import (
    Notation,
    as_text,
    check_control_parts,
    check_numbers,
    check_parts,
    parts_of,
    read_doses,
)
from pdae_jax.data.observations import unmasked
from pdae_jax.design.strata import distinct, distinct_labels
from pdae_jax.labels import NUMBER, check_uncut, dose_fault, format_label, said_twice, split_name
from pdae_jax.spelling import first_names


def read_names(names: Sequence[Any], notation: Notation) -> Conditions:
    """Conditions given as one name per cell: ``"A+B"``, ``"A:0.5+B"`` or the name of the control.

    Raises:
        ValueError: a name is missing or is none, or has one part twice; see also `make_conditions`.
        TypeError: a name is neither text nor an integer.
        KeyError: a name mentions something that is not in `notation.perturbations`.
    """
    _check_joined(names, notation.separator)
    index, texts = distinct_names(names, notation.known)
    parts = [parts_of(text, notation) for text in texts]
    doses = _doses_in_names(parts, notation)
    written = []
    for text, each in zip(texts, parts, strict=True):
        own = [part for part in each if part in doses]
        name = notation.separator.join(_part_name(part, *doses[part]) for part in own if doses[part][1] != 0)
        written.append(Written(text, _by_perturbation(text, [doses[part] for part in own]), name))
    check_doses(index, written, notation)
    return merge_written(index, written, notation)


def read_columns(
    names: Sequence[Sequence[Any]],
    doses: Sequence[Sequence[Any]],
    notation: Notation,
    strata: Sequence[bool] = (),
) -> Conditions:
    """Conditions given by columns of names and of doses; they are named by `format_label`.

    Args:
        names: one column of combinations; or several, the control standing for none, in which a name is a combination
            where all its parts stand alone somewhere in them, are listed perturbations, or the control.
        doses: none; one column with a number for all perturbations of a cell, or a text such as ``"1+0.5"`` in the
            order of the names; or as many columns as `names`, each for the perturbations of its column. Ignored for
            the control.
        notation: how the data set is written.
        strata: of each column of names, whether it has cell types, lines or donors: they have no dose, and are never
            split. None are by default.

    Raises:
        ValueError: a dose is no finite number, or there are not as many as names; a name is a stratum and a
            perturbation; see also `read_names`.
    """
    fixed = tuple(strata) or (False,) * len(names)
    texts = [_texts(column, notation) for column in names]
    alone = _standing_alone(texts, fixed, notation)
    of_cells = list(zip(*texts, strict=True))
    dosed = zip(*doses, strict=True) if doses else itertools.repeat((), len(of_cells))
    asked = [(each, _asked(each, dose, fixed, notation)) for each, dose in zip(of_cells, dosed, strict=True)]
    index, found = distinct(asked)
    by_column = [_parts_of_columns(each, fixed, alone, notation) for each, _ in found]
    of_strata = _strata(texts, fixed, notation)
    in_names = _doses_in_names([_of_columns(each, fixed, False) for each in by_column], notation)
    _check_apart(of_strata, [name for name, _ in in_names.values()])
    written = []
    for (_, dose), columns in zip(found, by_column, strict=True):
        text = notation.separator.join(itertools.chain(*columns))
        perturbing = _of_columns(columns, fixed, False)
        pairs = [(name, 1.0) for name in _of_columns(columns, fixed, True) if name in of_strata]
        if doses:
            _check_one_dose(text, [part for part in perturbing if in_names.get(part, (part,))[0] != part])
            own = [column for column, stratum in zip(columns, fixed, strict=True) if not stratum]
            groups = zip(own, dose, strict=True) if len(dose) > 1 else [(perturbing, dose[0])]
            pairs += [pair for group, value in groups for pair in doses_of(text, group, value, notation)]
            text = f"{text} at {notation.separator.join(map(str, dose))}" if pairs else text
        else:
            pairs += [in_names[part] for part in perturbing if part in in_names]
        written.append(Written(text, _by_perturbation(text, pairs)))
    check_doses(index, written, notation)
    return merge_written(index, written, notation)._replace(strata=of_strata)


def read_dicts(dicts: Sequence[Any], notation: Notation) -> Conditions:
    """Conditions given as one dict of doses per cell, ``{}`` for the control; named by `format_label`.

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
        written.append(
            Written(text, _by_perturbation(text, [pair for pair in key if pair[0] not in notation.controls]))
        )
    return merge_written(index, written, notation)


def read_matrix(labels: Any, names: Sequence[Any] | None, notation: Notation) -> Conditions:
    """Conditions given as a matrix of doses ``[cells, perturbations]``, named by `names` or else by `format_label`.

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


def _doses_in_names(parts: Iterable[Sequence[str]], notation: Notation) -> dict[str, tuple[str, float]]:
    """Name and dose of every part that is not the control."""
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


def _by_perturbation(text: object, pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    doses: dict[str, float] = {}
    for name, dose in pairs:
        if name in doses:
            raise ValueError(f"Condition {said_twice(text, name)}")
        fault = dose_fault(dose)
        if fault:
            raise ValueError(f"Condition {text!r}: the dose of {name!r} {fault}")
        doses[name] = dose
    return doses


def _check_joined(names: Sequence[Any], separator: str) -> None:
    for row, name in enumerate(names):
        if isinstance(name, list | tuple | set | frozenset | np.ndarray):
            joined = separator.join(map(str, name))
            raise TypeError(f"conditions[{row}] is {name!r}. Join the names of a combination to one, {joined!r}.")


def _texts(column: Sequence[Any], notation: Notation) -> list[str]:
    _check_joined(column, notation.separator)
    index, texts = distinct_names(column, notation.known)
    return [texts[row] for row in index.tolist()]


def _of_columns(columns: Sequence[Sequence[str]], fixed: Sequence[bool], strata: bool) -> list[str]:
    """The parts in columns of strata, or in the others."""
    return [part for column, stratum in zip(columns, fixed, strict=True) if stratum is strata for part in column]


def _strata(texts: Sequence[Sequence[str]], fixed: Sequence[bool], notation: Notation) -> tuple[str, ...]:
    """Names of the strata that are a part of conditions; the control's are none."""
    columns = [column for column, stratum in zip(texts, fixed, strict=True) if stratum]
    return tuple(name for name in dict.fromkeys(itertools.chain(*columns)) if name not in notation.controls)


def _check_apart(strata: Sequence[str], perturbations: Sequence[str]) -> None:
    both = [name for name in strata if name in set(perturbations)]
    if both:
        raise ValueError(f"{both[0]!r} is a stratum and a perturbation. Rename one of the two.")


def _asked(
    names: tuple[str, ...], doses: tuple[Any, ...], fixed: Sequence[bool], notation: Notation
) -> tuple[Any, ...]:
    """Doses without those of the control, which are often NaN: every NaN would be a value of its own."""
    own = [name for name, stratum in zip(names, fixed, strict=True) if not stratum]
    groups = [own] if len(doses) == 1 else [[name] for name in own]
    kept = []
    for group, dose in zip(groups if doses else (), doses, strict=True):
        unperturbed = all(name in notation.controls for name in group)
        if unperturbed:
            check_control_dose(group[0], dose)
        kept.append(None if unperturbed else dose)
    return tuple(kept)


def _parts_of_columns(
    names: tuple[str, ...], fixed: Sequence[bool], alone: Sequence[set[str]], notation: Notation
) -> list[list[str]]:
    """The parts of one cell's condition in each column: of a combination, or from several columns."""
    if len(names) == 1:
        return [parts_of(names[0], notation)]
    parts = []
    for name, stratum, known in zip(names, fixed, alone, strict=True):
        split = [name] if stratum else split_name(name, notation.separator, notation.whole)
        is_combination = len(split) > 1 and all(split) and all(_head(part) in known for part in split)
        parts.append(split if is_combination and name not in notation.whole else [name])
    together, perturbing = list(itertools.chain(*parts)), _of_columns(parts, fixed, False)
    text = notation.separator.join(together)
    check_uncut(text, together, notation.separator)
    check_parts(text, perturbing, notation)
    return parts


def _standing_alone(columns: Sequence[Sequence[str]], fixed: Sequence[bool], notation: Notation) -> list[set[str]]:
    """Of which names a combination in each column may be: of those that stand alone in a column of perturbations, or
    beside the control only; of listed perturbations; and of controls, but in columns without the first one. Those have
    cell types perhaps, and "CD16+ Mono" is no combination with the "Mono" of the control.
    """
    if len(columns) == 1:
        return [set()]
    texts = [() if stratum else dict.fromkeys(column) for column, stratum in zip(columns, fixed, strict=True)]
    split = [{text: split_name(text, notation.separator, notation.whole) for text in column} for column in texts]
    controls = [
        set(notation.controls) if any(notation.control in parts for parts in column.values()) else set()
        for column in split
    ]
    found = {_head(name) for name in notation.known.difference(notation.controls)}
    for column, own in zip(split, controls, strict=True):
        for text, parts in column.items():
            others = [part for part in parts if part not in own]
            found.add(_head(others[0] if len(others) == 1 and len(parts) > 1 and all(parts) else text))
    found -= set(notation.controls)
    alone = [found | own for own in controls]
    for column in split:
        beside = [(text, part) for text, parts in column.items() for part in parts if len(parts) > 1]
        _warn_of_unsplit(beside, found.union(notation.controls))
    return alone


def _warn_of_unsplit(parts: Sequence[tuple[str, str]], alone: set[str]) -> None:
    """Says which names are read as one, though a part of them stands alone."""
    some = {text for text, part in parts if _head(part) in alone}
    missing = {text: part for text, part in parts if text in some and _head(part) not in alone}
    if missing:
        logging.warning(
            "Read as one name each, because a part does not stand alone: %s. Pass perturbations=<all names> if they "
            "are combinations, strata=<the column> if they are cell types, lines or donors.",
            ", ".join(f"{text!r} ({part!r})" for text, part in list(missing.items())[:8]),
        )


def _head(part: str) -> str:
    """A name without the number after its colon."""
    head, _, tail = part.rpartition(":")
    return head.strip() if head and NUMBER.fullmatch(tail.strip()) else part


def _check_one_dose(text: str, dosed: Sequence[str]) -> None:
    if dosed:
        raise ValueError(
            f"Condition {text!r}: {dosed[0]!r} has a dose, and so has the dose column. Pass one of the two, or "
            f"dose_in_name=False if the number is part of the name."
        )
