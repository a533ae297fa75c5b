"""How users write the condition of each cell (names, names with doses, dicts, a matrix), read into `Conditions`."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from pdae_jax.data.conditions import (
    Conditions,
    check_one_name,
    distinct,
    distinct_labels,
    distinct_names,
    make_conditions,
)
from pdae_jax.labels import parse_label
from pdae_jax.spelling import first_names, nearest_names


def read_names(
    names: Sequence[Any], *, perturbations: Sequence[str] | None, control: str, separator: str
) -> Conditions:
    """Conditions given as one string per cell: ``"A+B"``, ``"A:0.5+B"`` or the name of the control.

    A number after the last colon of a name is its dose, unless `perturbations` holds the name with the number.

    Args:
        names: one per cell.
        perturbations: names of the label columns; by first appearance when None.
        control: name of the control.
        separator: joins perturbation names.

    Raises:
        ValueError: a name is missing or empty, or has an empty part or one part twice; see also `make_conditions`.
        TypeError: a name is not a string.
        KeyError: a name mentions something that is not in `perturbations`.
    """
    index, found = distinct_names(names)
    tokens = [_tokens(name, control, separator, perturbations) for name in found]
    known = _columns(tokens, perturbations)
    labels = np.zeros((len(found), len(known)), dtype=np.float32)
    for row, name in enumerate(found):
        _check_known(name, tokens[row], known)
        labels[row] = parse_label(name, known, control=control, separator=separator)
    return make_conditions(index, labels, known, names=found, control=control, separator=separator)


def read_names_and_doses(
    names: Sequence[Any],
    doses: Sequence[Any],
    *,
    perturbations: Sequence[str] | None = None,
    control: str,
    separator: str,
) -> Conditions:
    """Conditions given as a name and a dose per cell; they are named by `format_label`.

    Args:
        names: one per cell, without doses of their own.
        doses: per cell, one number for all perturbations of its condition, or a string such as ``"1+0.5"`` in the
            order of the names; ignored for the control.
        perturbations: as in `read_names`, like the rest.
        control: name of the control.
        separator: joins perturbation names, and doses.

    Raises:
        ValueError: a dose is no finite number, is zero, or there are not as many as names; see also `read_names`.
    """
    which, found = distinct_names(names)
    index, pairs = distinct(
        [(name, None if found[name] == control else dose) for name, dose in zip(which.tolist(), doses, strict=True)]
    )
    parts = [_split(name, control, separator) for name in found]
    known = _columns([[part for part in each if part != control] for each in parts], perturbations)
    labels = np.zeros((len(pairs), len(known)), dtype=np.float32)
    for row, (name, dose) in enumerate(pairs):
        for part, value in _parse_doses(found[name], parts[name], dose, control, separator).items():
            _check_known(found[name], [part], known)
            labels[row, known.index(part)] = value
    check_one_name([found[name] for name, _ in pairs], labels, known)
    # "1" and "1.0" are written differently and mean the same
    merged, labels = distinct_labels(labels)
    return make_conditions(merged[index], labels, known, control=control, separator=separator)


def read_dicts(
    dicts: Sequence[Any], *, perturbations: Sequence[str] | None, control: str, separator: str
) -> Conditions:
    """Conditions given as one dict of doses per cell, ``{}`` for the control; named by `format_label`.

    Raises:
        TypeError: an entry is not a dict, or a dose is not a number.
        KeyError: a dict mentions something that is not in `perturbations`.
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
            keys.append(tuple((str(name), float(dose)) for name, dose in spec.items()))
        except (TypeError, ValueError):
            raise TypeError(f"conditions[{row}] is {spec!r}: a dose is no number. Pass {{name: number}}.") from None
    index, found = distinct(keys)
    known = _columns([[name for name, _ in key] for key in found], perturbations)
    labels = np.zeros((len(found), len(known)), dtype=np.float32)
    for row, key in enumerate(found):
        _check_known(dict(key), [name for name, _ in key], known)
        labels[row] = parse_label(dict(key), known, control=control, separator=separator)
    # {"A": 1, "B": 0} and {"A": 1} are written differently and mean the same
    merged, labels = distinct_labels(labels)
    return make_conditions(merged[index], labels, known, control=control, separator=separator)


def read_matrix(
    labels: Any, *, names: Sequence[Any] | None, perturbations: Sequence[str] | None, control: str, separator: str
) -> Conditions:
    """Conditions given as a matrix of doses ``[cells, perturbations]``, named by `names` or else by `format_label`.

    Raises:
        ValueError: not a matrix of finite numbers, not one perturbation name per column, a name with two labels; see
            also `make_conditions`.
    """
    if perturbations is None and hasattr(labels, "columns"):
        perturbations = [str(name) for name in labels.columns]
    labels = np.asarray(labels.toarray() if hasattr(labels, "toarray") else labels)
    if labels.ndim != 2 or labels.dtype.kind not in "fiub":
        raise ValueError(
            f"labels has shape {labels.shape}, dtype {labels.dtype}. Pass numbers in a matrix [cells, perturbations]."
        )
    if perturbations is None:
        perturbations = [f"p{column}" for column in range(labels.shape[1])]
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
    found = None
    if names is not None:
        by_name, found = distinct_names(names)
        rows = _one_label(by_name, found, rows[index])
        index = by_name
    return make_conditions(index, rows, perturbations, names=found, control=control, separator=separator)


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


def _parse_doses(name: str, parts: Sequence[str], dose: Any, control: str, separator: str) -> dict[str, float]:
    """Doses by perturbation, given in the order of the parts of one condition's name."""
    if not parts:
        return {}
    try:
        values = [float(value) for value in (dose.split(separator) if isinstance(dose, str) else [dose])]
    except (TypeError, ValueError):
        values = []
    if len(values) == 1:
        values = values * len(parts)
    if len(values) == len(parts):
        found = {part: value for part, value in zip(parts, values, strict=True) if part != control}
        if all(math.isfinite(value) and value != 0 for value in found.values()):
            return found
    raise ValueError(
        f"Condition {name!r} has the dose {dose!r}. Pass one number, or {len(parts)} joined by {separator!r}, finite "
        f"and not 0 (a cell without the perturbation is a control cell)."
    )


def _split(name: str, control: str, separator: str) -> list[str]:
    """The parts of a condition name; none for the control."""
    parts = [] if name == control else [part.strip() for part in name.split(separator)]
    for part in parts:
        if not part:
            raise ValueError(
                f"Condition {name!r} has an empty name between separators {separator!r}. "
                f"Correct it, or pass separator=<what joins the names>."
            )
        if parts.count(part) > 1 and part != control:
            raise ValueError(f"Condition {name!r} names {part!r} twice. Give a dose instead: '{part}:2'.")
    return parts


def _tokens(name: str, control: str, separator: str, perturbations: Sequence[str] | None) -> list[str]:
    """The perturbations that a condition name mentions, without their doses."""
    known = () if perturbations is None else perturbations
    tokens = []
    for part in _split(name, control, separator):
        head, _, tail = part.rpartition(":")
        tokens.append(head.strip() if part not in known and head and _is_number(tail) else part)
    return [token for token in tokens if token != control]


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _columns(tokens: Iterable[Sequence[str]], perturbations: Sequence[str] | None) -> list[str]:
    """Names of the label columns: as given, or by first appearance."""
    if perturbations is None:
        return list(dict.fromkeys(token for each in tokens for token in each))
    return list(perturbations)


def _check_known(condition: Any, tokens: Sequence[str], known: Sequence[str]) -> None:
    for token in tokens:
        if token not in known:
            raise KeyError(
                f"Condition {condition!r} names {token!r}, which is not in perturbations; "
                f"{nearest_names(token, known)}. Correct the name, or add it to perturbations."
            )
