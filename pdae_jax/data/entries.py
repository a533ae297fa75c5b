"""What users give for the condition of each cell (names, columns, dicts, a matrix), read into `Conditions`."""

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from pdae_jax.data.conditions import Conditions, Written, make_conditions, merge_written
from pdae_jax.data.distinct import distinct, distinct_labels, distinct_names
from pdae_jax.data.notation import (
    Notation,
    as_text,
    check_control_parts,
    check_parts,
    parts_of,
    read_doses,
    split_name,
    unit_of,
)
from pdae_jax.labels import NUMBER, format_label, said_twice
from pdae_jax.spelling import first_names


def read_names(names: Sequence[Any], notation: Notation) -> Conditions:
    """Conditions given as one name per cell: ``"A+B"``, ``"A:0.5+B"`` or the name of the control.

    Raises:
        ValueError: a name is missing or is none, or has one part twice; see also `make_conditions`.
        TypeError: a name is neither text nor an integer.
        KeyError: a name mentions something that is not in `notation.perturbations`.
    """
    index, texts = distinct_names(names, notation.known)
    parts = [parts_of(text, notation) for text in texts]
    doses = _doses_in_names(parts, notation)
    written = []
    for text, each in zip(texts, parts, strict=True):
        own = [part for part in each if part in doses]
        name = notation.separator.join(_part_name(part, *doses[part]) for part in own if doses[part][1] != 0)
        written.append(Written(text, _by_perturbation(text, [doses[part] for part in own]), name))
    return merge_written(index, written, notation)


def read_columns(names: Sequence[Sequence[Any]], doses: Sequence[Sequence[Any]], notation: Notation) -> Conditions:
    """Conditions given by columns of names and of doses; they are named by `format_label`.

    Args:
        names: one column of combinations; or several, the control standing for none, in which a name is a combination
            where a part of it stands alone in the same column, or is the control.
        doses: none; one column with a number for all perturbations of a cell, or a text such as ``"1+0.5"`` in the
            order of the names; or as many columns as `names`, each for the perturbations of its column. Ignored for
            the control.
        notation: how the data set is written.

    Raises:
        ValueError: a dose is no finite number, or there are not as many as names; see also `read_names`.
    """
    texts = [_texts(column, notation) for column in names]
    alone = [_standing_alone(column, notation) for column in texts]
    of_cells = list(zip(*texts, strict=True))
    dosed = zip(*doses, strict=True) if doses else itertools.repeat((), len(of_cells))
    index, found = distinct([(each, _asked(each, dose, notation)) for each, dose in zip(of_cells, dosed, strict=True)])
    by_column = [_parts_of_columns(each, alone, notation) for each, _ in found]
    parts = [list(itertools.chain(*each)) for each in by_column]
    in_names = _doses_in_names(parts, notation)
    written = []
    for (_, dose), columns, each in zip(found, by_column, parts, strict=True):
        text = notation.separator.join(each)
        if doses:
            _check_one_dose(text, [part for part in each if in_names.get(part, (part,))[0] != part])
            groups = zip(columns, dose, strict=True) if len(dose) == len(columns) else [(each, dose[0])]
            pairs = [pair for group, value in groups for pair in _with_doses(text, group, value, notation)]
            text = f"{text} at {notation.separator.join(map(str, dose))}" if pairs else text
        else:
            pairs = [in_names[part] for part in each if part in in_names]
        written.append(Written(text, _by_perturbation(text, pairs)))
    return merge_written(index, written, notation)


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
    labels = np.asarray(labels.toarray() if hasattr(labels, "toarray") else labels)
    if labels.ndim != 2 or labels.dtype.kind not in "fiub":
        raise ValueError(
            f"labels has shape {labels.shape}, dtype {labels.dtype}. Pass numbers in a matrix [cells, perturbations]."
        )
    if len(perturbations) != labels.shape[1]:
        raise ValueError(
            f"labels has {labels.shape[1]} columns, but perturbations has {len(perturbations)} names "
            f"({first_names(perturbations)}). Pass one name per column of labels."
        )
    bad = ~np.isfinite(labels)
    if bad.any():
        row, column = np.argwhere(bad)[0]
        raise ValueError(
            f"labels has a dose that is not finite: row {row}, perturbation {perturbations[column]!r}, "
            f"{labels[row, column]}. Doses are real numbers, 0 for absent."
        )
    index, rows = distinct_labels(labels.astype(np.float32))
    if names is None:
        found = [
            format_label(row, perturbations, control=notation.control, separator=notation.separator) for row in rows
        ]
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
    perturbing = [part for each in parts for part in each if part not in notation.controls]
    check_control_parts(perturbing, notation)
    found = read_doses(perturbing, notation)
    return {part: pair for part, pair in found.items() if pair[0] not in notation.controls}


def _part_name(part: str, name: str, dose: float) -> str:
    return name if dose == 1 else f"{name}:{part.rpartition(':')[2].strip()}"


def _by_perturbation(text: object, pairs: Iterable[tuple[str, float]]) -> dict[str, float]:
    doses: dict[str, float] = {}
    for name, dose in pairs:
        if name in doses:
            raise ValueError(f"Condition {said_twice(text, name)}")
        if not math.isfinite(dose):
            raise ValueError(
                f"Condition {text!r}: the dose of {name!r} is {dose}, not finite. Doses are real numbers, 0 for absent."
            )
        doses[name] = dose
    return doses


def _texts(column: Sequence[Any], notation: Notation) -> list[str]:
    index, texts = distinct_names(column, notation.known)
    return [texts[row] for row in index.tolist()]


def _asked(names: tuple[str, ...], doses: tuple[Any, ...], notation: Notation) -> tuple[Any, ...]:
    """Doses without those of the control, which are often NaN: every NaN would be a value of its own."""
    if len(names) == len(doses):
        return tuple(None if name in notation.controls else dose for name, dose in zip(names, doses, strict=True))
    return (None,) if doses and all(name in notation.controls for name in names) else doses


def _parts_of_columns(names: tuple[str, ...], alone: Sequence[set[str]], notation: Notation) -> list[list[str]]:
    """The parts of one cell's condition in each column: of a combination, or from several columns.

    A name in one of several columns is a combination where a part of it stands alone in that column, or is a control.
    """
    if len(names) == 1:
        return [parts_of(names[0], notation)]
    parts = []
    for name, known in zip(names, alone, strict=True):
        split = split_name(name, notation.separator, notation.whole)
        is_combination = len(split) > 1 and all(split) and any(_head(part) in known for part in split)
        parts.append(split if is_combination and name not in notation.whole else [name])
    together = list(itertools.chain(*parts))
    check_parts(notation.separator.join(together), together, notation)
    return parts


def _standing_alone(column: Sequence[str], notation: Notation) -> set[str]:
    """Names that stand alone in a column, or beside controls only; and the controls."""
    found = set(notation.controls)
    for text in dict.fromkeys(column):
        parts = split_name(text, notation.separator, notation.whole)
        others = [part for part in parts if part not in notation.controls]
        found.add(_head(others[0] if len(others) == 1 and len(parts) > 1 and all(parts) else text))
    return found


def _head(part: str) -> str:
    """A name without the number after its colon."""
    head, _, tail = part.rpartition(":")
    return head.strip() if head and NUMBER.fullmatch(tail.strip()) else part


def _with_doses(text: str, parts: Sequence[str], dose: Any, notation: Notation) -> list[tuple[str, float]]:
    """Names and doses of the perturbations that have one dose, or a text with one for each; the control left out."""
    separator, perturbing = notation.separator, [part for part in parts if part not in notation.controls]
    if not perturbing:
        return []
    given = dose.split(separator) if isinstance(dose, str) else [dose]
    given = given * len(parts) if len(given) == 1 else given
    if len(given) == len(parts):
        pairs = [(part, _number(dose)) for part, dose in zip(parts, given, strict=True) if part in perturbing]
        if all(math.isfinite(dose) for _, dose in pairs):
            return pairs
    unit = next((unit for dose in given if isinstance(dose, str) and (unit := unit_of(dose))), None)
    fix = f"Take off the unit {unit!r}, and convert all doses to one. " if unit else ""
    raise ValueError(
        f"Condition {text!r} has the dose {dose!r}. {fix}Pass one number, or {len(parts)} joined by {separator!r}, "
        f"finite; 0 where the perturbation is absent."
    )


def _check_one_dose(text: str, dosed: Sequence[str]) -> None:
    if dosed:
        raise ValueError(
            f"Condition {text!r}: {dosed[0]!r} has a dose, and so has the dose column. Pass one of the two, or "
            f"dose_in_name=False if the number is part of the name."
        )


def _number(dose: Any) -> float:
    """A dose as a number; NaN for what is none."""
    try:
        return float(dose)
    except (TypeError, ValueError):
        return math.nan
