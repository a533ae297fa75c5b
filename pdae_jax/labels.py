"""The grammar of labels: ``"A:0.5+B"``."""

import re
import unicodedata
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

from pdae_jax.spelling import first_names, nearest_names, unquoted

#: A perturbation label as users write it: ``"A+B"``, ``{"A": 1.0, "B": 0.5}`` or a vector ``[perturbations]``; a number
#: is a name, as donors and guides have. What is in it is checked where it is read.
LabelLike = str | Real | Mapping[Any, Any] | Sequence[Any] | np.ndarray | Array

#: A dose as it is written: float() would also take "1_000".
NUMBER = re.compile(r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|(?i:inf(?:inity)?|nan))")

_TWICE = re.compile(r"(.+)__\1(?:_[0-9]+)?")  # a pair of guides, as Norman et al. 2019 write it
_PLUS = re.compile(r"(:\s*|:\s*[-.0-9]+[eE]|^\s*[-.0-9]+[eE])\+(?=[0-9.])")  # of a number: "A:1e+05", "A:+1"
_AFTER_COLON = re.compile(rf":\s*({NUMBER.pattern}|[-+]?[0-9]+,[0-9]+)")
_HELD = 1e-6  # relative error of a dose in float32 from which on it is another dose


def parse_label(
    spec: LabelLike, perturbations: Sequence[str], *, control: str = "control", separator: str = "+"
) -> Float[np.ndarray, " perturbations"]:
    """Return the label vector of a combination, in the order of `perturbations`.

    Args:
        spec: ``"A+B"`` (dose 1 each), ``"A:0.5+B"`` (with doses), in any order and with spaces around names;
            ``{"A": 1.0, "B": 0.5}``; the name of the control (zero vector), which in a combination stands for nothing;
            a number that is a name; or a vector ``[perturbations]``.
        perturbations: names of the label columns. They are found whole, the longest first, whatever they contain.
        control: name that stands for the zero label.
        separator: joins names in a string.

    Raises:
        KeyError: an unknown perturbation; the message names it and the nearest known ones.
        ValueError: a vector of the wrong length, a list of names, a dose that is not finite or that float32 cannot
            hold, a name given twice.
    """
    if isinstance(spec, Real | str):
        spec = as_name(spec, [*perturbations, control])
    if isinstance(spec, str):
        doses = dict(_parse_string(spec, perturbations, control, separator))
    elif isinstance(spec, Mapping):
        doses = dict(_parse_dict(spec, perturbations, control))
    else:
        doses = dict(zip(perturbations, _parse_vector(spec, perturbations, separator), strict=True))
    for name, dose in doses.items():
        fault = dose_fault(dose)
        if fault:
            raise ValueError(f"Label {spec!r}: the dose of {name!r} {fault}")
    return np.array([doses.get(name, 0.0) for name in perturbations], dtype=np.float32)


def dose_fault(dose: float) -> str | None:
    """Say why a dose cannot be part of a label, with the fix; None for one that can. Labels are float32."""
    if not np.isfinite(dose):
        return f"is {dose}, not finite. Doses are real numbers, 0 for absent."
    with np.errstate(over="ignore", under="ignore"):
        held = float(np.float32(dose))
    if abs(held - dose) <= _HELD * abs(dose):
        return None
    return f"is {dose}, which float32 holds as {held:g}. Choose another unit, in which doses are nearer to 1."


def as_name(value: object, known: Iterable[str]) -> str:
    """Return a name as text. A number is the known name that reads as it, ``"1.50"`` of 1.5, else as Python writes it.

    Letters with accents are one character each, as in names that were read, unless known ones are otherwise.
    """
    names, text = list(known), str(value)
    if not text.isascii() and all(unicodedata.is_normalized("NFC", name) for name in names):
        return unicodedata.normalize("NFC", text)
    if not isinstance(value, Real) or isinstance(value, bool) or text in names:
        return text
    same = [name for name in names if NUMBER.fullmatch(name.replace("_", "")) and float(name) == value]
    return same[0] if len(same) == 1 else text


def format_label(
    label: Float[np.ndarray, " perturbations"],
    perturbations: Sequence[str],
    *,
    control: str = "control",
    separator: str = "+",
) -> str:
    """Return the name of a label, ``"A+B:0.5"``; `parse_label` reads it back."""
    parts = [
        name if dose == 1 else f"{name}:{dose:g}" for name, dose in zip(perturbations, label, strict=True) if dose != 0
    ]
    return separator.join(parts) if parts else control


def count_perturbations(
    labels: Float[np.ndarray, "conditions perturbations"], perturbations: Sequence[str], strata: Collection[str]
) -> Int[np.ndarray, " conditions"]:
    """Return the number of perturbations of each label; strata are none."""
    return np.count_nonzero(without_strata(labels, perturbations, strata), axis=1)


def without_strata(
    labels: Float[np.ndarray, "*batch perturbations"], perturbations: Sequence[str], strata: Collection[str]
) -> Float[np.ndarray, "*batch perturbations"]:
    """Return labels with the doses of perturbations only, 0 in the columns of strata."""
    return np.where([name in strata for name in perturbations], np.float32(0), labels)


def split_name(name: str, separator: str, known: Collection[str] = ()) -> list[str]:
    """Return the parts of a combination without spaces around them; known names are found whole, the longest first.

    Where ``_`` joins, a name written twice, ``"A_B__A_B"``, is read once: so are pairs of guides in GSE133344.
    """
    twice = _TWICE.fullmatch(name.strip()) if separator == "_" and name not in known else None
    name = twice.group(1) if twice else name
    pieces, whole = split_sum(name, separator), {each for each in known if separator in each}
    parts, start = [], 0
    while start < len(pieces):
        stop = len(pieces) if whole else start + 1
        while stop > start + 1 and split_dose(separator.join(pieces[start:stop]), whole)[0] not in whole:
            stop -= 1
        parts.append(separator.join(pieces[start:stop]).strip())
        start = stop
    return parts


def split_sum(text: str, separator: str) -> list[str]:
    """Cut a text into pieces; the plus of a number, as in ``"A:1e+05"``, joins nothing."""
    return (_PLUS.sub(r"\1", text) if separator == "+" else text).split(separator)


def check_uncut(text: object, parts: Sequence[str], separator: str) -> None:
    """Raise ``ValueError`` where the separator has cut a number after a colon: ``"A:0.5"`` by a point."""
    numbers = [found.group(1).rstrip(".") for found in _AFTER_COLON.finditer(str(text))]
    for number in [] if separator == "+" else numbers:  # whose plus joins nothing, see `split_sum`
        cut = separator in number and not any(number in part for part in parts)
        alone = separator.strip() == ":" and not number.isdigit() and number in parts
        if cut or alone:
            raise ValueError(
                f"{text!r}: the separator {separator!r} would cut off the number {number!r}. Join names by something "
                f"that is in no dose, such as '+', and pass it as separator=; or pass perturbations=<all names>, which "
                f"are found whole."
            )


def split_dose(part: str, known: Collection[str]) -> tuple[str, float]:
    """Return a part's name and dose: the number after the last colon of a known name, unless that is in the name,
    else 1.
    """
    part = part.strip()
    head, _, tail = (text.strip() for text in part.rpartition(":"))
    if part in known or head not in known or not NUMBER.fullmatch(tail):
        return part, 1.0
    return head, float(tail)


def said_twice(spec: object, name: str) -> str:
    """Say what to do about a perturbation that a condition or label names twice."""
    return f"{spec!r} names {name!r} twice. Write it once; '{name}:2' would be twice its dose."


def _parse_string(spec: str, perturbations: Sequence[str], control: str, separator: str) -> Iterator[tuple[str, float]]:
    seen: set[str] = set()
    known = (*perturbations, control)
    parts = [] if spec.strip() == control else split_name(spec, separator, known)
    check_uncut(spec, parts, separator)
    for part in parts:
        name, dose = split_dose(part, known)
        if name == control:
            continue
        if name not in known:
            raise KeyError(_unknown(name, perturbations, separator))
        if name in seen:
            raise ValueError(said_twice(spec, name))
        seen.add(name)
        yield name, dose


def _parse_dict(spec: Mapping[Any, Any], perturbations: Sequence[str], control: str) -> Iterator[tuple[str, float]]:
    seen: set[str] = set()
    for key, dose in spec.items():
        name = as_name(key, [*perturbations, control]).strip()
        if name == control:
            continue
        if name not in perturbations:
            raise KeyError(_unknown(key, perturbations))
        if name in seen:
            raise ValueError(said_twice(spec, name))
        seen.add(name)
        try:
            yield name, float(dose)
        except (TypeError, ValueError):
            raise ValueError(f"Label {spec!r}: the dose of {name!r} is {dose!r}. Pass a number.") from None


def _parse_vector(spec: Any, perturbations: Sequence[str], separator: str) -> list[float]:
    try:
        vector = np.asarray(spec)
    except ValueError:  # of lists of other lengths
        vector = np.asarray(None)
    if np.ma.is_masked(spec) or vector.dtype.kind == "c":
        raise ValueError(f"Label {spec!r} has doses that are missing or complex. Pass real numbers, 0 for absent.")
    if vector.dtype.kind in "USO":
        names = spec if isinstance(spec, list | tuple) else ["A", "B"]
        raise ValueError(
            f"Label {spec!r} is no vector of doses. Write a combination as one name, "
            f"{separator.join(map(str, names))!r}, or with doses, {dict.fromkeys(map(str, names), 1.0)}."
        )
    if vector.shape != (len(perturbations),):
        raise ValueError(
            f"Label of shape {vector.shape}, but there are {len(perturbations)} perturbations "
            f"{first_names(perturbations)}. Pass one dose per perturbation, or a dict of names to doses."
        )
    return vector.astype(np.float64).tolist()


def _unknown(name: object, perturbations: Sequence[str], separator: str = "") -> str:
    several = unquoted(str(name), perturbations.__contains__)
    parts = [part.strip() for part in str(name).split("+")] if separator not in ("", "+") else []
    if len(parts) > 1 and all(split_dose(part, perturbations)[0] in perturbations for part in parts):
        return f"Unknown perturbation {name!r}. Names are joined by {separator!r} here: {separator.join(parts)!r}."
    return (
        f"Unknown perturbation {name!r}; {several or nearest_names(str(name), perturbations)}. Nothing was measured "
        f"under it, so its effect cannot be predicted: pass one of the perturbations of the training data."
    )
