"""How a data set writes its conditions: control names, the separator, doses in names; what may be part of a name."""

import dataclasses
import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from absl import logging

from pdae_jax.labels import NUMBER, check_uncut, said_twice, split_dose, split_name
from pdae_jax.spelling import check_names, first_names, is_pattern, matching_names, nearest_names
from pdae_jax.types import PerturbationData

#: What programs write for a value that is missing, as text; the first ones in any case.
_MISSING_ANY_CASE = frozenset({"", "nan", "none", "null", "n/a", "#n/a", "<na>"})
_MISSING = frozenset({"NA", "na", "NaT"})  # not Na, which is sodium, or NAT, a gene
_UNIT = r"(?:[fpnuµμm]M|m?mol|[pnuµμm]g|[fpnuµμmk]?g/[nuµμmk]?(?:l|L|g)|I?U/m?[lL]|m?Gy|%)"
_DOSE_WITH_UNIT = re.compile(rf"(?:^|.*[:\s_(]){NUMBER.pattern}\s*{_UNIT}\)?")
_ODD_NUMBER = re.compile(r".*:\s*(?:[-+]?[0-9]*,[0-9]+|[−–][0-9]*[.,]?[0-9]+)")
_BRACKETS = {")": "(", "]": "[", "}": "{"}
_SEPARATORS = ("_", "|", "&", "+", ";", ",", "/")  # that names are joined by, beside the one that is passed


#: Doses in names and columns that are refused unless they are asked for: they may be logarithms by mistake.
ODD_DOSES = ("zero", "negative")


@dataclasses.dataclass(frozen=True)
class Notation:
    """How the conditions of a data set are written."""

    controls: tuple[str, ...]  # names of unperturbed cells; the first is that of the control condition
    separator: str  # joins perturbations
    perturbations: tuple[str, ...] | None  # label columns as the caller lists them; None: by first appearance
    dose_in_name: bool | None  # whether a number after the last colon is a dose; None: where that is certain
    allow_doses: tuple[str, ...] = ()  # of `ODD_DOSES`, that are meant so
    strata: tuple[str, ...] = ()  # columns of names, or names, that are strata and no perturbations
    needs_control: bool = True  # False: cells that join other data, which have the control

    @property
    def control(self) -> str:
        return self.controls[0]

    @functools.cached_property
    def known(self) -> frozenset[str]:
        """Controls and listed perturbations: names whatever they contain."""
        return frozenset((*(self.perturbations or ()), *self.controls))

    @functools.cached_property
    def whole(self) -> frozenset[str]:
        """Those of the known names that contain the separator."""
        return frozenset(name for name in self.known if self.separator in name)


def make_notation(
    control: Any = "control",
    separator: str = "+",
    perturbations: Iterable[Any] | None = None,
    dose_in_name: bool | None = None,
    allow_doses: str | Iterable[str] = (),
    strata: Any = (),
) -> Notation:
    """Checks and cleans what the caller says of the notation.

    A control that repeats one name (``"ctrl+ctrl"``, from two columns joined by hand) stands for that name.
    """
    if not separator:
        raise ValueError("separator is empty. Pass what joins perturbation names, such as '+'.")
    names = None if perturbations is None else tuple(as_text(name) for name in perturbations)
    given = [control] if isinstance(control, str | bytes | int) or not isinstance(control, Iterable) else list(control)
    if not given:
        raise ValueError("control is an empty list. Pass the name of the unperturbed condition, or several.")
    controls = []
    for name in map(as_text, given):
        parts = set(split_name(name, separator, names or ()))
        controls.append(parts.pop() if len(parts) == 1 and all(parts) else name)
    check_names("Control", controls)
    check_names("Perturbation", names or ())
    allowed = (allow_doses,) if isinstance(allow_doses, str) else tuple(allow_doses)
    of_strata = (strata,) if isinstance(strata, str | int) else tuple(strata)
    for kind in allowed:
        if kind not in ODD_DOSES:
            raise ValueError(f"allow_doses names {kind!r}; known are {first_names(ODD_DOSES)}.")
    texts = tuple(map(as_text, of_strata))
    return Notation(tuple(dict.fromkeys(controls)), separator, names, dose_in_name, allowed, texts)


def notation_like(
    like: PerturbationData | None,
    control: Any,
    separator: str,
    perturbations: Any,
    dose_in_name: bool | None,
    allow_doses: str | Sequence[str],
    strata: str | Sequence[str],
) -> Notation:
    """Say how conditions are written: as the caller says, or as in the data that these join; see `make_notation`."""
    if like is None:
        return make_notation(control, separator, perturbations, dose_in_name, allow_doses, strata)
    given = [control] if isinstance(control, str | int) else list(control)  # unperturbed cells may be named otherwise
    controls = [like.control, *(name for name in given if name != "control")]
    found = make_notation(controls, like.separator, like.perturbations, dose_in_name, allow_doses, strata)
    return dataclasses.replace(found, needs_control=False, strata=(*found.strata, *like.strata))


def with_found_controls(notation: Notation, conditions: Iterable[Any]) -> Notation:
    """The notation with the names that are in the data where a control is a pattern, such as ``"NegCtrl*"``.

    A pattern matches single perturbations, ``"NegCtrl0"`` and not ``"NegCtrl0_KLF1"``, unless it has the separator.
    Where the names are joined by another one, so that it would match the latter, this is refused.

    Args:
        notation: how the data set is written.
        conditions: names, or dicts of doses; the same ones may come often.

    Raises:
        ValueError: nothing matches, or a combination with a perturbation does.
    """
    if not any(is_pattern(control) for control in notation.controls):
        return notation
    names = (name for each in conditions for name in (each if isinstance(each, Mapping) else (each,)))
    texts = list(dict.fromkeys(as_text(name) for name in names if isinstance(name, str)))
    parts = dict.fromkeys(part for text in texts for part in split_name(text, notation.separator, notation.whole))
    controls: list[str] = []
    for control in notation.controls:
        among = texts if notation.separator in control else list(parts)
        found = [control] if control in among or not is_pattern(control) else matching_names(control, among)
        if not found and notation.needs_control:
            raise ValueError(
                f"No name matches control={control!r}; {nearest_names(control, among)}. Pass control=<the "
                f"unperturbed condition, several, or a pattern such as 'NegCtrl*'>."
            )
        if control not in found:
            _check_no_combination(control, found, texts, notation)
        controls += sorted(found, key=_natural)
    return dataclasses.replace(notation, controls=tuple(dict.fromkeys(controls)))


def joined_otherwise(names: Sequence[str], separator: str) -> tuple[str, dict[str, list[str]]]:
    """Another separator than the one that is passed, and the names that are combinations by it, with their parts.

    A part is a perturbation, and no number of a guide, where another name begins with it: none does so with ``"g1"`` of
    ``"A_g1"``.
    """
    found: tuple[str, dict[str, list[str]]] = separator, {}
    for other in _SEPARATORS:
        if other == separator.strip():
            continue
        parts = {name: split_name(name, other) for name in names}
        starts = Counter(each[0] for each in parts.values())
        joined = {
            name: each
            for name, each in parts.items()
            if len(each) > 1 and starts[each[0]] > 1 and all(part and starts[part] for part in each)
        }
        found = (other, joined) if len(joined) > len(found[1]) else found
    return found


def warn_of_other_separator(names: Sequence[str], separator: str) -> None:
    """Says that no name is a combination, and would be with another separator."""
    other, joined = joined_otherwise(names, separator)
    if joined:
        logging.warning(
            "No condition is a combination by separator=%r, and %d would be by %r: %s. Pass separator=%r if they are.",
            *(separator, len(joined), other, first_names(list(joined), 3), other),
        )


def _check_no_combination(pattern: str, found: Sequence[str], names: Sequence[str], notation: Notation) -> None:
    """Raises ``ValueError`` where a pattern for controls matches a name that is a control and a perturbation."""
    other, joined = joined_otherwise(names, notation.separator)
    for name in found:
        perturbing = [part for part in joined.get(name, ()) if not matching_names(pattern, [part])]
        if perturbing:
            raise ValueError(
                f"control={pattern!r} matches {name!r}, which has {perturbing[0]!r} in it: its cells are perturbed. "
                f"Pass separator={other!r} if that joins names here, or the names of the controls one by one."
            )


def _natural(name: str) -> list[tuple[int, str]]:
    """The order of names in which ``NegCtrl2`` comes before ``NegCtrl10``."""
    return [(int(part), "") if part.isdecimal() else (0, part) for part in re.split(r"(\d+)", name)]


def as_text(name: Any) -> str:
    """A name as text, without spaces around it; letters with accents as one character, however they are typed."""
    return unicodedata.normalize("NFC", name.decode() if isinstance(name, bytes) else str(name)).strip()


def is_missing(name: str, known: Collection[str]) -> bool:
    """Whether a text says that there is no value, and is not asked for as a name."""
    return name not in known and (name in _MISSING or name.casefold() in _MISSING_ANY_CASE)


def parts_of(name: str, notation: Notation) -> list[str]:
    """The parts of a condition name, with doses and parts that are the control; ``ValueError`` if one is no name."""
    if name in notation.controls:
        return [name]
    parts = split_name(name, notation.separator, notation.whole)
    if notation.dose_in_name is not False:
        check_uncut(name, parts, notation.separator)
    check_parts(name, parts, notation)
    return parts


def check_parts(condition: object, parts: Sequence[str], notation: Notation) -> None:
    """Raises ``ValueError`` for a part that is no name, and for a perturbation named twice."""
    for part in parts:
        if split_dose(part, notation.known)[0] not in notation.known:
            _check_part(condition, part, notation)
        if parts.count(part) > 1 and part not in notation.controls:
            raise ValueError(f"Condition {said_twice(condition, part)}")


def read_doses(parts: Iterable[str], notation: Notation) -> dict[str, tuple[str, float]]:
    """Name and dose of each part of the condition names of a data set.

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
    """Raises ``ValueError`` for a number that stands beside names only: ``"A_10.0"`` cut by ``_`` is a dose of A."""
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
    """Raises ``ValueError`` where the control is a combination and has a part that other conditions have too."""
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
