"""Splits that the field uses, by name: which combinations are held out, and what of their parts was seen."""

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import NamedTuple

import numpy as np

from pdae_jax.design.design import design_of
from pdae_jax.labels import as_name
from pdae_jax.spelling import first_names, nearest_names, unquoted
from pdae_jax.types import PerturbationData

PROTOCOLS = {
    "doubles": "half of the pairs whose singles were measured; all singles train (Ahlmann-Eltze et al. 2025)",
    "tenth": "a tenth of these pairs, one of ten folds by the seed; all singles train (leave-combinations-out folds)",
    "seen2": "a quarter of these pairs: both singles train (GEARS)",
    "seen1": "pairs of a quarter of the perturbations with others, of which nothing else trains (GEARS)",
    "seen0": "pairs among a half of the perturbations, of which nothing else trains (GEARS)",
    "stratum": "all perturbations of one stratum, a cell type or line; its unperturbed cells train (scGen)",
}
_UNSEEN = {"seen1": 0.25, "seen0": 0.5}  # of the perturbations that pairs are made of
_FOLDS = 10
_VALIDATION = 0.1  # of the pairs that train


class HeldOut(NamedTuple):
    """Names of conditions; those in no list train."""

    test: tuple[str, ...]
    validation: tuple[str, ...]
    left_out: tuple[str, ...]  # they would give away what a protocol has unseen
    source: Mapping[str, str] = {}  # condition -> whose cells are translated to it; empty: the control's


def held_out(
    data: PerturbationData, protocol: str, seed: int = 0, strata: str | Real | Sequence[str | Real] = ()
) -> HeldOut:
    """Choose the conditions that a protocol holds out.

    Args:
        data: the data.
        protocol: a key of `PROTOCOLS`.
        seed: of the random choice; of ``tenth`` the fold is ``seed % 10`` and the order that of ``seed // 10``; of
            ``stratum`` it is number ``seed`` of the strata, round and round.
        strata: of ``stratum``, the label columns that are strata: ``("nk", "cd8+")``, in data whose conditions are
            pairs of a perturbation and a cell type. The stratum of the control has no column, and stays. Default
            `PerturbationData.strata`. The other protocols hold out combinations of perturbations, in all strata.

    Returns:
        Names in the order of the data. A tenth of the pairs that train, at least one, is for validation.

    Raises:
        KeyError: a stratum is no label column.
        ValueError: an unknown protocol, or one that leaves no pair to test; strata that are missing, or not measured
            without a perturbation.
    """
    if protocol not in PROTOCOLS:
        raise ValueError(f"No protocol {protocol!r}; {nearest_names(protocol, list(PROTOCOLS))}.")
    if protocol == "stratum":
        return _stratum_held_out(data, seed, (strata,) if isinstance(strata, str | Real) else strata or data.strata)
    design, present = design_of(data), data.labels != 0
    first = design.across_strata
    effects = present & ~np.isin(data.perturbations, data.strata)
    whole = ~np.isin(first, first[np.any(present & ~design.measured_alone, axis=1)])  # in all strata
    rows = np.flatnonzero(whole & (design.orders == 2) & (first == np.arange(data.num_conditions)))
    pairs = [data.conditions[row] for row in rows]  # one of each in whatever stratum
    random = np.random.default_rng(seed // _FOLDS if protocol == "tenth" else seed)
    left_out: list[str] = []
    if protocol in _UNSEEN:
        used = np.flatnonzero(effects[rows].any(axis=0))
        unseen = random.permutation(used)[: round(_UNSEEN[protocol] * len(used))]
        touched = present[:, unseen].sum(axis=1)
        wanted = 1 if protocol == "seen1" else 2
        test = [c for c in pairs if touched[data.index(c)] == wanted]
        left_out = [c for c, n in zip(data.conditions, touched, strict=True) if n and c not in test]
    else:
        shuffled = [pairs[i] for i in random.permutation(len(pairs))]
        if protocol == "tenth":
            test = shuffled[seed % _FOLDS :: _FOLDS]
        else:
            test = shuffled[: round({"doubles": 0.5, "seen2": 0.25}[protocol] * len(shuffled))]
    if not test:
        raise ValueError(
            f"Protocol {protocol!r} leaves no pair to test: {len(pairs)} pairs have both singles measured. Hold out "
            f"conditions by name."
        )
    validation = _some([c for c in pairs if c not in test and c not in left_out], random)
    test, unseen, out = (
        tuple(c for c, row in zip(data.conditions, first, strict=True) if data.conditions[row] in set(chosen))
        for chosen in (test, validation, left_out)
    )
    return HeldOut(test, unseen, out)


def _stratum_held_out(data: PerturbationData, seed: int, strata: Sequence[str | Real]) -> HeldOut:
    """One stratum without its perturbed conditions; each stratum's conditions are translated from its plain cells."""
    if not strata:
        raise ValueError(
            f"Protocol 'stratum' needs strata, names of label columns that are cell types or lines; the columns are "
            f"{first_names(data.perturbations)}. In a config: config.split.strata."
        )
    plain = {}
    strata = [as_name(name, data.perturbations) for name in strata]
    for name in strata:
        if name not in data.perturbations:
            near = unquoted(name, data.perturbations.__contains__) or nearest_names(name, data.perturbations)
            raise KeyError(f"No stratum {name!r} among the label columns; {near}.")
        if not data.has({name: 1.0}):
            raise ValueError(
                f"Stratum {name!r} has no condition without a perturbation, whose cells could be translated. Leave it "
                f"out of the strata."
            )
        plain[name] = data.conditions[data.index({name: 1.0})]
    present = data.labels != 0
    source = {}
    for condition, row in zip(data.conditions, present, strict=True):
        own = [name for name in strata if row[data.perturbations.index(name)]]
        if len(own) == 1 and row.sum() > 1:
            source[condition] = plain[own[0]]
    chosen = plain[strata[seed % len(strata)]]
    test = [c for c, start in source.items() if start == chosen]
    if not test:
        raise ValueError(f"Stratum {chosen!r} has no perturbed condition to hold out. Leave it out of the strata.")
    validation = _some([c for c in source if c not in test], np.random.default_rng(seed))
    return HeldOut(tuple(test), tuple(c for c in source if c in validation), (), source)


def _some(rest: list[str], random: np.random.Generator) -> set[str]:
    """A tenth of the pairs that train, at least one, for validation; none where only one is left."""
    number = max(1, round(_VALIDATION * len(rest))) if len(rest) > 1 else 0
    return {rest[i] for i in random.permutation(len(rest))[:number]}
