"""How a data set writes its conditions: control names, the separator, doses in names; what may be part of a name."""

import dataclasses
import functools
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from absl import logging

from pdae_jax.labels import split_name
from pdae_jax.spelling import check_names, first_names, is_pattern, matching_names, nearest_names
from pdae_jax.types import PerturbationData

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
    *,
    like: PerturbationData | None = None,
) -> Notation:
    """Check and clean what the caller says of the notation; the arguments are those of `pdae_jax.from_arrays`.

    A control that repeats one name (``"ctrl+ctrl"``, from two columns joined by hand) stands for that name. Of cells
    that join others, `like`, unperturbed ones may be named in their own way; all else is written as there.

    Raises:
        ValueError: an empty separator or list of controls, an unknown kind of doses, a name that cannot be one.
    """
    if like is not None:
        controls = [like.control, *(name for name in _listed(control) if name != "control")]
        found = make_notation(controls, like.separator, like.perturbations, dose_in_name, allow_doses, strata)
        return dataclasses.replace(found, needs_control=False, strata=(*found.strata, *like.strata))
    if not separator:
        raise ValueError("separator is empty. Pass what joins perturbation names, such as '+'.")
    names = None if perturbations is None else tuple(as_text(name) for name in perturbations)
    given = _listed(control)
    if not given:
        raise ValueError("control is an empty list. Pass the name of the unperturbed condition, or several.")
    controls = []
    for name in map(as_text, given):
        parts = set(split_name(name, separator, names or ()))
        controls.append(parts.pop() if len(parts) == 1 and all(parts) else name)
    check_names("Control", controls)
    check_names("Perturbation", names or ())
    allowed = (allow_doses,) if isinstance(allow_doses, str) else tuple(allow_doses)
    for kind in allowed:
        if kind not in ODD_DOSES:
            raise ValueError(f"allow_doses names {kind!r}; known are {first_names(ODD_DOSES)}.")
    texts = tuple(map(as_text, (strata,) if isinstance(strata, str | int) else strata))
    return Notation(tuple(dict.fromkeys(controls)), separator, names, dose_in_name, allowed, texts)


def _listed(control: Any) -> list[Any]:
    return [control] if isinstance(control, str | bytes | int) or not isinstance(control, Iterable) else list(control)


def with_found_controls(notation: Notation, conditions: Iterable[Any]) -> Notation:
    """Return the notation with the names that are in the data where a control is a pattern, such as ``"NegCtrl*"``.

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
    """Find another separator than the one that is passed, and the names that are combinations by it, with their parts.

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
    """Say that no name is a combination, and would be with another separator."""
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
    """Return a name as text, without spaces around it; letters with accents as one character, however they are
    typed.
    """
    return unicodedata.normalize("NFC", name.decode() if isinstance(name, bytes) else str(name)).strip()
