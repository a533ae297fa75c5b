"""The table of distinct conditions of a data set: names and labels that agree one to one, the control first."""

from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float, Int

from pdae_jax.labels import format_label
from pdae_jax.spelling import nearest_names


class Conditions(NamedTuple):
    """The distinct conditions of a data set, the control first, then by first appearance."""

    index: Int[np.ndarray, " cells"]  # row of `labels` and `names`, per cell
    labels: Float[np.ndarray, "conditions perturbations"]
    names: tuple[str, ...]
    perturbations: tuple[str, ...]


def make_conditions(
    index: Int[np.ndarray, " cells"],
    labels: Float[np.ndarray, "conditions perturbations"],
    perturbations: Sequence[str],
    *,
    names: Sequence[str] | None = None,
    control: str,
    separator: str,
) -> Conditions:
    """Checks that names and labels agree one to one and puts the control first.

    Args:
        index: row of `labels`, per cell.
        labels: one row per condition.
        perturbations: names of the label columns.
        names: one per row of `labels`; those of `format_label` when None.
        control: name of the condition with the zero label.
        separator: joins perturbation names.

    Raises:
        ValueError: no control, one label under two names, a name that cannot stand in a combination.
    """
    _check_perturbations(perturbations, control, separator)
    if names is None:
        names = [format_label(row, perturbations, control=control, separator=separator) for row in labels]
    zero = [name for name, label in zip(names, labels, strict=True) if not label.any()]
    if control not in zero:
        raise ValueError(_no_control(zero, names, labels, perturbations, control))
    check_one_name(names, labels, perturbations)
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(
                f"Two labels print as {name!r}. Round the doses to six digits, or pass conditions=<names>."
            )
    order = sorted(range(len(names)), key=lambda row: names[row] != control)  # stable
    position = np.argsort(order).astype(np.int32)
    return Conditions(position[index], labels[order], tuple(names[row] for row in order), tuple(perturbations))


def check_one_name(
    names: Sequence[str], labels: Float[np.ndarray, "conditions perturbations"], perturbations: Sequence[str]
) -> None:
    """Raises ``ValueError`` where one label has two names."""
    owner: dict[bytes, str] = {}
    for name, label in zip(names, labels, strict=True):
        other = owner.setdefault(label.tobytes(), name)
        if other != name:
            raise ValueError(
                f"Conditions {other!r} and {name!r} have the same label {_doses(label, perturbations)}. Give them one "
                f"name (the order of perturbations carries no meaning), or labels that differ."
            )


def distinct(values: Sequence[Any]) -> tuple[Int[np.ndarray, " cells"], list[Any]]:
    """Position of every value in the list of distinct values, which is in order of first appearance."""
    for row, value in enumerate(values):
        if not isinstance(value, Hashable):
            raise TypeError(
                f"conditions[{row}] is {value!r} ({type(value).__name__}), but conditions[0] is {values[0]!r}. "
                f"Pass a string for every cell, or a dict for every cell."
            )
    position: dict[Any, int] = {}
    index = np.fromiter((position.setdefault(value, len(position)) for value in values), np.int32, count=len(values))
    return index, list(position)


def distinct_names(names: Sequence[Any]) -> tuple[Int[np.ndarray, " cells"], list[str]]:
    """`distinct`, for condition names: every one a string that is not empty."""
    index, found = distinct(names)
    for position, name in enumerate(found):
        if isinstance(name, str) and name.strip():
            continue
        rows = np.flatnonzero(index == position)
        where = f"{name!r} ({type(name).__name__}) in {len(rows)} cells, the first in row {rows[0]}"
        if str(name).strip() in ("", "None", "nan", "NaT", "<NA>"):
            raise ValueError(f"The condition is missing: {where}. Name the condition of every cell, or drop these.")
        raise TypeError(f"A condition is {where}. Pass strings such as 'A+B', dicts of doses, or labels=<matrix>.")
    return index, found


def distinct_labels(
    rows: Float[np.ndarray, "rows perturbations"],
) -> tuple[Int[np.ndarray, " rows"], Float[np.ndarray, "conditions perturbations"]]:
    """`distinct`, for the rows of a matrix (twenty times faster than ``np.unique(axis=0)``, and keeps the order)."""
    rows = rows + 0.0  # minus zero becomes zero, so that equal rows are equal byte for byte
    index, found = distinct([row.tobytes() for row in rows])
    return index, np.frombuffer(b"".join(found), dtype=rows.dtype).reshape(len(found), rows.shape[1])


def _check_perturbations(perturbations: Sequence[str], control: str, separator: str) -> None:
    for name, count in Counter(perturbations).items():
        if count > 1:
            raise ValueError(
                f"Perturbation {name!r} is given {count} times. Perturbation names are unique: rename one."
            )
        if name == control:
            raise ValueError(f"Perturbation {name!r} has the name of the control. Pass another control=, or rename it.")
        if separator in name:
            raise ValueError(
                f"Perturbation {name!r} contains the separator {separator!r}, so combinations would be ambiguous. "
                f"Pass a separator that no name contains, such as ' & '."
            )


def _no_control(
    zero: Sequence[str], names: Sequence[str], labels: np.ndarray, perturbations: Sequence[str], control: str
) -> str:
    if control in names:
        found = _doses(labels[list(names).index(control)], perturbations)
        return (
            f"The control {control!r} has the label {found}, but the control is the zero label. "
            f"Correct labels, or pass control=<the unperturbed condition>."
        )
    if zero:
        return f"Condition {zero[0]!r} has the zero label, but control={control!r}. Pass control={zero[0]!r}."
    return (
        f"No control cells: no condition is {control!r} (zero label); {nearest_names(control, names)}. "
        f"Pass control=<the unperturbed condition>, or add unperturbed cells."
    )


def _doses(label: np.ndarray, perturbations: Sequence[str]) -> dict[str, float]:
    return {name: dose for name, dose in zip(perturbations, label.tolist(), strict=True) if dose}
