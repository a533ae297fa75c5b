"""CyTOF of human blood cells under stimulation (Bodenmiller et al., Nature Biotechnology 2012).

    make run CONFIG=experiments/configs/bodenmiller.py[:stratum]

Observations are the 14 functional markers, conditions are (stimulation, cell type) pairs of the six cell types with at
least 150 cells throughout (49,619 of the 51,936 cells; the others have as few as one), and five pairs are held out:
no cell of a held-out pair is seen, its stimulation and its cell type are, in other pairs. The split was drawn once, by
``random.Random(0)``, before any model was fitted. The recipe is the default one.

With ``:stratum`` all stimulated cells of one cell type are held out, nk cells by default: what does a stimulation do to
a cell type that was only ever measured without it? ``--config.split.seed=1`` holds out the next type.
"""

import random
from typing import NamedTuple

from pdae_jax.cli import base
from pdae_jax.data.datasets import COMMON_CELL_TYPES, STIMULATIONS
from pdae_jax.types import PerturbationData

NUM_VALIDATION = 3
NUM_SEARCHED = 6  # pairs at the start of the order that earlier recipes were chosen with
MIN_CELLS = 150
STRATA = ("nk", *(name for name in COMMON_CELL_TYPES if name not in ("nk", "cd4+")))  # cd4+ cells are the control


def held_out_pairs(seed: int = 0) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Five test and three validation pairs among the common cell types, each pair once."""
    types = [name for name in COMMON_CELL_TYPES if name != "cd4+"]  # the reference type has no label of its own
    pairs = sorted(f"{stimulation} & {cell_type}" for stimulation in STIMULATIONS for cell_type in types)
    chosen = random.Random(seed).sample(pairs, 8)
    return tuple(chosen[:5]), tuple(chosen[5:])


class Fold(NamedTuple):
    """One pair to be predicted."""

    pair: str
    validation: tuple[str, ...]
    searched: bool  # the pair had a part in the choice of hyperparameters


def order_of_pairs() -> list[str]:
    """All pairs in one fixed order: validation pairs of the config first, its test pairs last."""
    test, validation = held_out_pairs()
    pairs = sorted(_pair(stimulation, kind) for stimulation in STIMULATIONS for kind in COMMON_CELL_TYPES)
    rest = [pair for pair in pairs if pair not in (*test, *validation)]
    random.Random(0).shuffle(rest)
    return [*validation, *rest, *test]


def folds(data: PerturbationData) -> list[Fold]:
    """The pairs that have enough cells, each with the next three of these as its validation pairs."""
    order = order_of_pairs()
    searched = order[:NUM_SEARCHED]
    measured = [pair for pair in order if pair in data.conditions and len(data.cells(pair)) >= MIN_CELLS]
    circle = measured + measured[:NUM_VALIDATION]
    return [
        Fold(pair, tuple(circle[i + 1 : i + 1 + NUM_VALIDATION]), pair in searched) for i, pair in enumerate(measured)
    ]


def source_of(pair: str) -> str:
    """Cells of the same type, unstimulated; cd4+ cells, the reference, have no label and so are the control."""
    return pair.split(" & ")[1] if " & " in pair else "unstimulated"


def _pair(stimulation: str, cell_type: str) -> str:
    return stimulation if cell_type == "cd4+" else f"{stimulation} & {cell_type}"


def get_config(arg: str = "default"):
    """The argument ``smoke`` trains for a few steps only, ``stratum`` holds out a cell type; flags change values."""
    config = base.get_config()
    config.data.name = "bodenmiller"
    config.data.cell_types = COMMON_CELL_TYPES
    config.split.test, config.split.validation = held_out_pairs()
    # what would these cells do under that stimulation? Start from the same cell type, unstimulated
    sources = {f"{s} & {t}": t for s in STIMULATIONS for t in COMMON_CELL_TYPES if t != "cd4+"}
    with config.evaluation.ignore_type():
        config.evaluation.source = sources
    if arg == "smoke":
        base.shorten(config)
    elif arg == "stratum":
        config.split.update(test=(), validation=(), protocol="stratum", strata=STRATA, seed=0)
    elif arg != "default":
        raise ValueError(f"Unknown argument {arg!r}; pass bodenmiller.py, bodenmiller.py:stratum or :smoke.")
    return config
