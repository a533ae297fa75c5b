"""Doses of conditions: read from columns, and refused where they would say something that nobody meant."""

import math
import re
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from absl import logging
from jaxtyping import Int

from pdae_jax.data.conditions import Written
from pdae_jax.data.notation import Notation
from pdae_jax.labels import NUMBER, split_sum

_DECIMAL_COMMA = re.compile(r"[-+]?[0-9]*,[0-9]+")
_LOGARITHM = re.compile(r"(^|[^a-z])(log(10|2|e)?|ln|lg)($|[^a-z0-9]|dose|conc)", re.IGNORECASE)
_AGAIN = (
    "Logarithms do this: that of 1 is 0, and of less than 1 it is negative. Pass doses as they are, in one unit, or "
    "log1p(dose / unit)"
)


def doses_of(text: str, parts: Sequence[str], dose: Any, notation: Notation) -> list[tuple[str, float]]:
    """Return names and doses of the perturbations that have one dose, or a text with one for each; the control left
    out.

    Raises:
        ValueError: a dose is no finite number, or there are not as many as parts.
    """
    perturbing = [part for part in parts if part not in notation.controls]
    if not perturbing:
        return []
    given = _given(text, dose, len(parts), notation.separator)
    if len(given) == len(parts):
        pairs = [(part, number(each)) for part, each in zip(parts, given, strict=True) if part in perturbing]
        if all(math.isfinite(each) for _, each in pairs):
            return pairs
    raise ValueError(
        f"Condition {text!r} has the dose {dose!r}. {_fix(given)}Pass one number, or {len(parts)} joined by "
        f"{notation.separator!r}, finite; 0 where the perturbation is absent."
    )


def check_control_dose(name: str, dose: Any) -> None:
    """Raise ``ValueError`` for an infinite dose of control cells; other values than numbers are usual there."""
    if math.isinf(number(dose)):
        raise ValueError(
            f"The control {name!r} has the dose {dose!r}. The logarithm of 0 is that. Pass doses as they are, in one "
            f"unit, or log1p(dose / unit), and 0 or nothing for the control."
        )


def check_doses(index: Int[np.ndarray, " cells"], written: Sequence[Written], notation: Notation) -> None:
    """Raise ``ValueError`` for doses that make an absent or an opposite perturbation, unless they are asked for.

    Args:
        index: position in `written`, per cell.
        written: ways in which conditions are written, doses in names or columns.
        notation: how the data set is written; `allow_doses` says what is asked for.
    """
    named = not notation.needs_control or any(not way.doses for way in written)
    absent = [named and len(way.doses) > 0 and not any(way.doses.values()) for way in written]
    negative = [any(dose < 0 for dose in way.doses.values()) for way in written]
    cells = np.bincount(index, minlength=len(written))
    for kind, found, what in (
        ("zero", absent, f"the dose 0, which would make them the control, and {notation.control!r} is named beside"),
        ("negative", negative, "a dose below 0, which would be the opposite of the perturbation"),
    ):
        ways = np.flatnonzero(found)
        if len(ways) and kind not in notation.allow_doses:
            shown = ", ".join(f"{written[way].text!r} ({cells[way]} cells)" for way in ways[:8].tolist())
            more = f", ... ({len(ways)} in all)" if len(ways) > 8 else ""
            raise ValueError(
                f"{cells[ways].sum()} cells have {what}: {shown}{more}. {_AGAIN}; if it is meant so, pass "
                f"allow_doses=({kind!r},)."
            )


def warn_of_logarithms(columns: Iterable[str | None]) -> None:
    """Warn of columns of doses that are logarithms by their names, but for those of 1 + dose."""
    for name in columns:
        if name is not None and _LOGARITHM.search(str(name)) and not re.search(r"\+ *1|1 *\+", str(name)):
            logging.warning(
                "The doses in %r are logarithms by its name. Effects are taken in proportion to them, and 0 stands for "
                "absent, which bare logarithms do not keep: pass doses as they are, or log1p(dose / unit).",
                name,
            )


def number(dose: Any) -> float:
    """Read a dose as a number; NaN for what is none."""
    if isinstance(dose, str) and not NUMBER.fullmatch(dose.strip()):
        return math.nan
    try:
        return float(dose)
    except (TypeError, ValueError):
        return math.nan


def unit_of(text: str) -> str | None:
    """Return what follows the number in ``"10 uM"``; None for anything else."""
    found = NUMBER.match(text.strip())
    rest = text.strip()[found.end() :].strip() if found else ""
    return rest or None


def _given(text: str, dose: Any, parts: int, separator: str) -> list[Any]:
    """One dose for each part: all of a text, or the same for all."""
    if not isinstance(dose, str):
        return [dose] * parts
    pieces = split_sum(dose, separator)
    if math.isnan(number(dose)):
        return pieces * parts if len(pieces) == 1 else pieces
    if len(pieces) == parts > 1 and not any(math.isnan(number(piece)) for piece in pieces):
        raise ValueError(
            f"Condition {text!r} has the dose {dose!r}: one number, or {parts} joined by {separator!r}. Join names and "
            f"doses by something that is in no number, such as ' & ', and pass it as separator=."
        )
    return [dose] * parts


def _fix(given: Sequence[Any]) -> str:
    texts = [each for each in given if isinstance(each, str)]
    if any(_DECIMAL_COMMA.fullmatch(text.strip()) for text in texts):
        return "Write the decimal comma as a point (pandas.read_csv: decimal=','). "
    unit = next((unit for text in texts if (unit := unit_of(text))), None)
    return f"Take off the unit {unit!r}, and convert all doses to one. " if unit else ""
