"""The table of distinct conditions of a data set: names and labels that agree one to one, the control first."""

import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from absl import logging
from jaxtyping import Float, Int

from pdae_jax.data.notation import Notation, warn_of_other_separator
from pdae_jax.design.strata import distinct_labels
from pdae_jax.labels import check_uncut, format_label, split_dose, split_name
from pdae_jax.spelling import check_names, first_names, nearest_names


class Conditions(NamedTuple):
    """The distinct conditions of a data set, the control first, then by first appearance."""

    index: Int[np.ndarray, " cells"]  # row of `labels` and `names`, per cell
    labels: Float[np.ndarray, "conditions perturbations"]
    names: tuple[str, ...]
    perturbations: tuple[str, ...]
    strata: tuple[str, ...] = ()  # those of the perturbations that are strata
    absent: Mapping[str, str] = {}  # ways of writing a dose of 0 -> the condition
    controls: Mapping[str, int] = {}  # how the control is written, and its cells; empty where it has one name


_SEPARATORS = "+_|;,/&-. "  # that files join names by


class Written(NamedTuple):
    """One way in which a condition is written."""

    text: object  # as the user wrote it, for messages
    doses: Mapping[str, float]  # by perturbation; 0 for absent
    name: str | None = None  # what a condition is called that is first written so; None: by `format_label`


def merge_written(index: Int[np.ndarray, " cells"], written: Sequence[Written], notation: Notation) -> Conditions:
    """Make one condition per label, however it is written: ``"A+B"`` and ``"B+A"``, ``"A"`` and ``"A+ctrl"``.

    Args:
        index: position in `written`, per cell.
        written: distinct ways, by first appearance, which names the condition.
        notation: how the data set is written.

    Raises:
        KeyError: a name that is not among `notation.perturbations`, where those are given.
        ValueError: see `make_conditions`.
    """
    columns = _columns(written, notation)
    position = {name: column for column, name in enumerate(columns)}
    labels = np.zeros((len(written), len(columns)), dtype=np.float32)
    for row, way in enumerate(written):
        for name, dose in way.doses.items():
            labels[row, position[name]] = dose
    merged, rows = distinct_labels(labels)
    ways: list[list[Written]] = [[] for _ in rows]
    for row, way in zip(merged, written, strict=True):
        ways[row].append(way)
    names = [
        _name(row, each[0], columns, notation) if row.any() else notation.control
        for row, each in zip(rows, ways, strict=True)
    ]
    if np.all(np.count_nonzero(rows, axis=1) < 2):
        warn_of_other_separator((*notation.controls, *columns), notation.separator)
    check_joined(names, columns, notation.separator)
    _log_ways(names, ways, notation)
    found = make_conditions(merged[index], rows, columns, names=names, notation=notation)
    zero = {
        str(way.text): name for name, each in zip(names, ways, strict=True) for way in each if 0 in way.doses.values()
    }
    counts = np.bincount(index, minlength=len(written)).tolist()
    controls = {str(way.text): n for way, n, row in zip(written, counts, labels, strict=True) if n and not row.any()}
    return found._replace(absent=zero, controls=controls if len(controls) > 1 else {})


def check_joined(names: Sequence[str], perturbations: Sequence[str], separator: str) -> None:
    """Raise ``ValueError`` where names with doses cannot be read again, because the separator is part of a number."""
    for name in names if separator != "+" else ():
        check_uncut(name, split_name(name, separator, perturbations), separator)


def make_conditions(
    index: Int[np.ndarray, " cells"],
    labels: Float[np.ndarray, "conditions perturbations"],
    perturbations: Sequence[str],
    *,
    names: Sequence[str],
    notation: Notation,
) -> Conditions:
    """Check that names and labels agree one to one, and put the control first.

    Args:
        index: row of `labels`, per cell.
        labels: one row per condition.
        perturbations: names of the label columns.
        names: one per row of `labels`.
        notation: how the data set is written.

    Raises:
        ValueError: no control, one label under two names, a name that cannot stand in a combination or be shown.
    """
    check_names("Condition", names)
    check_names("Perturbation", perturbations)
    _check_perturbations(perturbations, notation)
    _check_words(names, notation.control)
    _warn_of_look_alikes((*notation.controls, *perturbations))
    _warn_of_unjoined(perturbations, notation)
    control = notation.control
    zero = [name for name, label in zip(names, labels, strict=True) if not label.any()]
    if control not in zero and (zero or notation.needs_control):
        raise ValueError(_no_control(zero, names, labels, perturbations, control))
    _check_one_name(names, labels, perturbations)
    for name, count in Counter(names).items():
        if count > 1:
            raise ValueError(
                f"Two labels print as {name!r}. Round the doses to six digits, or pass conditions=<names>."
            )
    order = sorted(range(len(names)), key=lambda row: names[row] != control)  # stable
    position = np.argsort(order).astype(np.int32)
    return Conditions(position[index], labels[order], tuple(names[row] for row in order), tuple(perturbations))


def drop_small(
    table: Conditions, min_cells: int | None, control: str
) -> tuple[Conditions, Int[np.ndarray, " kept"] | slice]:
    """Drop conditions of fewer than `min_cells` cells; also returns which rows of the data are kept.

    Raises:
        ValueError: `min_cells` is below 2; the control is too small; without `min_cells`, a condition of one cell.
    """
    if min_cells is not None and min_cells < 2:
        raise ValueError(f"min_cells is {min_cells}. Pass at least 2: a distribution needs two cells.")
    counts = np.bincount(table.index, minlength=len(table.names))
    kept = counts >= (min_cells or 2)
    small = [table.names[row] for row in np.flatnonzero(~kept)]
    if not small:
        return table, slice(None)
    if min_cells is None:
        raise ValueError(
            f"Conditions with one cell: {first_names(small)}. A distribution needs at least 2: pass min_cells=2 to "
            f"drop these, or merge them with another condition."
        )
    if control in small:
        raise ValueError(
            f"The control {control!r} has {counts[0]} cells, but min_cells={min_cells}. Pass a smaller min_cells, or "
            f"more control cells."
        )
    rows = np.flatnonzero(kept[table.index])
    logging.warning(
        "Dropped %d conditions with fewer than %d cells, %d cells in all: %s",
        *(len(small), min_cells, len(table.index) - len(rows), first_names(small)),
    )
    position = (np.cumsum(kept) - 1).astype(np.int32)
    names = tuple(name for name, keep in zip(table.names, kept, strict=True) if keep)
    return table._replace(index=position[table.index[rows]], labels=table.labels[kept], names=names), rows


def drop_unused(table: Conditions) -> Conditions:
    """Drop perturbations that no cell has: all doses zero, or their conditions dropped."""
    used = np.asarray(table.labels.any(axis=0))
    if used.all():
        return table
    unused = [name for name, use in zip(table.perturbations, used, strict=True) if not use]
    logging.info("No label column for perturbations that no cell has: %s", first_names(unused))
    names = tuple(name for name in table.perturbations if name not in unused)
    strata = tuple(name for name in table.strata if name in names)
    return table._replace(labels=np.ascontiguousarray(table.labels[:, used]), perturbations=names, strata=strata)


def _columns(written: Sequence[Written], notation: Notation) -> list[str]:
    """Names of the label columns: as given, or by first appearance."""
    if notation.perturbations is None:
        return list(dict.fromkeys(name for way in written for name in way.doses))
    known = set(notation.perturbations)
    for way in written:
        for name in way.doses:
            if name not in known:
                raise KeyError(
                    f"Condition {way.text!r} names {name!r}, which is not in perturbations; "
                    f"{nearest_names(name, notation.perturbations)}. Correct the name, or add it to perturbations."
                )
    return list(notation.perturbations)


def _name(label: np.ndarray, first: Written, columns: Sequence[str], notation: Notation) -> str:
    return first.name or format_label(label, columns, control=notation.control, separator=notation.separator)


def _log_ways(names: Sequence[str], ways: Sequence[Sequence[Written]], notation: Notation) -> None:
    """Says which texts were read as one condition, and where a dose of zero was read as absent."""
    for name, each in zip(names, ways, strict=True):
        others = [way.text for way in each if way.text != name]
        if name == notation.control and others:
            logging.info("Read as the control %r: %s", name, first_names(others))
    several = [
        f"{name} (as {first_names([way.text for way in each])})"
        for name, each in zip(names, ways, strict=True)
        if len(each) > 1 and name != notation.control
    ]
    if several:
        logging.info("%d conditions are written in several ways: %s", len(several), "; ".join(several[:8]))
    zero = [way.text for each in ways for way in each if 0 in way.doses.values() and any(way.doses.values())]
    if zero:
        logging.info("A dose of 0 is read as absent in %s", first_names(zero))


def _check_one_name(
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


def _check_perturbations(perturbations: Sequence[str], notation: Notation) -> None:
    """Names are unique, not the control's, and none of them reads as others combined or with a dose."""
    for name, count in Counter(perturbations).items():
        if count > 1:
            raise ValueError(
                f"Perturbation {name!r} is given {count} times. Perturbation names are unique: rename one."
            )
        if name in notation.controls:
            raise ValueError(f"Perturbation {name!r} has the name of the control. Pass another control=, or rename it.")
    for name in perturbations:
        if notation.separator not in name and ":" not in name:
            continue
        others = {*perturbations, *notation.controls} - {name}
        parts = [split_dose(part, others)[0] for part in split_name(name, notation.separator, others)]
        if all(part in others for part in parts):
            raise ValueError(
                f"Perturbation {name!r} also reads as {' and '.join(map(repr, parts))}, combined by "
                f"{notation.separator!r} or with a dose: labels would be ambiguous. Rename it, or pass a separator "
                f"that no name contains, such as ' & '."
            )


def _check_words(names: Sequence[str], control: str) -> None:
    """No condition has a name by which predictions ask for other cells."""
    meanings = {"all": "all training cells", "nearest": "the nearest condition", "control": f"the control, {control!r}"}
    for word, meaning in meanings.items():
        if word in names and word != control:
            more = f", or pass control=[{control!r}, 'control'] if it is unperturbed too" if word == "control" else ""
            raise ValueError(
                f"A condition is named {word!r}, but source={word!r} of a prediction stands for {meaning}. Rename the "
                f"condition{more}."
            )


def _warn_of_look_alikes(names: Sequence[str]) -> None:
    """Says which names differ in what is hardly seen: case, spaces within, signs that look the same."""
    seen: dict[str, str] = {}
    for name in names:
        letters = unicodedata.normalize("NFKC", name).casefold()
        other = seen.setdefault(
            "".join(x for x in letters if not x.isspace() and unicodedata.category(x) != "Cf"), name
        )
        if other != name:
            logging.warning("Read as two names: %r and %r. If they are one, give them one name.", other, name)


def _warn_of_unjoined(perturbations: Sequence[str], notation: Notation) -> None:
    """Says which perturbations look like combinations of others, joined by something else than the separator."""
    names = [name for name in perturbations if name not in notation.strata]
    for separator in _SEPARATORS.replace(notation.separator, ""):
        parts = {name: [part.strip() for part in name.split(separator)] for name in names if separator in name}
        others = [[part for part in each if part not in notation.controls] for each in parts.values()]
        known = {*names, *notation.controls, *(each[0] for each in others if len(each) == 1)}
        found = [name for name, each in parts.items() if known.issuperset(each)]
        if found:
            logging.warning(
                "Read as one perturbation each, though their parts are others or the control: %s. If %r joins names, "
                "pass separator=%r.",
                *(first_names(found), separator, separator),
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
