"""The cases of `never_worse.py`: simulated worlds of six kinds, and every real data set."""

import dataclasses
import functools
import random
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import numpy as np

from experiments.configs import bodenmiller as stimulated
from experiments.configs.mapk_rnai import held_out_pairs
from experiments.lab import studies
from pdae_jax import from_arrays, hold_out, simulate
from pdae_jax.data import datasets
from pdae_jax.data.norman_pairs import Law, norman_pairs, split_pairs
from pdae_jax.types import PerturbationData

TRUE_CELLS = 2000  # of each held-out condition of a simulated world
MIN_CELLS = 150  # of a pair of Bodenmiller's data that is held out
NUM_VALIDATION = 3  # pairs of it that choose the step while another one is held out


class Case(NamedTuple):
    """One fit: what it is trained on, what chooses its step, what it is judged on."""

    kind: str
    name: str  # which of its kind: a seed, or the held-out condition
    train: PerturbationData
    validation: PerturbationData | None  # None: the fit chooses by itself
    test: PerturbationData
    source: dict[str, str]  # held-out condition -> training condition whose cells are translated; else the control


def simulated(kind: str, seed: int) -> Case:
    """A world of one kind, with fresh cells of its truth as the test."""
    variant = VARIANTS[kind](seed)
    key_world, key_truth = jax.random.split(jax.random.key(seed))
    simulation = simulate(key_world, labels=[*variant.train, *variant.validation], **variant.world)
    train, validation = hold_out(simulation.data, list(variant.validation))
    test = studies.fresh_cells(key_truth, simulation, list(variant.test), TRUE_CELLS)
    return Case(kind, str(seed), train, validation, test, {})


def _clean(seed: int) -> studies.Variant:
    return next(studies.accuracy())


def _small(**world: Any) -> Callable[[int], studies.Variant]:
    return lambda seed: studies.variant("", world=world)


def _wide(seed: int) -> studies.Variant:
    """100 features, nearly linear in six latents, 200 cells: the additive model is nearly right."""
    names = [f"p{i}" for i in range(8)]
    pairs = [f"{a}+{b}" for i, a in enumerate(names) for b in names[i + 1 :]]
    np.random.default_rng(seed).shuffle(pairs)
    world = {
        "latent_dim": 6,
        "observed_dim": 100,
        "num_perturbations": 8,
        "cells_per_condition": 200,
        "mixing": "network",
        "nonlinearity": 0.4,
        "shift_scale": 1.5,
        "noise": "gaussian",
        "noise_scale": 0.3,
    }
    test = dict.fromkeys(pairs[11:19], "in span")
    return studies.Variant("", world, (*names, *pairs[:8]), test, tuple(pairs[8:11]), {})


VARIANTS: dict[str, Callable[[int], studies.Variant]] = {
    "clean": _clean,
    "noise": _small(observed_dim=20, noise="gaussian", noise_scale=0.5),
    "counts": _small(observed_dim=20, noise="counts"),
    "wide": _wide,
    "few cells": _small(cells_per_condition=100),
    "interactions": _small(interaction=1.0),
}


def norman(seed: int, *, cells: int = 100, share: float = 1.0) -> Case:
    """One split of the semi-real pairs; a random `share` of the training pairs is kept."""
    data, law = norman_pairs(cells_per_condition=cells), Law()
    held_out, judged = split_pairs(seed)
    train, validation = hold_out(hold_out(data, held_out)[0], judged)
    pairs = [name for name in train.conditions if "+" in name]
    order = np.random.default_rng(seed).permutation(len(pairs))
    left_out = {pairs[i] for i in order[round(share * len(pairs)) :]}
    train = train.select([name for name in train.conditions if name not in left_out])
    return Case(
        "norman_pairs",
        norman_name(seed, cells=cells, share=share),
        train,
        validation,
        law.true_cells(train, held_out),
        {},
    )


def norman_name(seed: int, *, cells: int = 100, share: float = 1.0) -> str:
    """``split 1``, ``split 1, 30 cells``, ``split 1, 50% of the pairs``."""
    return f"split {seed}" + f", {cells} cells" * (cells != 100) + f", {share:.0%} of the pairs" * (share != 1.0)


def norman_devel() -> Iterator[Callable[[], Case]]:
    """Every pair of the small real subset with both singles measured, held out in turn; the others validate."""
    data = datasets.norman_devel()
    singles = {str(c) for c, a in zip(data.conditions, data.labels, strict=True) if np.count_nonzero(a) == 1}
    pairs = [c for c in data.conditions if "+" in c and set(c.split("+")) <= singles]

    def case(pair: str) -> Case:
        rest, test = hold_out(data, pair)
        train, validation = hold_out(rest, [p for p in pairs if p != pair])
        return Case("norman_devel", pair, train, validation, test, {})

    return (lambda pair=pair: case(pair) for pair in pairs)


def bodenmiller() -> Iterator[Callable[[], Case]]:
    """Yield every (stimulation, cell type) pair, unstimulated cells of the type translated."""
    data = datasets.bodenmiller(cell_types=datasets.COMMON_CELL_TYPES)

    def case(pair: str, validating: tuple[str, ...]) -> Case:
        rest, test = hold_out(data, pair)
        train, validation = hold_out(rest, validating)
        sources = {name: source_of(name) for name in (pair, *validating)}
        return Case("bodenmiller", pair, train, validation, test, sources)

    return (functools.partial(case, *fold) for fold in folds(data))


def folds(data: PerturbationData) -> list[tuple[str, tuple[str, ...]]]:
    """List the pairs that have enough cells, each with the next three of these as its validation pairs."""
    measured = [pair for pair in order_of_pairs() if pair in data.conditions and len(data.cells(pair)) >= MIN_CELLS]
    circle = measured + measured[:NUM_VALIDATION]
    return [(pair, tuple(circle[i + 1 : i + 1 + NUM_VALIDATION])) for i, pair in enumerate(measured)]


def order_of_pairs() -> list[str]:
    """List all pairs in one fixed order: validation pairs of the config first, its test pairs last."""
    test, validation = stimulated.held_out_pairs()
    types = [f" & {name}" * (name != "cd4+") for name in datasets.COMMON_CELL_TYPES]
    pairs = sorted(f"{stimulation}{cell_type}" for stimulation in datasets.STIMULATIONS for cell_type in types)
    rest = [pair for pair in pairs if pair not in (*test, *validation)]
    random.Random(0).shuffle(rest)
    return [*validation, *rest, *test]


def source_of(pair: str) -> str:
    """Name the unstimulated cells of the same type; of cd4+, the reference, which has no label, the control."""
    return pair.split(" & ")[1] if " & " in pair else "unstimulated"


def combinations(
    kind: str, gbm: str | None = None
) -> Iterator[tuple[PerturbationData, str, Callable[[str], str], tuple[str, ...]]]:
    """Yield data, a combination to hold out, the source of each combination, and those that validate a fit.

    Args:
        kind: ``bodenmiller``, ``norman_devel`` or ``gbm_panobinostat``: slices of five glioblastomas with and without a
            drug; each patient has its own controls.
        gbm: of the last the file, an `.npz` with counts, patient and condition of cells.
    """
    if kind == "bodenmiller":
        data = datasets.bodenmiller(cell_types=datasets.COMMON_CELL_TYPES)
        yield from ((data, pair, source_of, validating) for pair, validating in folds(data))
    elif kind == "norman_devel":
        data = datasets.norman_devel()
        pairs = [c for c in data.conditions if "+" in c and set(c.split("+")) <= set(data.conditions)]
        for pair in pairs:
            yield data, pair, lambda _: data.control, tuple(c for c in pairs if c != pair)
    else:
        if gbm is None:
            raise ValueError("Pass --gbm, the file of the slices.")
        file = np.load(gbm)
        patients = sorted(set(file["patient"].tolist()))
        for patient, reference, other in zip(patients, *(patients[i:] + patients[:i] for i in (1, 2)), strict=True):
            names = [
                " & ".join(filter(None, (drug.replace("ctrl", ""), of.replace(reference, "")))) or "ctrl"
                for drug, of in zip(file["condition"].tolist(), file["patient"].tolist(), strict=True)
            ]  # the vehicle of `reference` is the control
            data = from_arrays(file["counts"], conditions=names, control="ctrl", separator=" & ", normalize=True)
            held_out, judged = (f"panobinostat & {of}" for of in (patient, other))
            yield data, held_out, lambda pair: pair.split(" & ")[1], (judged,)


def mapk_rnai(genes: int = 30) -> Case:
    """The pairs of the first genes; wells of a pair's first gene are translated."""
    data = datasets.mapk_rnai(genes=genes, double_dose=False)
    held_out, judged = held_out_pairs(genes)
    rest, test = hold_out(data, list(held_out))
    train, validation = hold_out(rest, list(judged))
    sources = {pair: pair.split("+")[0] for pair in (*held_out, *judged)}
    return Case("mapk_rnai", f"{genes} genes", train, validation, test, sources)


def all_cases(kinds: list[str], *, first_seed: int, number: int) -> Iterator[tuple[str, str, Callable[[], Case]]]:
    """Kind, name and maker of every case of some kinds."""
    for kind in kinds:
        if kind in VARIANTS:
            for seed in range(first_seed, first_seed + number):
                yield kind, str(seed), lambda kind=kind, seed=seed: simulated(kind, seed)
        elif kind == "norman_pairs":
            for seed in range(1, 6):
                yield kind, f"split {seed}", lambda seed=seed: norman(seed)
        elif kind == "mapk_rnai":
            yield kind, "30 genes", mapk_rnai
        else:
            for make in {"norman_devel": norman_devel, "bodenmiller": bodenmiller}[kind]():
                case = make()
                yield kind, case.name, make


KINDS = (*VARIANTS, "norman_devel", "bodenmiller", "norman_pairs", "mapk_rnai")
# all but those whose held-out conditions have sources of their own, which a fit that chooses does not know
CHOOSING = tuple(kind for kind in KINDS if kind not in ("bodenmiller", "mapk_rnai"))


def without_validation(case: Case) -> Case:
    """The same case with its validation conditions given back to training; of one of the `CHOOSING` kinds."""
    train, more = case.train, case.validation
    assert more is not None and isinstance(train.x, np.ndarray) and not case.source
    sizes = None
    if train.size_factors is not None and more.size_factors is not None:
        sizes = np.concatenate([train.size_factors, more.size_factors])
    joined = dataclasses.replace(
        train,
        x=np.concatenate([train.x, more.x]),
        condition_index=np.concatenate([train.condition_index, more.condition_index + train.num_conditions]),
        labels=np.concatenate([train.labels, more.labels]),
        conditions=(*train.conditions, *more.conditions),
        size_factors=sizes,
    )
    return case._replace(train=joined, validation=None)


if __name__ == "__main__":
    raise SystemExit("This is no script. Run python experiments/lab/never_worse.py, which uses it.")
