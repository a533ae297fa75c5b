"""Names in conditions: cleaned, distinct, none missing; cut into parts, and the doses that parts have."""

import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Int

from pdae_jax.data.notation import Notation, as_text
from pdae_jax.design.strata import distinct
from pdae_jax.labels import NUMBER, check_uncut, said_twice, split_dose, split_name
from pdae_jax.spelling import first_names

#: What programs write for a value that is missing, as text; the first ones in any case.
_MISSING_ANY_CASE = frozenset({"", "nan", "none", "null", "n/a", "#n/a", "<na>"})
_MISSING = frozenset({"NA", "na", "NaT"})  # not Na, which is sodium, or NAT, a gene
_UNIT = r"(?:[fpnuµμm]M|m?mol|[pnuµμm]g|[fpnuµμmk]?g/[nuµμmk]?(?:l|L|g)|I?U/m?[lL]|m?Gy|%)"
_DOSE_WITH_UNIT = re.compile(rf"(?:^|.*[:\s_(]){NUMBER.pattern}\s*{_UNIT}\)?")
_ODD_NUMBER = re.compile(r".*:\s*(?:[-+]?[0-9]*,[0-9]+|[−–][0-9]*[.,]?[0-9]+)")
_BRACKETS = {")": "(", "]": "[", "}": "{"}


def distinct_names(names: Sequence[Any], known: Collection[str]) -> tuple[Int[np.ndarray, " cells"], list[str]]:
    """Apply `distinct` to condition names: without spaces around them, integers and booleans as text, none missing.

    Args:
        names: one per cell.
        known: names that are asked for, also where they say that a value is missing.
    """
    index, found = distinct([_clean(name) for name in names])
    for position, name in enumerate(found):
        missing = is_missing(str(name), known if isinstance(name, str) else ())
        if isinstance(name, str) and not missing:
            continue
        rows = np.flatnonzero(index == position)
        where = f"{name!r} ({type(name).__name__}) in {len(rows)} cells, the first in row {rows[0]}"
        if missing:
            asked = " If it is a name, pass it in control= or perturbations=." if isinstance(name, str) and name else ""
            raise ValueError(
                f"The condition is missing: {where}. Name the condition of every cell, or drop these.{asked}"
            )
        whole = "; of a column of numbers column.astype(int).astype(str)" if isinstance(name, float) else ""
        raise TypeError(
            f"A condition is {where}. Pass strings such as 'A+B'{whole}, dicts of doses, or labels=<matrix>."
        )
    return index, found


def is_missing(name: str, known: Collection[str]) -> bool:
    """Tell whether a text says that there is no value, and is not asked for as a name."""
    return name not in known and (name in _MISSING or name.casefold() in _MISSING_ANY_CASE)


def parts_of(name: str, notation: Notation) -> list[str]:
    """Return the parts of a condition name, with doses and parts that are the control; ``ValueError`` if one is no
    name.
    """
    if name in notation.controls:
        return [name]
    parts = split_name(name, notation.separator, notation.whole)
    if notation.dose_in_name is not False:
        check_uncut(name, parts, notation.separator)
    check_parts(name, parts, notation)
    return parts


def check_parts(condition: object, parts: Sequence[str], notation: Notation) -> None:
    """Raise ``ValueError`` for a part that is no name, and for a perturbation named twice."""
    for part in parts:
        if split_dose(part, notation.known)[0] not in notation.known:
            _check_part(condition, part, notation)
        if parts.count(part) > 1 and part not in notation.controls:
            raise ValueError(f"Condition {said_twice(condition, part)}")


def read_doses(parts: Iterable[str], notation: Notation) -> dict[str, tuple[str, float]]:
    """Read the name and dose of each part of the condition names of a data set.

    A number after the last colon is a dose where `dose_in_name` says so, and where it is certain: the name before it is
    listed in `perturbations`, stands alone elsewhere in the data, or has a number that no identifier has (a sign, a
    decimal point, zero).
    """
    found = list(dict.fromkeys(parts))
    if notation.dose_in_name is False:
        return {part: (part, 1.0) for part in found}
    if notation.perturbations is not None:
        return {part: split_dose(part, notation.known) for part in found}
    heads = {part: part.rpartition(":")[0].strip() for part in found if NUMBER.fullmatch(_tail(part))}
    heads = {part: head for part, head in heads.items() if head}
    certain = set(heads.values())
    if notation.dose_in_name is None:
        evident = {head for part, head in heads.items() if _is_no_identifier(_tail(part))}
        certain &= evident | {part for part in found if part not in heads}
        _warn_of_numbers([part for part, head in heads.items() if head not in certain])
    return {part: split_dose(part, certain) if part in heads else (part, 1.0) for part in found}


def check_numbers(parts: Iterable[Sequence[str]], notation: Notation) -> None:
    """Raise ``ValueError`` for a number that stands beside names only: ``"A_10.0"`` cut by ``_`` is a dose of A."""
    ways = [tuple(each) for each in dict.fromkeys(map(tuple, parts))]
    alone = {each[0] for each in ways if len(each) == 1}
    for each in ways:
        numbers = [part for part in each if NUMBER.fullmatch(part) and part not in notation.known | alone]
        names = [part for part in each if not NUMBER.fullmatch(part)]
        if numbers and names:
            joined = notation.separator.join(each)
            raise ValueError(
                f"Condition {joined!r} has the part {numbers[0]!r}, a number that no condition is by itself. If it is "
                f"the dose of {names[0]!r}, write {f'{names[0]}:{numbers[0]}'!r}, or pass a column with dose=; if "
                f"it is a perturbation, pass perturbations=<all names>."
            )


def check_control_parts(parts: Iterable[str], notation: Notation) -> None:
    """Raise ``ValueError`` where the control is a combination and has a part that other conditions have too."""
    others = set(parts)
    for control in notation.controls:
        own = split_name(control, notation.separator, notation.perturbations or ())
        shared = [part for part in own if part in others and part not in notation.controls]
        if len(own) > 1 and shared:
            raise ValueError(
                f"The control {control!r} has the part {shared[0]!r}, which is also in other conditions: it would be a "
                f"perturbation that the control lacks. Pass control={own} if these stand for nothing in a combination, "
                f"or leave them out of the names."
            )


def _check_part(condition: object, part: str, notation: Notation) -> None:
    """Raises ``ValueError`` for a text that is not the name of a perturbation."""
    separator = notation.separator
    where = f"Condition {condition!r}" + ("" if part == condition else f" has the part {part!r}, which")
    whole = f"perturbations=<all names, such as {condition!r}>, which are found whole"
    if not part:
        raise ValueError(
            f"Condition {condition!r} has an empty name between separators {separator!r}. Correct it, or pass "
            f"separator=<what joins the names>, or {whole}."
        )
    if is_missing(part, ()):
        raise ValueError(
            f"{where} is the text of a missing value. Name the condition of every cell; if it is a name, pass it in "
            f"control= or perturbations=; join columns by condition=[<both>]."
        )
    if not any(letter.isalnum() for letter in part) or not _is_balanced(part):
        why = "no name: brackets are left open or closed" if any(letter.isalnum() for letter in part) else "no name"
        raise ValueError(
            f"{where} is {why}. If {separator!r} belongs to the name, pass separator=<what joins names, such as "
            f"' & '>, or {whole}."
        )
    if _ODD_NUMBER.fullmatch(part):
        raise ValueError(
            f"{where} has a decimal comma, or a dash for a minus. Write doses as programs do, 'A:-0.5'; if it is a "
            f"name, pass {whole}."
        )
    if _DOSE_WITH_UNIT.fullmatch(part):
        raise ValueError(
            f"{where} is a dose with a unit. Write doses as numbers in one unit, 'A:10', or pass them in a column with "
            f"dose=; if it is a name, pass {whole}."
        )


def _is_balanced(text: str) -> bool:
    still_open: list[str] = []
    for letter in text:
        if letter in _BRACKETS.values():
            still_open.append(letter)
        elif letter in _BRACKETS and (not still_open or still_open.pop() != _BRACKETS[letter]):
            return False
    return not still_open


def _tail(part: str) -> str:
    return part.rpartition(":")[2].strip()


def _is_no_identifier(number: str) -> bool:
    return number == "0" or not number.lower().replace("e", "").isdigit()


def _warn_of_numbers(names: Sequence[str]) -> None:
    if names:
        logging.warning(
            "Read as names, not as doses: %s. Pass dose_in_name=True if the numbers are doses, False to silence this.",
            first_names(names),
        )


def _clean(name: Any) -> Any:
    if isinstance(name, str | bytes):
        return as_text(name)
    return str(name) if isinstance(name, bool | int | np.bool_ | np.integer) else name
