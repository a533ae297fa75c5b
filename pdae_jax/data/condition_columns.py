"""Conditions from the columns of a table: names, doses, and names that are cell types, lines or donors."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import logging

from pdae_jax.data.conditions import Conditions, Written, merge_written
from pdae_jax.data.doses import check_control_dose, check_doses, doses_of, warn_of_logarithms
from pdae_jax.data.entries import by_perturbation, check_joined_names, doses_in_names, read_names
from pdae_jax.data.names import check_parts, distinct_names, parts_of
from pdae_jax.data.notation import Notation
from pdae_jax.data.tables import find_columns
from pdae_jax.design.strata import distinct
from pdae_jax.labels import NUMBER, as_name, check_uncut, split_name
from pdae_jax.spelling import first_names


def read_conditions(columns: Any, dosed: Sequence[str | None], notation: Notation) -> Conditions:
    """Read conditions from a frame: first columns with names, then those of `dosed` that are not None.

    Args:
        columns: the data frame.
        dosed: columns with doses; None where the names of a column have none, as those of cell types.
        notation: how the data set is written.

    Raises:
        ValueError: a name is missing, there are not as many columns of doses as of names; see also `read_columns`.
    """
    warn_of_logarithms(dosed)
    num_doses = len(dosed)
    num_names = columns.shape[1] - sum(name is not None for name in dosed)
    strata = [str(name) in notation.strata for name in columns.columns[:num_names]]
    if num_doses == num_names:
        dosed = [name for name, stratum in zip(dosed, strata, strict=True) if name is not None or not stratum]
    num_own = num_names - sum(strata)
    given = [name for name in notation.strata if name not in (notation.perturbations or ())]
    find_columns(given, [str(name) for name in columns.columns[:num_names]], "condition")
    if num_own < 1 or num_doses not in (0, 1, num_names, num_own) or len(dosed) not in (0, 1, num_own):
        raise ValueError(
            f"{num_own} condition columns and {num_doses} dose columns. Pass one condition column or more, and no "
            f"dose column, one, or one for each; strata have none."
        )
    for column in range(num_names):
        of_cells = columns.iloc[:, column]
        missing = np.flatnonzero((of_cells.isna() | of_cells.isin([""])).to_numpy())
        if len(missing):
            fill = f" If these have no second perturbation, fill in the name of the control, {notation.control!r}."
            raise ValueError(
                f"Column {columns.columns[column]!r} is missing in {len(missing)} cells, the first in row "
                f"{missing[0]}. Name the condition of every cell, or drop these.{fill if num_names > 1 else ''}"
            )
    values = [columns.iloc[:, column].tolist() for column in range(columns.shape[1])]
    for name, names, stratum in zip(columns.columns, values, strata, strict=False):
        if stratum and notation.needs_control:
            _check_reference(str(name), list(dict.fromkeys(map(str, names))), notation)
    if len(values) == 1:
        return read_names(values[0], notation)
    found = iter(values[num_names:])
    doses = [next(found) if name is not None else [1.0] * len(columns) for name in dosed]
    return read_columns(values[:num_names], doses, notation, strata)


def _check_reference(column: str, values: Sequence[str], notation: Notation) -> None:
    """Raises ``ValueError`` where no value of a stratum is a control: there would be no unperturbed cells."""
    if not {as_name(value.strip(), ()) for value in values} & {name.strip() for name in notation.controls}:
        given = first_names(notation.controls)
        raise ValueError(
            f"The stratum {column!r} and its reference go together: no control, {given}, is among its values, "
            f"{first_names(values)}. Pass the one whose unperturbed cells are the control in control=, or as "
            f"config.data.reference."
        )


def read_columns(
    names: Sequence[Sequence[Any]],
    doses: Sequence[Sequence[Any]],
    notation: Notation,
    strata: Sequence[bool] = (),
) -> Conditions:
    """Read conditions given by columns of names and of doses; they are named by `format_label`.

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
    in_names = doses_in_names([_of_columns(each, fixed, False) for each in by_column], notation)
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
        written.append(Written(text, by_perturbation(text, pairs)))
    check_doses(index, written, notation)
    return merge_written(index, written, notation)._replace(strata=of_strata)


def _texts(column: Sequence[Any], notation: Notation) -> list[str]:
    check_joined_names(column, notation.separator)
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
    """Find what a combination in each column may be made of: names that stand alone in a column of perturbations, or
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
