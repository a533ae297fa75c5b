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

from pdae_jax.cli import base
from pdae_jax.data.datasets import COMMON_CELL_TYPES, STIMULATIONS

STRATA = ("nk", *(name for name in COMMON_CELL_TYPES if name not in ("nk", "cd4+")))  # cd4+ cells are the control


def held_out_pairs(seed: int = 0) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Five test and three validation pairs among the common cell types, each pair once."""
    types = [name for name in COMMON_CELL_TYPES if name != "cd4+"]  # the reference type has no label of its own
    pairs = sorted(f"{stimulation} & {cell_type}" for stimulation in STIMULATIONS for cell_type in types)
    chosen = random.Random(seed).sample(pairs, 8)
    return tuple(chosen[:5]), tuple(chosen[5:])


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
