"""The grammar of labels: ``"A:0.5+B"``."""

import re
from collections.abc import Collection, Mapping, Sequence

import numpy as np
from jaxtyping import Array, Float

from pdae_jax.spelling import first_names, nearest_names

#: A perturbation label as users write it: ``"A+B"``, ``{"A": 1.0, "B": 0.5}`` or a vector ``[perturbations]``.
LabelLike = str | Mapping[str, float | int] | Sequence[float | int] | np.ndarray | Array

#: A dose as it is written: float() would also take "1_000".
NUMBER = re.compile(r"[-+]?(?:(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?|inf|nan)")

_TWICE = re.compile(r"(.+)__\1(?:_[0-9]+)?")  # a pair of guides, as Norman et al. 2019 write it


def parse_label(
    spec: LabelLike, perturbations: Sequence[str], *, control: str = "control", separator: str = "+"
) -> Float[np.ndarray, " perturbations"]:
    """Label vector of a combination, in the order of `perturbations`.

    Args:
        spec: ``"A+B"`` (dose 1 each), ``"A:0.5+B"`` (with doses), in any order and with spaces around names;
            ``{"A": 1.0, "B": 0.5}``; the name of the control (zero vector), which in a combination stands for nothing;
            or a vector ``[perturbations]``.
        perturbations: names of the label columns. They are found whole, the longest first, whatever they contain.
        control: name that stands for the zero label.
        separator: joins names in a string.

    Raises:
        KeyError: an unknown perturbation; the message names it and the nearest known ones.
        ValueError: a vector of the wrong length, a dose that is not finite, a name given twice.
    """
    if isinstance(spec, str):
        return _parse_string(spec, perturbations, control, separator)
    if isinstance(spec, Mapping):
        vector = np.zeros(len(perturbations), dtype=np.float32)
        for name, dose in spec.items():
            known = name.strip() if isinstance(name, str) else name
            if known not in perturbations:
                raise KeyError(_unknown(name, perturbations))
            vector[list(perturbations).index(known)] = dose
    else:
        vector = np.asarray(spec, dtype=np.float32)
        if vector.shape != (len(perturbations),):
            raise ValueError(
                f"Label of shape {vector.shape}, but there are {len(perturbations)} perturbations "
                f"{first_names(perturbations)}. Pass one dose per perturbation, or a dict of names to doses."
            )
    if not np.all(np.isfinite(vector)):
        raise ValueError(f"Label {spec!r} has a dose that is not finite. Doses are real numbers, 0 for absent.")
    return vector


def format_label(
    label: Float[np.ndarray, " perturbations"],
    perturbations: Sequence[str],
    *,
    control: str = "control",
    separator: str = "+",
) -> str:
    """The name of a label, ``"A+B:0.5"``; `parse_label` reads it back."""
    parts = [
        name if dose == 1 else f"{name}:{dose:g}" for name, dose in zip(perturbations, label, strict=True) if dose != 0
    ]
    return separator.join(parts) if parts else control


def split_name(name: str, separator: str, known: Collection[str] = ()) -> list[str]:
    """The parts of a combination without spaces around them; known names are found whole, the longest first.

    Where ``_`` joins, a name written twice, ``"A_B__A_B"``, is read once: so are pairs of guides in GSE133344.
    """
    twice = _TWICE.fullmatch(name.strip()) if separator == "_" and name not in known else None
    name = twice.group(1) if twice else name
    pieces, whole = name.split(separator), {each for each in known if separator in each}
    parts, start = [], 0
    while start < len(pieces):
        stop = len(pieces) if whole else start + 1
        while stop > start + 1 and split_dose(separator.join(pieces[start:stop]), whole)[0] not in whole:
            stop -= 1
        parts.append(separator.join(pieces[start:stop]).strip())
        start = stop
    return parts


def split_dose(part: str, known: Collection[str]) -> tuple[str, float]:
    """A part's name and dose: the number after the last colon of a known name, unless that is in the name, else 1."""
    part = part.strip()
    head, _, tail = (text.strip() for text in part.rpartition(":"))
    if part in known or head not in known or not NUMBER.fullmatch(tail):
        return part, 1.0
    return head, float(tail)


def _parse_string(spec: str, perturbations: Sequence[str], control: str, separator: str) -> np.ndarray:
    doses: dict[str, float] = {}
    known = (*perturbations, control)
    for part in [] if spec.strip() == control else split_name(spec, separator, known):
        name, dose = split_dose(part, known)
        if name == control:
            continue
        if name not in known:
            raise KeyError(_unknown(name, perturbations))
        if name in doses:
            raise ValueError(f"{spec!r} names {name!r} twice. Give a dose instead: {name}:2.")
        if not np.isfinite(dose):
            raise ValueError(f"{spec!r}: the dose of {name!r} is {dose}. Doses are real numbers, 0 for absent.")
        doses[name] = dose
    return np.array([doses.get(name, 0.0) for name in perturbations], dtype=np.float32)


def _unknown(name: object, perturbations: Sequence[str]) -> str:
    return (
        f"Unknown perturbation {name!r}; {nearest_names(str(name), perturbations)}. Nothing was measured under it, so "
        f"its effect cannot be predicted: pass one of the perturbations of the training data."
    )
